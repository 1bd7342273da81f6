"""RLDS without TensorFlow: every frame is the right one, and every fault is named with its episode."""

import json
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzz import survive
from recordings import BASE, LENGTHS, SIZE, TASKS, encoded, example, frame_record, rlds_episode, seen, write_rlds

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.blank import is_blank
from trivium.data.source.rlds import Rlds, RldsConfig

ACTION = ("action/move", "action/open")
SHARD = "toy-train.tfrecord-00000-of-00002"


def open_set(path: Path, **changes) -> Rlds:
    asked = {"path": str(path), "views": ("image",), "state": ("pos", "gripper"), "action": ACTION} | BASE
    return RldsConfig(**asked | changes).build()


@pytest.fixture(scope="module")
def rlds_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlds(tmp_path_factory.mktemp("rlds") / "1.0.0")


@pytest.fixture
def own_rlds(rlds_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rlds_set, tmp_path / "own"))


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(path, **changes)
    return str(caught.value)


def put(path: Path, *episodes: dict) -> None:
    """Write the first shard anew."""
    (path / SHARD).write_bytes(b"".join(frame_record(example(features)) for features in episodes))


def test_every_frame_is_the_right_one_in_random_order(rlds_set):
    for cache_gb in (0.1, 1e-6):
        source = open_set(rlds_set, cache_gb=cache_gb)
        assert len(source) == sum(LENGTHS)
        for i in np.random.default_rng(0).permutation(len(source)):
            sample = source.read(int(i))
            name, episode, frame = sample.id.split("/")
            e, t = int(episode), int(frame)
            assert (name, seen(sample.of(Image)[0].pixels)) == ("toy", (e, t))
            assert sample.of(State)[0].values.tolist() == [t, -t, 100 + t]
            assert sample.of(Action)[0].values[0].tolist() == [1000 * e + t] * 3
            assert sample.of(Text)[0].text == TASKS[e % 2]
    assert source.names("state") == ("pos.0", "pos.1", "gripper")
    assert source.names("action") == ("action/move.0", "action/move.1", "action/open")
    assert (source.license, source.embodiment, source.fps) == ("CC-BY-4.0", "toy", 20.0)


def test_chunks_never_cross_episodes(rlds_set):
    source = open_set(rlds_set)
    values, valid = source.chunks(np.arange(len(source)))
    assert (values[:, :, 0] // 1000 == source.groups()[:, None]).all()
    assert (~valid).sum() == len(LENGTHS) * 4 * 3 // 2


def test_peek_decodes_nothing_and_agrees_with_read(rlds_set):
    source = open_set(rlds_set, history=2)
    peeked, read = source.peek(11), source.read(11)
    assert all(is_blank(image.pixels) for image in peeked.of(Image))
    assert [image.pixels.shape for image in peeked.of(Image)] == [image.pixels.shape for image in read.of(Image)]
    assert [seen(image.pixels) for image in read.of(Image)] == [(1, 1), (1, 2)]


def test_a_source_travels_and_its_fingerprint_follows_content(rlds_set, own_rlds):
    source = open_set(rlds_set)
    source.read(0)
    again = pickle.loads(pickle.dumps(source))
    assert seen(again.read(10).of(Image)[0].pixels) == (1, 1)
    assert open_set(own_rlds).fingerprint == source.fingerprint
    assert open_set(own_rlds, horizon=5).fingerprint != source.fingerprint
    put(own_rlds, rlds_episode(0, 9), rlds_episode(5, 14))
    assert open_set(own_rlds).fingerprint != source.fingerprint


def test_tensors_stored_as_bytes_keep_their_dtype(rlds_set):
    source = open_set(rlds_set, state=("raw",), views=(), instruction="")
    assert source.read(12).of(State)[0].values.tolist() == [3, -3]
    assert source.read(12).of(Text)[0].text == ""


def test_large_and_negative_integers(own_rlds):
    first = rlds_episode(0, 9)
    first["steps/action/open"] = np.array([0, 1, 127, 128, 300, -1, -(2**31), 2**31 - 1, 2**40])
    put(own_rlds, first, rlds_episode(1, 14))
    values = open_set(own_rlds).columns()["action"][:9, 2]
    assert values.tolist() == np.float32(first["steps/action/open"]).tolist()


def test_a_damaged_record_is_refused_before_any_of_its_frames_is_given(own_rlds):
    file = own_rlds / SHARD
    data = bytearray(file.read_bytes())
    at = data.index(np.float32(1003).tobytes())
    data[at + 1] ^= 1  # an action of episode 1 that still is a number
    file.write_bytes(data)
    for views in (("image",), ()):
        source = open_set(own_rlds, views=views)
        source.read(0)
        with pytest.raises(DataError, match=r"00000-of-00002: episode 1: found a damaged record \(its checksum"):
            source.read(LENGTHS[0])


def test_headers_and_lengths(own_rlds):
    file = own_rlds / SHARD
    whole = file.read_bytes()
    file.write_bytes(b"\xff" * 7 + whole[7:])
    assert "a damaged header at byte 0" in broken(own_rlds)
    head = (2**62).to_bytes(8, "little")
    frame = frame_record(b"")
    file.write_bytes(head + frame[8:])
    assert "a damaged header" in broken(own_rlds)
    file.write_bytes(whole[:-9])
    assert "a file cut short: the record at byte" in broken(own_rlds)
    put(own_rlds, rlds_episode(0, 9))
    assert f"{SHARD}: found 1 episodes; expected 2, as dataset_info.json says" in broken(own_rlds)
    file.unlink()
    assert f"no file {SHARD}, shard 0 of 2" in broken(own_rlds)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("steps/is_first", np.array([1, 0, 0, 1, 0]), "is_first True at frame 3 of 5"),
        ("steps/is_last", np.array([0, 0, 0, 0, 0]), "is_last False at frame 4 of 5"),
        ("steps/is_terminal", np.array([0, 1, 0, 0, 1]), "is_terminal True at frame 1 of 5"),
        ("steps/is_first", np.array([1, 0, 0]), "int64 of shape (3,) in is_first"),
        ("steps/action/move", np.zeros(11, np.float32), "11 numbers in action/move; expected a multiple of 2"),
        ("steps/observation/pos", np.zeros(8, np.float32), "8 numbers in observation/pos; expected 5 steps of 2"),
        ("steps/observation/pos", np.zeros(10, int), "int64 in observation/pos; expected float32"),
        ("steps/observation/image", [b"x"], "1 steps in observation/image; expected 5"),
        ("steps/observation/image", np.zeros(5, int), "numbers in observation/image"),
        ("steps/language_instruction", [b"\xff"] * 5, "language_instruction that is no text"),
        ("steps/action/open", None, "no feature 'steps/action/open'"),
    ],
)
def test_faults_of_an_episode_name_it(own_rlds, key, value, text):
    second = rlds_episode(1, 5)
    second[key] = value
    put(own_rlds, rlds_episode(0, 4), {k: v for k, v in second.items() if v is not None})
    said = broken(own_rlds)
    assert f"{SHARD}: episode 1: found {text}" in said


