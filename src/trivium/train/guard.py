"""Asked to stop (Ctrl-C, SIGTERM): finish the step and save where one is under way, leave with a code of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_RESUME = 75
"""Exit code of a run that was asked to stop and saved: the same command goes on from there (EX_TEMPFAIL)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Guard:
    """Ends the process with code 75 at the first signal; while `holding`, the signal is a flag read between steps.

    A second signal ends the process at once, whatever it is doing. The handler itself saves nothing: it may run in the
    middle of an optimizer step. Use as a context manager, in the main thread; the handlers from before come back at
    the end.
    """

    def __init__(self) -> None:
        self.asked = False
        self._holding = False

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the process while a block runs that has something to save and looks at the flag itself."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def __call__(self) -> bool:
        """Say whether the run was asked to stop: what `run_stage` takes as `stop`."""
        return self.asked

    def __enter__(self) -> "Guard":
        self._owner = os.getpid()
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader worker: Ctrl-C is for the trainer alone, which ends its workers by SIGTERM.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        # Not print: the signal may have come in the middle of one.
        if not self._holding:
            os.write(2, b"\nStopped. The same command goes on from here.\n")
            raise SystemExit(EXIT_RESUME)
        os.write(2, b"\nStopping: the step is finished and saved first. Once more to leave at once.\n")
