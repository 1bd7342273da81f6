"""Splits by episode: two frames of one episode never stand on both sides."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from trivium.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Fold:
    """One part held out: row numbers of the training side, in dealing order, and of the test side.

    Training rows are dealt from the episodes in turn, so a short prefix already covers all tasks, and a
    smaller training set is a part of every larger one.
    """

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


def split_by_episode(
    episodes: Int[np.ndarray, " n"],
    tasks: Int[np.ndarray, " n"],
    seen: Bool[np.ndarray, " n"],
    num_folds: int,
    rng: np.random.Generator,
) -> list[Fold]:
    """Hold every unseen episode out exactly once, the tasks spread evenly over the folds.

    Frames of an episode are near copies: split by frame, a probe scores by remembering the episode. Episodes that
    the encoder was trained on (`seen`) are on the training side of every fold and never tested.

    Raises:
        DataError: fewer unseen episodes than two a fold.
    """
    unseen = np.flatnonzero(~seen)
    names, first = np.unique(episodes[unseen], return_index=True)
    assert not np.isin(episodes[seen], names).any(), "an episode is both seen and unseen"
    if len(names) < 2 * num_folds:
        raise DataError(
            "health check",
            f"{len(names)} unseen episodes in {len(episodes)} samples",
            f"at least {2 * num_folds} unseen episodes (two for each of {num_folds} folds, split by episode)",
            "Record more episodes or lower `num_folds`.",
        )
    order = rng.permutation(len(names))
    order = order[np.argsort(tasks[unseen[first]][order], kind="stable")]
    fold_of = np.empty(len(names), int)
    fold_of[order] = np.arange(len(names)) % num_folds
    row_fold = np.full(len(episodes), -1)
    row_fold[unseen] = fold_of[np.searchsorted(names, episodes[unseen])]
    folds = []
    for number in range(num_folds):
        test = np.flatnonzero(row_fold == number)
        folds.append(Fold(deal(np.flatnonzero(row_fold != number), episodes, rng), test))
    return folds


def deal(
    rows: Int[np.ndarray, " n"], episodes: Int[np.ndarray, " m"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Order rows so that the episodes take turns, each giving its frames in random order."""
    rows = rng.permutation(rows)
    names = rng.permutation(np.unique(episodes[rows]))
    turn = np.empty(len(rows), int)
    place = np.empty(len(rows), int)
    for number, name in enumerate(names):
        mine = np.flatnonzero(episodes[rows] == name)
        turn[mine], place[mine] = np.arange(len(mine)), number
    return rows[np.lexsort((place, turn))]


def check_mask(episodes: Int[np.ndarray, " n"], share: float, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """Mark about `share` of the episodes as the inner side on which regularisation is chosen."""
    names = rng.permutation(np.unique(episodes))
    assert len(names) >= 2, "the inner split needs two episodes; `deal` gives that many"
    return np.isin(episodes, names[: min(len(names) - 1, max(1, round(share * len(names))))])
