"""Splits by episode: nothing on both sides, tasks spread, refusals with a sentence."""

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.probe.split import check_mask, deal, split_by_episode

EPISODES = np.repeat(np.arange(12), 5)
TASKS = EPISODES % 3
UNSEEN = np.zeros(60, bool)


def test_every_episode_is_held_out_once_and_whole():
    folds = split_by_episode(EPISODES, TASKS, UNSEEN, 4, np.random.default_rng(0))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(60))
    for fold in folds:
        assert not set(EPISODES[fold.train]) & set(EPISODES[fold.test])
        assert len(fold.train) + len(fold.test) == 60
        assert set(TASKS[fold.test]) == {0, 1, 2}


def test_seen_episodes_are_learned_from_and_never_tested():
    seen = EPISODES < 4
    folds = split_by_episode(EPISODES, TASKS, seen, 2, np.random.default_rng(0))
    assert sorted(np.concatenate([fold.test for fold in folds])) == np.flatnonzero(~seen).tolist()
    for fold in folds:
        assert set(np.flatnonzero(seen)) <= set(fold.train)


def test_dealing_covers_all_episodes_first():
    rows = deal(np.arange(60), EPISODES, np.random.default_rng(0))
    assert len(set(EPISODES[rows[:12]])) == 12
    assert sorted(rows) == list(range(60))


def test_inner_side_is_whole_episodes():
    mask = check_mask(EPISODES, 0.25, np.random.default_rng(0))
    assert len(set(EPISODES[mask])) == 3
    assert not set(EPISODES[mask]) & set(EPISODES[~mask])


def test_too_few_episodes_say_so():
    with pytest.raises(
        DataError, match=r"found 3 unseen episodes in 15 samples; expected at least 8 unseen episodes.*num_folds"
    ):
        split_by_episode(EPISODES[:15], TASKS[:15], UNSEEN[:15], 4, np.random.default_rng(0))
