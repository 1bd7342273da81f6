import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
from fuzz import survive
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trivium.action.fast_reader import PublishedFast, PublishedFastConfig, _byte_letters, _sayable, read_folder
from trivium.action.tokenizer import Reach
from trivium.core.errors import DataError, SetupError

dct: Any = scipy.fft.dct
idct: Any = scipy.fft.idct
FOLDER = Path(__file__).parent / "published_fast"
"""Made by bench/fast_reference.py, which follows the published description."""
CASES = json.loads((FOLDER / "cases.json").read_text())
CHUNKS = np.array([case["chunk"] for case in CASES])
WIDE = Reach(6, np.full(3, -9.0), np.full(3, 9.0))


@pytest.fixture(scope="module")
def fast() -> PublishedFast:
    return read_folder(FOLDER, WIDE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "processor_config.json"):
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def test_ids_and_chunks_are_those_of_the_reference(fast: PublishedFast) -> None:
    assert len(CASES) == 40
    assert fast.encode_all(CHUNKS) == [case["ids"] for case in CASES]
    decoded = fast.decode_all([case["ids"] for case in CASES])
    np.testing.assert_allclose(decoded, np.array([case["decoded"] for case in CASES]), atol=1e-6)
    assert (fast.num_repaired, fast.num_clipped) == (0, 0)
    assert fast.vocab_size == json.loads((FOLDER / "processor_config.json").read_text())["vocab_size"]


def test_the_config_takes_shape_and_reach_from_the_chunks(fast: PublishedFast) -> None:
    mine = PublishedFastConfig(path=str(FOLDER)).fit(CHUNKS)
    low, high = CHUNKS.min((0, 1)), CHUNKS.max((0, 1))
    ids = [case["ids"] for case in CASES]
    np.testing.assert_allclose(mine.decode_all(ids), fast.decode_all(ids).clip(low, high), atol=1e-6)
    assert pickle.loads(pickle.dumps(mine)).encode_all(CHUNKS) == ids


def test_coefficients_that_the_alphabet_lacks_become_the_nearest_and_are_counted(fast: PublishedFast) -> None:
    before = fast.num_clipped
    wild = np.full((6, 3), 4.0)  # the constant coefficient is 98, and 21 is the largest that training knew
    ids = fast.encode(wild)
    assert fast.num_clipped == before + 3
    back = dct(fast.decode(ids), axis=0, norm="ortho") * fast.scale
    spoken = np.rint(back[0]) - fast.min_token
    assert set(spoken) == {fast._sayable[-1]}, "the largest that it can say"
    assert np.abs(back[1:]).max() < 1e-4, "nothing is shifted by what could not be said"
    low = fast.decode(fast.encode(-wild))
    assert np.rint(dct(low, axis=0, norm="ortho")[0] * fast.scale).tolist() == [fast.min_token] * 3


def test_every_value_that_is_sayable_comes_back_and_no_other(fast: PublishedFast) -> None:
    text = [chr(int(code)) for code in fast._sayable[:3000]]
    for character in text:
        assert fast._bpe.decode(fast._bpe.encode(character).ids) == character
    others = sorted(set(range(3000)) - set(fast._sayable.tolist()))
    assert others
    for code in others:
        assert fast._bpe.decode(fast._bpe.encode(chr(code)).ids) != chr(code)


def test_byte_letters_are_those_of_the_library() -> None:
    from tokenizers import pre_tokenizers

    letters = _byte_letters()
    assert sorted(letters.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for code in (0, 9, 32, 65, 127, 128, 173, 255, 0x7FF, 0x800, 0xD7FF):
        [(written, _)] = split.pre_tokenize_str(chr(code))
        assert written == "".join(letters[byte] for byte in chr(code).encode())
    every = dict.fromkeys(letters.values(), 0)
    assert len(_sayable(every)) == 0xD800


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int64, (6, 3), elements=st.integers(-20, 20)))
def test_round_trips(values: np.ndarray) -> None:
    fast = read_folder(FOLDER, WIDE)
    sayable = set((fast._sayable + fast.min_token).tolist())
    chunk = idct(values / fast.scale, axis=0, norm="ortho")
    decoded = fast.decode(fast.encode(chunk))
    back = np.rint(dct(decoded, axis=0, norm="ortho") * fast.scale).astype(int)
    for wanted, found in zip(values.ravel(), back.ravel(), strict=True):
        assert found == (wanted if wanted in sayable else min(sayable, key=lambda s: (abs(s - wanted), -s)))
    assert fast.num_repaired == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=80))
