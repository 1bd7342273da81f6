import numpy as np
import pytest

from trivium.data import index as index_module
from trivium.data import stream
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import Index
from trivium.data.plan import Plan
from trivium.data.source.text import TextConfig

ROW = 512


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8, windows of 4 chunks and blocks of 100: a thousand samples stand for a billion."""
    monkeypatch.setattr(stream, "CHUNK", 8)
    monkeypatch.setattr(stream, "WINDOW", 4)
    monkeypatch.setattr(index_module, "BLOCK", 100)


def index(size: int) -> Index:
    lengths = np.random.default_rng(0).integers(0, 600, size).astype(np.uint16)
    return Index(fingerprint="f", samples=np.arange(size), images=np.zeros(size, np.uint8), tokens={"text": lengths})


def mixture() -> MixtureConfig:
    bucket = BucketConfig(name="a", source=TextConfig(path="never opened"), weight=1.0, max_epochs=9.0)
    return MixtureConfig(buckets=(bucket,), row_length=ROW, rows_per_batch=4, max_images_per_row=0)


def drawn(found: Index, epochs: int, seed: int = 0) -> list[list[int]]:
    """Draw whole epochs of a bucket."""
    made = stream.Stream(mixture().buckets[0], found, 1.0, mixture(), seed)
    return [made.until(float(made.epoch_tokens * (j + 1))).places.tolist() for j in range(epochs)]


def usable(found: Index) -> np.ndarray:
    return np.flatnonzero((found.lengths > 0) & (found.lengths <= ROW))


def test_a_bucket_larger_than_a_window_is_whole_in_every_epoch(small):
    found = index(1003)
    first, second = drawn(found, 2)
    assert sorted(first) == sorted(second) == usable(found).tolist()
    assert first != second
    assert drawn(found, 2) == [first, second]
    assert drawn(found, 1, seed=1)[0] != first


def test_a_window_mixes_chunks_from_the_whole_bucket(small):
    first = np.asarray(drawn(index(10_000), 1)[0])[:20]
    assert len({int(place) // 8 for place in first}) <= 4, "at most one window is in memory"
    assert np.ptp(first) > 1000, "and its chunks lie far apart"
    assert (np.diff(first) != 1).any(), "and are shuffled through one another"


def test_a_bucket_within_a_window_is_permuted_as_a_whole():
    """The order of small buckets is that of one permutation: a run in progress keeps its plan."""
    from trivium.core.rng import numpy_rng

    found = index(1003)
    assert drawn(found, 1)[0] == numpy_rng(0, "epoch", "a", 0).permutation(usable(found)).tolist()


def test_a_plan_in_blocks_uses_every_sample_as_often(small):
    found = index(1003)
    plan = Plan(mixture(), {"a": found}, 200, seed=0)
    used = np.bincount([i for j in range(200) for row in plan.batch(j) for _, i in row], minlength=1003)
    [row] = plan.table()
    assert used.sum() == row.samples
    assert np.ptp(used[usable(found)]) <= 1
    assert used[found.lengths > ROW].sum() == 0
    assert row.dropped == {
        "nothing in it for this stage (0 tokens)": int((found.lengths == 0).sum()),
        f"longer than a row ({ROW} tokens)": int((found.lengths > ROW).sum()),
    }
    assert len(row.dropped_samples) == min(20, (found.lengths == 0).sum()) + 20


def test_a_plan_takes_four_bytes_a_sample_and_four_a_row():
    plan = Plan(mixture(), {"a": index(5000)}, 200, seed=0)
    assert plan.num_bytes == 4 * plan.table()[0].samples + 4 * 800
