"""Asked to stop (Ctrl-C, SIGTERM): finish the step, save, and leave with an exit code of its own."""

import os
import signal
from types import FrameType

EXIT_RESUME = 75
"""Exit code of a run that was asked to stop and saved: the same command goes on from there (EX_TEMPFAIL)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Guard:
    """Turns the first signal into a flag that the loop reads between steps; the second one ends the process at once.

    The handler itself saves nothing: it may run in the middle of an optimizer step. Use as a context manager, in the
    main thread; the handlers from before come back at the end.
    """

    def __init__(self) -> None:
        self.asked = False

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
        os.write(2, b"\nStopping: the step is finished and saved first. Once more to leave at once.\n")