def test_any_ids_decode_within_reach(ids: list[int]) -> None:
    fast = PublishedFastConfig(path=str(FOLDER)).fit(CHUNKS)
    ids = [token % fast.vocab_size for token in ids]
    chunk = fast.decode(ids)
    assert (chunk >= CHUNKS.min((0, 1)) - 1e-6).all()
    assert (chunk <= CHUNKS.max((0, 1)) + 1e-6).all()
    text = fast._bpe.decode(ids, skip_special_tokens=False)
    assert fast.num_repaired == int(len(text) != 18 or "\ufffd" in text)


def edit(folder: Path, file: str, *path: str, value: Any) -> None:
    data = json.loads((folder / file).read_text())
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / file).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        ("processor_config.json", "time_horizon", 50, "time_horizon: found 50; expected 6, as in the chunks of this"),
        ("processor_config.json", "action_dim", 7, "action_dim: found 7; expected 3, as in the chunks of this robot"),
        ("processor_config.json", "scale", 0, "scale 0.0 and min_token -21; expected a FAST tokenizer"),
        ("processor_config.json", "min_token", "x", "min_token 'x'"),
        ("tokenizer.json", "normalizer", {"type": "NFC"}, "with a normalizer or added tokens"),
        ("tokenizer.json", "pre_tokenizer", {"type": "Whitespace"}, "a BPE model with Whitespace and ByteLevel"),
        ("tokenizer.json", "model/type", "Unigram", "a Unigram model"),
        ("tokenizer.json", "model/ignore_merges", True, "a model with ignore_merges=True"),
        ("tokenizer.json", "model/vocab", {"a": 0, "b": 2}, "ids with gaps"),
        ("tokenizer.json", "model/vocab", [1], "a vocabulary that is no mapping of words to ids"),
        ("tokenizer.json", "model/vocab", {"zz": 0}, "expected a FAST tokenizer: byte-level BPE"),
    ],
)
def test_what_is_no_fast_tokenizer_is_refused(folder: Path, file: str, path: str, value: Any, said: str) -> None:
    edit(folder, file, *path.split("/"), value=value)
    with pytest.raises(DataError, match=said):
        PublishedFastConfig(path=str(folder)).fit(CHUNKS)


def test_missing_and_cut_files_are_named(folder: Path) -> None:
    config = PublishedFastConfig(path=str(folder))
    (folder / "processor_config.json").rename(folder / "preprocessor_config.json")
    assert config.fit(CHUNKS).vocab_size == config.fit(CHUNKS[:1]).vocab_size
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"preprocessor_config.json: found ValueError: a list; expected a JSON object"):
        config.fit(CHUNKS)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(SetupError, match=r"processor_config.json: found no such file.*model.tokenizer.path"):
        config.fit(CHUNKS)
    with (folder / "processor_config.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(DataError, match="67,108,865 bytes"):
        config.fit(CHUNKS)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_damaged_folders_are_refused_or_still_decode(folder: Path, name: str) -> None:
    def use() -> None:
        fast = PublishedFastConfig(path=str(folder)).fit(CHUNKS)
        wild = np.random.default_rng(0).integers(0, fast.vocab_size, (3, 12))
        assert np.isfinite(fast.decode_all(wild.tolist())).all()
        assert np.isfinite(fast.decode_all(fast.encode_all(CHUNKS[:3]))).all()

    assert survive(folder / name, use, 1000)["refused"] > 300
