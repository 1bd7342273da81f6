"""What a run shows while it trains: one JSON line a step, TensorBoard scalars, and a progress display."""

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch.utils.tensorboard.writer import SummaryWriter

from trivium.core.errors import CheckpointError
from trivium.core.log import console, note
from trivium.train import parallel
from trivium.train.state import Reading, State

PLAIN_EVERY_S = 10.0
"""Seconds between lines where there is no terminal to redraw: a log file, CI."""
SMOOTHING = 0.05
"""Share of the newest step in the running means of time: some 20 steps count."""


class Meter:
    """Writes `metrics.jsonl` and `tensorboard/` of a run folder, and tells a person how it goes.

    `metrics.jsonl` has exactly one line per step of the run: what lies past the restored step is cut off first, since
    those steps are taken again. A value that is not finite is null, JSON having no word for it. Rank 0 alone writes.
    Use as a context manager; `begin` names each stage, `record` is what `run_stage` calls.
    """

    def __init__(self, folder: Path, state: State) -> None:
        """Open the files of a run folder where the restored, or fresh, state stands.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        self._path = folder / "metrics.jsonl"
        self._silent = parallel.rank() != 0
        if self._silent:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(self._path, state.run_step)
            # Unbuffered: a buffer that a full disk refused would raise once more when it is closed.
            self._lines = self._path.open("ab", buffering=0)
            # purge_step: TensorBoard then hides what an earlier process wrote past the restored step.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=state.run_step + 1, flush_secs=10)
        except OSError as error:
            raise self._unwritable(error) from error
        self._bar = _progress() if console.is_terminal else None
        self._pace = _Pace()

    def __enter__(self) -> "Meter":
        if not self._silent and self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.stop()
        self._lines.close()
        with suppress(OSError):  # a full disk has been said already, and TensorBoard's is the lesser copy
            self._board.close()

    def begin(self, state: State, steps: int) -> None:
        """Show that a stage begins, or goes on after a resume."""
        if self._silent:
            return
        self._steps = steps
        self._pace = _Pace()
        if self._bar is not None:
            self._task = self._bar.add_task(state.stage, total=steps, completed=state.step, text="")
        else:
            note(f"stage {state.stage}: step {state.step} of {steps}")

    def record(self, state: State, reading: Reading) -> None:
        """Write one step down.

        Raises:
            CheckpointError: the disk is full.
        """
        if self._silent:
            return
        line = _line(state, reading)
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            if self._lines.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, value in _scalars(line).items():
                self._board.add_scalar(name, value, state.run_step)
        except OSError as error:
            raise self._unwritable(error) from error
        self._pace.count(reading)
        self._show(state, reading)

    def _show(self, state: State, reading: Reading) -> None:
        text = self._pace.describe(state, reading, self._steps)
        if self._bar is not None:
            self._bar.update(self._task, completed=state.step, text=text)
        elif self._pace.is_due() or state.step == self._steps:
            note(f"{state.stage} {state.step}/{self._steps}  {text}")

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            str(self._path),
            f"{type(error).__name__}: {error.strerror or error}",
            "a file on a disk with room that this user may write",
            "Free some room; the same command then goes on from the last checkpoint.",
        )


class _Pace:
    """Running means of where the time goes."""

    def __init__(self) -> None:
        self._last = self._said = monotonic()
        self._steps = 0
        self._between_s = self._step_s = self._wait_s = self._tokens = 0.0

    def count(self, reading: Reading) -> None:
        now = monotonic()
        self._steps += 1
        # The first steps have a plain mean: an exponential one would hang on to the very first, slowest step.
        new = max(SMOOTHING, 1.0 / self._steps)
        self._between_s += new * (now - self._last - self._between_s)
        self._step_s += new * (reading.step_s - self._step_s)
        self._wait_s += new * (reading.wait_s - self._wait_s)
        self._tokens += new * (sum(reading.tokens.values()) - self._tokens)
        self._last = now

    def is_due(self) -> bool:
        now = monotonic()
        due = self._steps == 1 or now - self._said >= PLAIN_EVERY_S
        self._said = now if due else self._said
        return due

    def describe(self, state: State, reading: Reading, steps: int) -> str:
        losses = "  ".join(f"{name} {value:.4g}" for name, value in reading.loss.items())
        step_s = max(self._step_s, 1e-9)
        left_s = round(self._between_s * (steps - state.step))
        eta = f"{left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d}"
        skipped = f"  {state.skipped} skipped" if state.skipped else ""
        speed = f"{self._tokens / step_s:,.0f} tokens/s  data wait {self._wait_s / step_s:.0%}"
        return f"{losses}  {speed}{skipped}  ETA {eta}"


def _progress() -> Progress:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    return Progress(*columns, TextColumn("{task.fields[text]}", markup=False), console=console)


def _line(state: State, reading: Reading) -> dict[str, Any]:
    num_tokens = sum(reading.tokens.values())
    return {
        "stage": state.stage,
        "step": state.step,
        "run_step": state.run_step,
        "loss": {name: _finite(value) for name, value in reading.loss.items()},
        "total": _finite(reading.total),
        "grad_norm": _finite(reading.grad_norm),
        "lr": reading.lr,
        "tokens": reading.tokens,
        "tokens_per_s": round(num_tokens / max(reading.step_s, 1e-9), 1),
        "data_wait": round(reading.wait_s / max(reading.step_s, 1e-9), 4),
        "skipped": state.skipped,
    }


def _scalars(line: dict[str, Any]) -> dict[str, float]:
    scalars: dict[str, float | None] = {f"loss/{name}": value for name, value in line["loss"].items()}
    scalars |= {f"lr/{name}": value for name, value in line["lr"].items()}
    scalars |= {f"train/{name}": line[name] for name in ("total", "grad_norm", "tokens_per_s", "data_wait", "skipped")}
    return {f"{line['stage']}/{name}": value for name, value in scalars.items() if value is not None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cut(path: Path, run_step: int) -> None:
    """Cut the file before the first line past `run_step`, and before one that a crash left torn."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _run_step(line) > run_step:
                break
            end += len(line)
    os.truncate(path, end)


def _run_step(line: bytes) -> float:
    try:
        return json.loads(line)["run_step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # a power cut can leave zeros where a line should be
