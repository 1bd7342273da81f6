"""Shares at every checkpoint, however the lengths are distributed."""

import numpy as np
import pytest

from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import Index
from trivium.data.pack import OPEN_ROWS
from trivium.data.plan import Plan
from trivium.data.source.text import TextConfig

ROW, ROWS, BATCHES = 4096, 32, 640
WEIGHTS = {"pareto": 1.0, "short": 5.0, "long": 3.0, "rare": 0.1}


def draws(name: str, size: int, seed: int) -> np.ndarray:
    """Return lengths that differ as much as they can: heavy tails, captions, whole rows."""
    rng = np.random.default_rng(seed)
    shapes = {
        "pareto": 30 * (1 + rng.pareto(1.1, size)),
        "short": rng.integers(100, 300, size),
        "long": rng.integers(2000, ROW, size),
        "rare": rng.lognormal(6, 1.2, size),
    }
    return np.clip(shapes[name], 1, ROW).astype(np.uint16)


@pytest.fixture(scope="module", params=[0, 1])
def plan(request: pytest.FixtureRequest) -> Plan:
    buckets = tuple(
        BucketConfig(name=name, source=TextConfig(path="never opened"), weight=weight, max_epochs=99.0)
        for name, weight in WEIGHTS.items()
    )
    indexes = {}
    for name in WEIGHTS:
        lengths = draws(name, 20_000, request.param)
        zeros = np.zeros(len(lengths), np.uint8)
        indexes[name] = Index(fingerprint=name, samples=np.arange(20_000), images=zeros, tokens={"text": lengths})
    mixture = MixtureConfig(buckets=buckets, row_length=ROW, rows_per_batch=ROWS, max_images_per_row=0)
    return Plan(mixture, indexes, BATCHES, seed=request.param)


def prefixes(plan: Plan) -> np.ndarray:
    """Return the tokens of each bucket in the first 1, 2, ... batches, added up from the samples themselves."""
    lengths = {name: index.lengths for name, index in zip(WEIGHTS, plan._indexes, strict=True)}
    found = np.zeros((BATCHES, len(WEIGHTS)), np.int64)
    names = list(WEIGHTS)
    for j in range(BATCHES):
        for row in plan.batch(j):
            for bucket, sample in row:
                found[j, names.index(bucket)] += lengths[bucket][sample]
    return found.cumsum(0)


def test_shares_are_within_half_a_percent_at_every_checkpoint(plan):
    """At every batch border from 1,000 rows on; before that, what the packer holds open may weigh more."""
    tokens = prefixes(plan)
    assert tokens[-1].tolist() == [row.tokens for row in plan.table()]
    asked = np.array([row.asked for row in plan.table()])
    error = np.abs(tokens / tokens.sum(1, keepdims=True) - asked).max(1)
    assert error[1000 // ROWS :].max() < 0.005
    bound = (OPEN_ROWS * ROW + ROW) / tokens.sum(1)
    assert (error <= bound).all(), "what holds for any lengths: the open rows and one sample"
    assert error[-1] < 0.0005


def test_rows_are_full(plan):
    assert plan.padding < 0.02
