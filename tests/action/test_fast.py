import hashlib
import json
import math
import pickle

import numpy as np
import pytest

from trivium.action.fast import FastConfig, FastTokenizer
from trivium.core.errors import ConfigError, DataError

RNG = np.random.default_rng


def smooth(count: int, horizon: int, dim: int, rate_hz: int, seed: int = 0) -> list[np.ndarray]:
    """Make band-limited chunks (below 2 Hz) within -1..1."""
    rng, time = RNG(seed), np.arange(horizon)[:, None, None] / rate_hz
    shape = (count, 1, 6, dim)
    frequency, phase = rng.uniform(0, 2, shape), rng.uniform(0, 2 * math.pi, shape)
    waves = rng.normal(0, 0.25, shape) * np.sin(2 * math.pi * frequency * time + phase)
    return list(waves.sum(2).clip(-1, 1).astype(np.float32))


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    return FastConfig(vocab_size=300).fit(smooth(300, 10, 4, 10))


def test_round_trip_stays_below_the_rounding_bound(fast: FastTokenizer) -> None:
    fresh = smooth(300, 10, 4, 10, seed=1)
    error = np.array([fast.decode(fast.encode(chunk)) - chunk for chunk in fresh])
    assert math.sqrt((error**2).mean()) <= 1 / (fast.scale * math.sqrt(12)) * 1.02
    assert np.abs(error).max() <= math.sqrt(10) / (2 * fast.scale)
    assert fast.num_repaired == 0


def test_coefficients_never_seen_in_training_survive() -> None:
    still = np.zeros((20, 10, 4), np.float32)
    still[0, :2] = [[-1.5], [1.5]]  # the robot can go there
    fast = FastConfig(vocab_size=300).fit(still)
    wild = RNG(0).choice([-1.5, 1.5], (50, 10, 4))
    for chunk in wild:
        tokens = fast.encode(chunk)
        values = np.reshape(fast.expand(tokens), (10, 4))
        assert np.array_equal(values, fast.coefficients(chunk[None])[0])
    # The extreme coefficient: a constant chunk at the limit.
    assert np.abs(fast.decode(fast.encode(np.full((10, 4), 1.5))) - 1.5).max() < 0.02
    assert fast.num_repaired == 0


def test_every_token_sequence_decodes_within_the_limits(fast: FastTokenizer) -> None:
    rng, before = RNG(0), fast.num_repaired
    lengths = rng.integers(0, 30, 20_000)
    for length in lengths:
        chunk = fast.decode(rng.integers(0, fast.vocab_size, length).tolist())
        assert chunk.shape == (10, 4)
        assert np.isfinite(chunk).all()
        assert np.abs(chunk).max() <= fast.limit
    assert fast.num_repaired > before