def test_numbers_that_are_none(own_rlds):
    second = rlds_episode(1, 5)
    second["steps/action/move"][2, 1] = np.nan
    put(own_rlds, rlds_episode(0, 4), second)
    assert "episode 1, frame 2: found nan in action, dimension 1 (action/move.1)" in broken(own_rlds)


def test_pictures_that_are_none(own_rlds):
    bomb = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    bomb[16:24] = (9000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    deep = encoded(np.zeros((SIZE, SIZE), np.uint16))
    for data, text in (
        (b"GIF89a", "6 bytes that are no picture"),
        (bytes(bomb), "a picture of 9000 x 9000 pixels, above 64,000,000"),
        (encoded(np.zeros((8, 8, 3), np.uint8)), "a picture of 8 x 8 pixels; expected 16 x 16"),
        (encoded(np.zeros((SIZE, SIZE, 3), np.uint8))[:-30], "a picture that cannot be decoded"),
        (deep, "a picture of mode I;16"),
    ):
        second = rlds_episode(1, 5)
        second["steps/observation/image"][3] = data
        put(own_rlds, rlds_episode(0, 4), second)
        source = open_set(own_rlds)
        with pytest.raises(DataError, match="episode 1, frame 3, view image") as caught:
            source.read(4 + 3)
        assert text in str(caught.value)


def test_the_two_json_files(own_rlds, tmp_path):
    assert "no 'arm'; expected one of gripper, image, pos, raw. Change `state`." in broken(own_rlds, state=("arm",))
    assert "one of train. Change `split`." in broken(own_rlds, split="test")
    assert "a feature of kind image; expected one of kind tensor" in broken(own_rlds, state=("image",))
    assert "Change `instruction`." in broken(own_rlds, instruction="words")
    assert "no dataset_info.json" in broken(tmp_path / "nowhere")
    info = json.loads((own_rlds / "dataset_info.json").read_text())
    for change, text in (
        ({"name": "../toy"}, "name '../toy'"),
        ({"fileFormat": "riegeli"}, "fileFormat 'riegeli'"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "shardLengths ['x']"),
        ({"splits": [{**info["splits"][0], "filepathTemplate": "../{DATASET}"}]}, "filepathTemplate"),
    ):
        (own_rlds / "dataset_info.json").write_text(json.dumps(info | change))
        assert text in broken(own_rlds)


def test_fuzz(tmp_path):
    path = write_rlds(tmp_path / "tiny", (3, 2), kind="PNG")

    def use() -> None:
        source = open_set(path)
        for i in range(len(source)):
            sample = source.read(i)
            e, t = source.where(i)
            assert seen(sample.of(Image)[0].pixels) == (e, t)
            assert sample.of(Action)[0].values[0, 0] == 1000 * e + t

    counts = {name: survive(path / name, use, n) for name, n in ((SHARD, 900), ("features.json", 250))}
    counts["info"] = survive(path / "dataset_info.json", use, 250)
    assert counts[SHARD]["refused"] > 800


def test_fuzz_of_what_checksums_protect(tmp_path):
    path = write_rlds(tmp_path / "tiny", (3, 2), kind="PNG")
    inside = tmp_path / "episode"
    inside.write_bytes(example(rlds_episode(0, 3, "PNG")))

    def use() -> None:
        (path / SHARD).write_bytes(frame_record(inside.read_bytes()))
        source = open_set(path)
        for i in range(len(source)):
            assert source.read(i).of(Image)[0].pixels.shape == (SIZE, SIZE, 3)

    counts = survive(inside, use, 800)
    assert min(counts.values()) > 10
