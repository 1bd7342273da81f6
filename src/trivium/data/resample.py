"""Episodes at another rate: what a recorder at that rate would have written, and the same way travelled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from trivium.core.errors import DataError
from trivium.data.circle import wrap
from trivium.data.embodiment import Dimension, held_states, plain
from trivium.data.trajectory import Trajectories

MOST = 10
"""Times the recorded rate at most: beyond that a file of megabytes could ask for all memory."""
SNAP = 1e-6
"""Frames: places nearer to a recorded frame than this are that frame, whatever the division left over."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Grid:
    """Where each new frame stands among the recorded ones of its own episode."""

    begin: Int[np.ndarray, " m"]
    """First recorded frame of the episode."""
    end: Int[np.ndarray, " m"]
    """Recorded frame after the episode."""
    at: Float[np.ndarray, " m"]
    """Place in recorded frames from the start of the episode."""
    until: Float[np.ndarray, " m"]
    """Where the next new frame stands, or the end of the episode."""

    def floor(self) -> Int[np.ndarray, " m"]:
        """Return the latest recorded frame."""
        return self.begin + self.at.astype(np.int64)

    def nearest(self) -> Int[np.ndarray, " m"]:
        """Return the nearest recorded frame, of two equally near ones the earlier."""
        return np.minimum(self.begin + np.ceil(self.at - 0.5).astype(np.int64), self.end - 1)


def resample(found: Trajectories, rate_hz: float, about: Sequence[Dimension], where: str) -> Trajectories:
    """Return the episodes at `rate_hz`; at their own rate they are returned as they are.

    A new frame stands every 1 / rate_hz seconds from the start of its episode on, as long as a command was in force:
    command t from t to t + 1 frames. It shows the latest recorded picture, task and truth. States and positions are
    interpolated linearly, angles by the shorter way round, and held after the last recorded one. Deltas and turns are
    added up over the time that a new frame stands for, so that an episode's sum is kept (to the rounding of float32);
    velocities are averaged over it, grippers take the nearest value.

    Args:
        found: episodes at their recorded rate.
        rate_hz: frames a second.
        about: what each dimension of the action is.
        where: the set, for errors.

    Raises:
        DataError: the rate is more than 10 times the recorded one.
    """
    if rate_hz == found.fps:
        return found
    if rate_hz > MOST * found.fps:
        todo = "Lower `rate_hz`; there is nothing between the frames to learn from."
        raise DataError(where, f"rate_hz {rate_hz:g}", f"at most {MOST} times the recorded {found.fps:g} Hz", todo)
    grid, end = _grid(found, rate_hz)
    now = grid.floor()
    circles = {plain(one.state) for one in about if one.kind in ("angle", "turn")}
    held = held_states(found.embodiment)
    state = [
        found.state[now, j] if name in held else _between(found.state[:, j], grid, plain(name) in circles)
        for j, name in enumerate(found.state_names)
    ]
    action = [_command(found.action[:, j], grid, one) for j, one in enumerate(about)]
    return replace(
        found,
        fps=rate_hz,
        end=end.astype(found.end.dtype),
        state=np.stack(state, 1).astype(np.float32) if state else found.state[now],
        action=np.stack(action, 1).astype(np.float32) if action else found.action[now],
        task=found.task[now],
        truth={name: values[now] for name, values in found.truth.items()},
        shown=found.shown[now] if len(found.shown) else now - grid.begin,
    )


def _grid(found: Trajectories, rate_hz: float) -> tuple[_Grid, Int[np.ndarray, " e"]]:
    """Return the places of all new frames, and the new frame after each episode."""
    lengths = (found.end - found.begin).astype(np.int64)
    numbers = np.ceil(lengths * (rate_hz / found.fps) - SNAP).astype(np.int64).clip(1)
    end = np.cumsum(numbers)
    count = np.arange(numbers.sum()) - np.repeat(end - numbers, numbers)
    length = np.repeat(lengths, numbers)

    def place(number: np.ndarray) -> np.ndarray:
        exact = number * (found.fps / rate_hz)
        whole = np.rint(exact)
        return np.minimum(np.where(np.abs(exact - whole) < SNAP, whole, exact), length)

    until = np.where(count + 1 == np.repeat(numbers, numbers), length, place(count + 1))
    begin = np.repeat(found.begin.astype(np.int64), numbers)
    return _Grid(begin=begin, end=begin + length, at=place(count), until=until), end


def _between(values: Float[np.ndarray, " n"], grid: _Grid, circle: bool) -> Float[np.ndarray, " m"]:
    """Interpolate linearly; a place at a recorded frame gives exactly what was recorded."""
    low = grid.floor()
    high = np.minimum(low + 1, grid.end - 1)
    before, share = values[low].astype(np.float64), grid.at - np.floor(grid.at)
    step = values[high] - before
    if not circle:
        return before + share * step
    return np.where(share > 0, wrap(before + share * wrap(step)), before)


def _command(values: Float[np.ndarray, " n"], grid: _Grid, about: Dimension) -> Float[np.ndarray, " m"]:
    if about.kind == "gripper":
        return values[grid.nearest()]
    if about.kind in ("position", "angle"):
        return _between(values, grid, about.kind == "angle")
    way = _travelled(values, grid, grid.until) - _travelled(values, grid, grid.at)
    return way / (grid.until - grid.at) if about.kind == "velocity" else way


def _travelled(values: Float[np.ndarray, " n"], grid: _Grid, at: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return the sum of commands from the start of the set to a place within an episode, parts of a frame included."""
    total = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
    whole = grid.begin + at.astype(np.int64)
    part = at - np.floor(at)
    return total[whole] + part * values[np.minimum(whole, grid.end - 1)]