def test_short_and_long_sequences_are_repaired_and_counted() -> None:
    fast = FastConfig(vocab_size=300).fit(smooth(100, 10, 4, 10))
    chunk = smooth(1, 10, 4, 10, seed=5)[0]
    tokens = fast.encode(chunk)
    whole = fast.decode(tokens)
    assert fast.num_repaired == 0
    assert np.array_equal(fast.decode([*tokens, 0, 1, 2]), whole)
    assert fast.num_repaired == 1
    cut = fast.decode(tokens[: len(tokens) // 2])
    assert fast.num_repaired == 2
    assert np.abs(cut - whole).max() < np.abs(whole).max(), "low frequencies come first, so half a sequence is a guess"
    assert not fast.decode([]).any()


def test_order_is_by_frequency(fast: FastTokenizer) -> None:
    constant = np.tile([0.1, 0.2, 0.3, 0.4], (10, 1))
    flat = np.array(fast.expand(fast.encode(constant)))
    assert flat[:4].tolist() == np.rint(10 * math.sqrt(10) * np.array([0.1, 0.2, 0.3, 0.4])).astype(int).tolist()
    assert not flat[4:].any()


@pytest.mark.parametrize(
    ("horizon", "dim", "rate_hz", "ratio"), [(5, 7, 5, 1.8), (15, 7, 15, 3.0), (20, 7, 20, 4.0), (50, 14, 50, 7.0)]
)
def test_compression(horizon: int, dim: int, rate_hz: int, ratio: float) -> None:
    fast = FastConfig(vocab_size=1024).fit(smooth(1000, horizon, dim, rate_hz))
    lengths = [len(fast.encode(chunk)) for chunk in smooth(100, horizon, dim, rate_hz, seed=1)]
    assert horizon * dim / np.mean(lengths) >= ratio


def test_two_robots_do_not_disturb_each_other() -> None:
    arm, hand = (FastConfig(vocab_size=300).fit(smooth(50, *shape, 10)) for shape in ((10, 4), (6, 2)))
    chunks = smooth(1, 10, 4, 10)[0], smooth(1, 6, 2, 10)[0]
    tokens = arm.encode(chunks[0]), hand.encode(chunks[1])
    assert arm.decode(tokens[0]).shape == (10, 4)
    assert hand.decode(tokens[1]).shape == (6, 2)
    assert arm.decode(tokens[0]).shape == (10, 4)


def test_pickled_and_refitted_tokenizers_are_the_same(fast: FastTokenizer) -> None:
    chunk = smooth(1, 10, 4, 10, seed=9)[0]
    for copy in (pickle.loads(pickle.dumps(fast)), FastConfig(vocab_size=300).fit(smooth(300, 10, 4, 10))):
        assert copy.encode(chunk) == fast.encode(chunk)
        assert np.array_equal(copy.decode(fast.encode(chunk)), fast.decode(fast.encode(chunk)))
        assert copy.vocab_size == fast.vocab_size


def test_ids_are_those_of_the_first_release(fast: FastTokenizer) -> None:
    ids = fast.encode_all(smooth(300, 10, 4, 10, seed=1))
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16] == "83b2a57941b991c5"


def test_many_at_once_equal_one_by_one(fast: FastTokenizer) -> None:
    chunks = smooth(50, 10, 4, 10, seed=4)
    ids = fast.encode_all(chunks)
    assert ids == [fast.encode(chunk) for chunk in chunks]
    rng = RNG(0)
    sequences = [*ids, [], *(rng.integers(0, 300, n).tolist() for n in rng.integers(0, 200, 200))]
    together, before = fast.decode_all(sequences), fast.num_repaired
    np.testing.assert_allclose(together, np.stack([fast.decode(one) for one in sequences]), atol=1e-6)
    assert fast.num_repaired - before == sum(len(fast.expand(one)) != 40 for one in sequences)


def test_many_chunks_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = np.array(smooth(400, 10, 4, 10))
    chunks[0, 0] = -1.4  # what only one chunk does is still within reach
    all_of_them = FastConfig(vocab_size=300).fit(chunks)
    monkeypatch.setattr("trivium.action.fast.SAMPLE", 100 * 40)
    some = FastConfig(vocab_size=300).fit(chunks)
    chosen = FastConfig(vocab_size=300).fit(chunks[np.linspace(0, 399, 100).astype(int)])
    assert some.merges == chosen.merges != all_of_them.merges
    assert some.reach.low.tolist() == all_of_them.reach.low.tolist()


def test_bad_chunks_and_settings_are_refused(fast: FastTokenizer) -> None:
    chunk = np.zeros((10, 4), np.float32)
    chunk[3, 1] = np.nan
    with pytest.raises(DataError, match="action chunk: found nan at step 3, dimension 1; expected finite numbers"):
        fast.encode(chunk)
    chunk[3, 1] = -np.inf
    with pytest.raises(DataError, match="action chunk 1: found -inf at step 3"):
        FastConfig(vocab_size=300).fit([np.zeros((10, 4)), chunk])
    with pytest.raises(DataError, match=r"found shape \(9, 4\); expected \(10, 4\), steps x dimensions"):
        fast.encode(chunk[:9])
    with pytest.raises(DataError, match=r"action token: found 300; expected 0..299"):
        fast.decode([300])
    with pytest.raises(DataError, match="no chunks"):
        FastConfig().fit([])
    with pytest.raises(ConfigError, match=r"fast.vocab_size: found 64; expected at least 95"):
        FastConfig(vocab_size=64).fit([np.zeros((10, 4))])
    with pytest.raises(ConfigError, match=r"fast.scale: found 0.0; expected above 0"):
        FastConfig(scale=0.0).fit([np.zeros((10, 4))])
