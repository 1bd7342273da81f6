"""Keyed randomness: every word counts, and an evaluation leaves no trace."""

import random
from itertools import product

import numpy as np
import torch

from trivium.core.rng import Rng, isolated, key, numpy_rng, seed_all


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_keys_differ_in_every_word_and_do_not_collide():
    keys = {key(seed, a, b, step) for seed, a, b, step in product(range(6), "xyz", "xyz", range(100))}
    assert len(keys) == 6 * 9 * 100
    assert key(0, "a", "b") != key(0, "b", "a")
    assert key(0, "a", 11) != key(0, "a", 1, 1)
    assert key(1, "1") != key(11)
    assert all(0 <= value < 2**63 for value in keys)


def test_words_that_hold_the_separator_do_not_collide():
    assert key(0, "a/b") != key(0, "a", "b")
    assert key(0, "bucket", "source/1", 2) != key(0, "bucket", "source", "1/2")


def test_keys_are_the_same_on_every_machine():
    assert key(7, "augment", "a/b", 3) == 4584578687089608180


def test_numpy_rng_depends_on_its_purpose_alone():
    first = numpy_rng(0, "augment", "id").random(4)
    numpy_rng(0, "other").random(9)
    assert np.array_equal(first, numpy_rng(0, "augment", "id").random(4))
    assert not np.array_equal(first, numpy_rng(0, "augment", "id2").random(4))


def test_a_step_draws_the_same_whatever_was_drawn_before():
    def run(rng: Rng, steps: int, extra: int) -> list:
        drawn = []
        for _ in range(steps):
            rng.begin_step("joint")
            drawn.append(draw())
            for _ in range(extra):
                draw()
        return drawn

    whole = run(Rng(3), 4, extra=0)
    rng = Rng(3)
    assert run(rng, 2, extra=5) == whole[:2]
    assert run(Rng(seed=rng.seed, step=rng.step), 2, extra=1) == whole[2:]
    assert len(set(whole)) == 4


def test_stages_ranks_and_seeds_draw_differently():
    drawn = set()
    for seed, stage, rank in product(range(2), ("a", "b"), range(2)):
        Rng(seed).begin_step(stage, rank)
        drawn.add(draw())
    assert len(drawn) == 8


def test_isolated_leaves_no_trace_even_when_it_fails():
    seed_all(1)
    expected = [draw() for _ in range(2)]
    seed_all(1)
    found = [draw()]
    try:
        with isolated(99):
            inside = [draw() for _ in range(3)]
            raise RuntimeError("an evaluation that fails")
    except RuntimeError:
        pass
    found.append(draw())
    assert found == expected
    with isolated(99):
        assert [draw() for _ in range(3)] == inside
