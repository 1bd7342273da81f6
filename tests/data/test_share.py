import pickle

import numpy as np
import pytest

from trivium.core.errors import ConfigError
from trivium.data.share import ATTENTION_TOKENS, IMAGE_TOKENS, Pack, share, work


def heavy(number: int, seed: int = 0) -> list[Pack]:
    """Rows of 4,096 tokens: a few are one long document with pictures, most are many short ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for j in range(number):
        size = min(4096, int(64 * (1 + rng.pareto(0.8))))
        lengths = np.full(4096 // size, size)
        images = np.zeros(len(lengths), np.int64)
        images[0] = 24 * (rng.random() < 0.2)
        rows.append(Pack([("a", j)], work(lengths, images)))
    return rows


def loads(parts: list[list[Pack]]) -> np.ndarray:
    return np.array([sum(row.work for row in part) for part in parts])


def test_attention_costs_the_squares_of_documents_and_pictures_cost_the_encoder():
    one, many = work(np.array([4096]), np.array([0])), work(np.full(64, 64), np.zeros(64, int))
    assert one == pytest.approx(4096 + 4096**2 / ATTENTION_TOKENS)
    assert many == pytest.approx(4096 + 64 * 64**2 / ATTENTION_TOKENS)
    assert work(np.array([4096]), np.array([3])) - one == pytest.approx(3 * IMAGE_TOKENS)


@pytest.mark.parametrize("world", [1, 2, 4, 8, 16])
def test_ranks_together_hold_every_row_once_whatever_their_number(world):
    rows = heavy(64)
    parts = [share(rows, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {64 // world}
    assert sorted(row[0] for part in parts for row in part) == [("a", j) for j in range(64)]
    assert all(part == sorted(part) for part in parts), "the order of the plan is kept"
    assert parts == [share(pickle.loads(pickle.dumps(rows)), rank, world) for rank in range(world)]


def test_balance_is_better_than_dealing_rows_out_in_turn():
    """What counts is how long the slowest rank keeps the others waiting."""
    ours, dealt = [], []
    for seed in range(20):
        rows = heavy(64, seed)
        for waits, parts in (
            (ours, [share(rows, rank, 8) for rank in range(8)]),
            (dealt, [rows[rank::8] for rank in range(8)]),
        ):
            found = loads(parts)
            waits.append(found.max() / found.mean() - 1)
    assert np.mean(ours) < 0.04
    assert np.mean(ours) < np.mean(dealt) / 5


def test_rows_that_cannot_be_shared_equally_are_refused():
    with pytest.raises(ConfigError, match=r"rows_per_batch: found 6 rows for 4 processes; expected a multiple of 4"):
        share(heavy(6), 0, 4)
    with pytest.raises(ConfigError, match=r"start one of 1, 2, 3, 6 processes"):
        share(heavy(6), 0, 4)
