"""Corrections to a set of episodes, kept in a file beside it: the set itself is never written to.

`trivium data audit --fix` writes such a file and `corrections` of any set of episodes applies it. Episodes are left
out, or actions and pictures are moved against the state; frames at the ends that lose their partner go, and none is
made up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from trivium.core.errors import DataError

MOST_BYTES = 64 * 2**20
"""A larger file is none of ours."""
MOST_FRAMES = 1000
"""Largest shift that makes sense."""
KEYS = {"episode", "leave_out", "action", "pictures"}


@dataclass(frozen=True)
class Correction:
    """What to do with one episode."""

    leave_out: str = ""
    """Why it goes; empty where it stays."""
    action: int = 0
    """Frames by which actions are stored late: frame t takes the action of frame t + this."""
    pictures: int = 0
    """Frames by which pictures are stored late."""


@dataclass(frozen=True, eq=False)
class Rearranged:
    """Rows of a set after correction: n of them in e episodes."""

    episode: Int[np.ndarray, " e"]
    """Which episode of the set each one is, by its place there."""
    end: Int[np.ndarray, " e"]
    state: Int[np.ndarray, " n"]
    """Row of the set whose state, task and truth each frame takes."""
    action: Int[np.ndarray, " n"]
    """Row whose action it takes."""
    pictures: Int[np.ndarray, " n"]
    """Row whose pictures it shows."""


def read_corrections(path: Path) -> dict[int, Correction]:
    """Read a file of corrections, by the set's own number of the episode.

    Raises:
        DataError: it is missing, too large, no JSON, or says something else than corrections.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _wrong(path, f"{size:,} bytes")
        plain = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    rows = plain.get("episodes") if isinstance(plain, dict) else None
    if not isinstance(rows, list) or plain.get("corrections") != 1:
        raise _wrong(path, "no corrections of version 1")
    found: dict[int, Correction] = {}
    for place, row in enumerate(rows):
        number, correction = _row(path, place, row)
        if number in found:
            raise _wrong(path, f"episode {number} twice")
        found[number] = correction
    return found


def write_corrections(corrections: Mapping[int, Correction]) -> dict[str, Any]:
    """Return the content of a file of corrections."""
    rows = []
    for number, it in sorted(corrections.items()):
        left = {"leave_out": it.leave_out} if it.leave_out else {"action": it.action, "pictures": it.pictures}
        rows.append({"episode": number} | left)
    return {"corrections": 1, "episodes": rows}


def rearrange(
    path: Path, corrections: Mapping[int, Correction], number: Int[np.ndarray, " e"], end: Int[np.ndarray, " e"]
) -> Rearranged:
    """Work out which rows stay and what each of them takes from where.

    Raises:
        DataError: an episode that the set lacks, one that is shorter than its shift, or nothing is left.
    """
    known = {int(n) for n in number}
    for n in corrections:
        if n not in known:
            raise DataError(
                f"{path}: episode {n}", "no such episode in the set", "the set it was written for", "Audit it again."
            )
    episode, state, action, pictures, ends = [], [], [], [], []
    total = 0
    for e, (begin, stop) in enumerate(zip(np.concatenate([[0], end[:-1]]), end, strict=True)):
        it = corrections.get(int(number[e]), Correction())
        if it.leave_out:
            continue
        rows = np.arange(begin - min(0, it.action, it.pictures), stop - max(0, it.action, it.pictures))
        if not len(rows):
            raise DataError(
                f"{path}: episode {number[e]}",
                f"a shift by {it.action} and {it.pictures} frames",
                f"less than its {stop - begin} frames",
                "Leave that episode out.",
            )
        total += len(rows)
        episode.append(e)
        ends.append(total)
        state.append(rows)
        action.append(rows + it.action)
        pictures.append(rows + it.pictures)
    if not episode:
        raise DataError(str(path), "corrections that leave no episode", "at least one", "Record the set again.")
    return Rearranged(
        np.array(episode, np.int64),
        np.array(ends, np.int64),
        np.concatenate(state).astype(np.int64),
        np.concatenate(action).astype(np.int64),
        np.concatenate(pictures).astype(np.int64),
    )


def _row(path: Path, place: int, row: Any) -> tuple[int, Correction]:
    if not isinstance(row, dict) or not set(row) <= KEYS or not isinstance(row.get("episode"), int):
        raise _wrong(path, f"entry {place}: {str(row)[:100]}")
    reason, shifts = row.get("leave_out", ""), (row.get("action", 0), row.get("pictures", 0))
    if not isinstance(reason, str) or any(type(k) is not int or abs(k) > MOST_FRAMES for k in shifts):
        raise _wrong(path, f"entry {place}: {str(row)[:100]}")
    return row["episode"], Correction(reason, *shifts)


def _wrong(path: Path, found: str) -> DataError:
    return DataError(str(path), found, "corrections as `trivium data audit --fix` writes them", "Write the file again.")
