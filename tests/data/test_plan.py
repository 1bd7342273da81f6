import json

import numpy as np
import pytest

from trivium.core.errors import ConfigError, DataError
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import Index
from trivium.data.plan import Plan
from trivium.data.source.text import TextConfig

SOURCE = TextConfig(path="never opened")


def index(lengths: np.ndarray, images: np.ndarray | None = None, fingerprint: str = "f") -> Index:
    return Index(
        fingerprint=fingerprint,
        samples=np.arange(len(lengths)) * 2 + 1,
        images=np.zeros(len(lengths), np.int64) if images is None else images,
        tokens={"text": lengths // 3, "image": lengths - lengths // 3},
    )


def mixture(max_images: int = 100, row_length: int = 512, rows: int = 4, **weights: float) -> MixtureConfig:
    buckets = tuple(BucketConfig(name=n, source=SOURCE, weight=w, max_epochs=10.0) for n, w in weights.items())
    return MixtureConfig(buckets=buckets, row_length=row_length, rows_per_batch=rows, max_images_per_row=max_images)


def lengths(number: int, low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, number)


@pytest.fixture
def indexes() -> dict[str, Index]:
    """Three buckets whose samples differ much in length."""
    return {"a": index(lengths(3000, 5, 40)), "b": index(lengths(500, 100, 512)), "c": index(lengths(900, 20, 300))}


def batches(plan: Plan) -> list:
    return [plan.batch(j) for j in range(len(plan))]


def test_shares_are_kept_to_half_a_percent(indexes):
    plan = Plan(mixture(a=1.0, b=5.0, c=4.0), indexes, 100, seed=0)
    for row, asked in zip(plan.table(), (0.1, 0.5, 0.4), strict=True):
        assert row.asked == pytest.approx(asked)
        assert abs(row.planned - asked) < 0.005
    assert plan.padding < 0.05


def test_table_is_what_the_batches_hold(indexes):
    plan = Plan(mixture(a=1.0, b=5.0, c=4.0), indexes, 50, seed=0)
    tokens = dict.fromkeys(indexes, 0)
    for rows in batches(plan):
        assert len(rows) == 4
        for row in rows:
            costs = [sum(plan.cost(bucket, sample).values()) for bucket, sample in row]
            assert 0 < sum(costs) <= 512
            for (bucket, _), cost in zip(row, costs, strict=True):
                tokens[bucket] += cost
    assert tokens == {row.bucket: row.tokens for row in plan.table()}
    assert plan.padding == pytest.approx(1 - sum(tokens.values()) / (200 * 512))


def test_each_epoch_uses_every_sample_once(indexes):
    plan = Plan(mixture(c=1.0), indexes, 80, seed=0)
    used = np.bincount([sample // 2 for rows in batches(plan) for row in rows for _, sample in row], minlength=900)
    assert plan.table()[0].samples == used.sum()
    assert used.max() - used.min() <= 1, "what is used is a prefix of whole epochs"
    assert plan.table()[0].epochs == pytest.approx(used.mean(), rel=0.02)


def test_deterministic_in_seed_mixture_and_counts(indexes):
    first = Plan(mixture(a=1.0, b=2.0, c=1.0), indexes, 20, seed=3)
    again = Plan(mixture(a=1.0, b=2.0, c=1.0), indexes, 20, seed=3)
    assert batches(first) == batches(again)
    assert first.fingerprint == again.fingerprint
    others = [
        Plan(mixture(a=1.0, b=2.0, c=1.0), indexes, 20, seed=4),
        Plan(mixture(a=1.0, b=2.1, c=1.0), indexes, 20, seed=3),
        Plan(mixture(a=1.0, b=2.0, c=1.0), indexes | {"a": index(lengths(3000, 5, 40, seed=1))}, 20, seed=3),
    ]
    for other in others:
        assert batches(other) != batches(first)
        assert other.fingerprint != first.fingerprint


def test_a_longer_stage_begins_like_a_shorter_one(indexes):
    short, long = (Plan(mixture(a=1.0, c=1.0), indexes, number, seed=0) for number in (60, 80))
    assert batches(short)[:40] == batches(long)[:40]


def test_what_does_not_fit_is_dropped_with_a_reason():
    sizes = np.array([600, 100, 0, 200, 100])
    pictures = np.array([0, 0, 0, 9, 1])
    plan = Plan(mixture(max_images=8, a=1.0), {"a": index(sizes, pictures)}, 1, seed=0)
    row = plan.table()[0]
    assert row.dropped == {
        "nothing in it for this stage (0 tokens)": 1,
        "longer than a row (512 tokens)": 1,
        "more pictures than a row may hold (8)": 1,
    }
    assert sorted(row.dropped_samples) == [1, 5, 7]
    assert {sample for rows in batches(plan) for r in rows for _, sample in r} == {3, 9}


def test_a_bucket_of_which_nothing_fits():
    with pytest.raises(DataError, match=r"bucket a: found 3 longer than a row \(512 tokens\); expected at least one"):
        Plan(mixture(a=1.0), {"a": index(np.array([600, 700, 800]))}, 1, seed=0)


def test_too_many_repetitions_are_refused_before_training(indexes):
    with pytest.raises(ConfigError) as caught:
        Plan(mixture(a=9.0, b=1.0, c=1.0), indexes, 2000, seed=0)
    text = str(caught.value)
    assert "mixture.buckets.0 (a): found 8,000 rows that take about " in text
    assert "expected at most max_epochs = 10, enough for " in text
    assert "raise max_epochs" in text
    Plan(mixture(a=0.1, b=1.0, c=1.0), indexes, 400, seed=0)


def test_a_cap_that_is_just_enough():
    """Ten epochs of ten samples that fill a row each are exactly 100 rows; the 101st is one too many."""
    exact = {"a": index(np.full(10, 512))}
    assert Plan(mixture(rows=1, a=1.0), exact, 100, seed=0).table()[0].epochs == 10
    with pytest.raises(ConfigError, match=r"found 101 rows that take about 10\.1 epochs"):
        Plan(mixture(rows=1, a=1.0), exact, 101, seed=0)


def test_resuming_with_a_changed_source_is_refused(indexes):
    plan = Plan(mixture(a=1.0, b=2.0), indexes, 20, seed=0)
    described = json.loads(json.dumps(plan.describe(), allow_nan=False))
    plan.check(described)
    changed = indexes | {"b": index(lengths(500, 100, 512), fingerprint="g")}
    with pytest.raises(DataError, match="bucket b: found fingerprint g; expected f, as when this run began"):
        Plan(mixture(a=1.0, b=2.0), changed, 20, seed=0).check(described)
    with pytest.raises(
        DataError, match=r"the data plan: found fingerprint .*The mixture, the tokenization or the seed"
    ):
        Plan(mixture(a=1.0, b=2.0), indexes, 20, seed=1).check(described)


def test_workers_are_not_part_of_a_plan(indexes):
    mix = mixture(a=1.0)
    more = mix.model_copy(update={"workers": 7})
    assert Plan(mix, indexes, 5, seed=0).fingerprint == Plan(more, indexes, 5, seed=0).fingerprint
