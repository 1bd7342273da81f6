"""Learned codes of chunks: exactness, any sequence of ids, determinism, files, and bad input."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from wave_chunks import waves

from trivium.action import autoencoder
from trivium.action.tokenizer import Reach, Robot
from trivium.action.vqvae import ChunkCoder, VqVaeConfig, VqVaeTokenizer
from trivium.core.errors import ConfigError, DataError
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig

CONFIG = VqVaeConfig(quantizer=VqConfig(size=64, num_levels=2), num_vectors=4)
ARM = Robot("arm", ("x", "y", "z", "grip"), -np.ones(4), np.ones(4))
GRID = VqVaeConfig(quantizer=FsqConfig(levels=(5, 5, 5)), num_vectors=4)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A few steps: what is tested here does not need more, and where it does the test says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def codes() -> VqVaeTokenizer:
    return CONFIG.fit(waves(1000, 8, 4))


@pytest.fixture(scope="module")
def grid() -> VqVaeTokenizer:
    return GRID.fit(waves(1000, 8, 4))


def rmse(tokenizer: VqVaeTokenizer, chunks: np.ndarray) -> float:
    return float(np.sqrt(((tokenizer.decode_all(tokenizer.encode_all(chunks)) - chunks) ** 2).mean()))


@pytest.mark.parametrize("name", ["codes", "grid"])
def test_fresh_chunks_come_back_blurred_and_within_the_limit(name: str, request: pytest.FixtureRequest):
    tokenizer: VqVaeTokenizer = request.getfixturevalue(name)
    fresh = waves(300, 8, 4, seed=1)
    tokens = tokenizer.encode_all(fresh)
    assert {len(row) for row in tokens} == {tokenizer.num_tokens} == {8 if name == "codes" else 4}
    assert 0 <= np.min(tokens) <= np.max(tokens) < tokenizer.vocab_size
    assert rmse(tokenizer, fresh) < (0.4 if name == "codes" else 0.7) * fresh.std()
    assert tokenizer.num_repaired == 0
    assert tokenizer.encode(fresh[3]) == tokens[3]
    np.testing.assert_allclose(tokenizer.decode(tokens[3]), tokenizer.decode_all(tokens)[3], atol=1e-6)


def test_more_tokens_are_more_exact():
    chunks, fresh = waves(1000, 8, 4), waves(300, 8, 4, seed=1)
    one, three = (CONFIG.replace(quantizer=VqConfig(size=64, num_levels=n)).fit(chunks) for n in (1, 3))
    assert rmse(three, fresh) < 0.7 * rmse(one, fresh)


def test_half_a_sequence_is_a_blurred_chunk(codes: VqVaeTokenizer):
    fresh, before = waves(300, 8, 4, seed=2), codes.num_repaired
    tokens = codes.encode_all(fresh)
    errors = [((codes.decode_all([row[:n] for row in tokens]) - fresh) ** 2).mean() for n in (8, 4, 0)]
    assert errors[0] < 0.6 * errors[1]
    assert errors[1] < 0.6 * errors[2]
    assert codes.num_repaired == before + 600
    whole = codes.decode(tokens[0])
    assert np.array_equal(codes.decode([*tokens[0], 5, 6]), whole)
    assert codes.num_repaired == before + 601


@pytest.mark.parametrize("name", ["codes", "grid"])
def test_every_sequence_of_ids_is_a_finite_chunk_within_the_limit(name: str, request: pytest.FixtureRequest):
    tokenizer: VqVaeTokenizer = request.getfixturevalue(name)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, tokenizer.vocab_size, rng.integers(0, 20)).tolist() for _ in range(5000)]
    sequences += [[0] * 8, [tokenizer.vocab_size - 1] * 8, []]
    before = tokenizer.num_repaired
    chunks = tokenizer.decode_all(sequences)
    assert chunks.shape == (5003, 8, 4)
    assert chunks.dtype == np.float32
    assert np.isfinite(chunks).all()
    assert np.abs(chunks).max() <= tokenizer.limit
    wrong = sum(len(row) != tokenizer.num_tokens for row in sequences)
    assert tokenizer.num_repaired - before == wrong > 0


def test_it_overfits_a_few_chunks():
    few = waves(40, 8, 4)
    assert rmse(CONFIG.fit(few), few) < 0.01


def test_learning_bends_what_linear_codes_leave(monkeypatch: pytest.MonkeyPatch):
    """Chunks on a curve: one number each, but no straight line through them."""
    turn = np.random.default_rng(0).uniform(0, 2 * np.pi, (2000, 1, 1))
    frequency = np.arange(1, 9)[None, :, None] * np.array([0.3, 0.6, 0.9, 1.2])
    curve = (0.8 * np.sin(frequency + turn * np.array([1, 2, 3, 4]))).astype(np.float32)
    config = CONFIG.replace(quantizer=FsqConfig(levels=(8, 8)), num_vectors=1)
    monkeypatch.setattr(autoencoder, "LR", 1e-3)
    errors = []
    for steps in (1, 400):
        monkeypatch.setattr(autoencoder, "STEPS", steps)
        errors.append(rmse(config.fit(curve[:1500]), curve[1500:]))
    assert errors[1] < 0.9 * errors[0]


def test_learning_that_made_things_worse_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    chunks, errors = waves(600, 8, 4), []
    for rate in (1e-9, 10.0):
        monkeypatch.setattr(autoencoder, "LR", rate)
        errors.append(rmse(CONFIG.fit(chunks), waves(300, 8, 4, seed=1)))
    assert errors[1] < 1.2 * errors[0]


def test_the_same_seed_gives_the_same_file_and_disturbs_no_other_randomness(tmp_path: Path):
    chunks = waves(300, 8, 4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(5)
        CONFIG.fit(chunks, seed).save(tmp_path / f"{number}.json", ARM)
        assert torch.rand(1) == expected
    files = [(tmp_path / f"{number}.json").read_bytes() for number in range(3)]
    assert files[0] == files[1] != files[2]


def test_a_file_cannot_ask_for_more_than_it_holds(codes: VqVaeTokenizer):
    data = codes.to_json()
    many = 10**12
    for change, said in (
        ({"weights": data["weights"][:-4]}, r"weights of [\d,]+ characters where [\d,]+ characters belong"),
        ({"weights": [1.0]}, "weights of list"),
        ({"weights": "!" + data["weights"][1:]}, "base64"),
        ({"weights": to_base64(np.full(codes_count(codes), 1e7))}, "weights that no fit makes"),
        ({"weights": to_base64(np.full(codes_count(codes), np.nan))}, "weights that no fit makes"),
        ({"config": {"quantizer": {"kind": "vq", "size": many}}}, "where [0-9,]+ characters belong"),
        ({"config": {"quantizer": {"kind": "vq", "num_levels": many}}}, r"num_levels.*at most 4096 tokens"),
        ({"reach": Reach(4096, -np.ones(4096), np.ones(4096)).to_json()}, "where [0-9,]+ characters belong"),
    ):
        with pytest.raises((ValueError, ConfigError), match=said):
            VqVaeTokenizer.from_json(data | change)


def to_base64(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def codes_count(tokenizer: VqVaeTokenizer) -> int:
    return sum(value.numel() for value in tokenizer.coder.state_dict().values())


def test_what_no_file_could_hold_is_not_fitted():
    wide = np.zeros((2, 64, 64), np.float32)
    with pytest.raises(ConfigError, match=r"model.tokenizer: found [\d,]+ weights for chunks of 64 steps x 64 dim"):
        CONFIG.fit(wide)


def test_bad_chunks_and_ids_are_named(codes: VqVaeTokenizer):
    chunks = waves(3, 8, 4)
    with pytest.raises(DataError, match=r"action chunk: found shape \(9, 4\); expected \(8, 4\), steps x dimensions"):
        codes.encode(np.zeros((9, 4)))
    chunks[1, 2, 3] = np.nan
    with pytest.raises(DataError, match="action chunk 1: found nan at step 2, dimension 3; expected finite numbers"):
        codes.encode_all(chunks)
    chunks[1, 2, 3] = -np.inf
    with pytest.raises(DataError, match="action chunk 1: found -inf at step 2"):
        CONFIG.fit(chunks)
    with pytest.raises(DataError, match=r"action chunk 1: found shape \(4, 4\)"):
        CONFIG.fit([np.zeros((8, 4)), np.zeros((4, 4))])
    for nothing, said in (([], "no chunks"), ([np.zeros((0, 4))], r"shape \(0, 4\)")):
        with pytest.raises(DataError, match=said):
            CONFIG.fit(nothing)
    for token in (64, -1):
        with pytest.raises(DataError, match=rf"action token: found {token}; expected 0\.\.63\. Subtract the first"):
            codes.decode([0, token])
    with pytest.raises(ConfigError, match=r"quantizer\.levels"):
        GRID.replace(quantizer=FsqConfig(levels=(2, 2))).fit(waves(10, 8, 4))
    assert codes.encode_all([]) == []
    assert codes.decode_all([]).shape == (0, 8, 4)


@pytest.mark.parametrize("config", [CONFIG, GRID])
def test_dimensions_that_never_move_stay_where_they_are(config: VqVaeConfig):
    chunks = waves(500, 8, 4)
    chunks[:, :, 2] = 0.25
    tokenizer = config.fit(chunks)
    painted = tokenizer.decode_all(tokenizer.encode_all(chunks))
    assert np.abs(painted[:, :, 2] - 0.25).max() < 0.1
    frozen = np.full((100, 8, 4), -0.5, np.float32)
    tokenizer = config.fit(frozen)
    np.testing.assert_allclose(tokenizer.decode_all(tokenizer.encode_all(frozen)), frozen, atol=0.02)


@pytest.mark.parametrize(("horizon", "dim"), [(1, 1), (1, 7), (3, 2)])
def test_chunks_smaller_than_their_vectors_have_room_to_spare(horizon: int, dim: int):
    chunks = waves(300, horizon, dim)
    tokenizer = CONFIG.fit(chunks)
    assert rmse(tokenizer, chunks) < 0.1
    assert isinstance(tokenizer.coder, ChunkCoder)


def test_actions_beyond_the_limit_are_clipped(codes: VqVaeTokenizer):
    assert codes.encode(np.full((8, 4), 50.0)) == codes.encode(np.full((8, 4), 1.5))
