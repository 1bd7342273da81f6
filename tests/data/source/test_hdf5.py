"""robomimic's and LIBERO's HDF5: every frame is the right one; links, objects, holes and bombs are refused."""

import os
import pickle
import shutil
import signal
import zlib
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzz import survive
from recordings import BASE, LENGTHS, SIZE, TASKS, draw, seen, write_libero, write_robomimic

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.blank import is_blank
from trivium.data.source import hdf5, hdf5_read
from trivium.data.source.hdf5 import Hdf5, Hdf5Config

STORAGE = {
    "plain": {},
    "gzip": {"compression": "gzip", "shuffle": True, "chunks": True},
    "lzf": {"compression": "lzf"},
}


def open_set(path: Path, **changes) -> Hdf5:
    asked = {"path": str(path), "views": ("agentview_image",), "action": ("actions",), "task": "lift it"} | BASE
    return Hdf5Config(**asked | {"state": ("eef_pos", "gripper_qpos")} | changes).build()


def open_libero(path: Path, **changes) -> Hdf5:
    asked = {"views": ("agentview_rgb", "eye_in_hand_rgb"), "state": ("ee_states", "gripper_states"), "flip": "rows"}
    return open_set(path, **asked | changes)


@pytest.fixture(scope="module", params=STORAGE)
def robomimic_file(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robomimic(tmp_path_factory.mktemp("robomimic") / "toy.hdf5", **STORAGE[request.param])


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    return write_robomimic(tmp_path / "own.hdf5")


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(path, **changes)
    return str(caught.value)


def replace(path: Path, name: str, make) -> None:
    """Put something else in the place of an array."""
    with h5py.File(path, "a") as file:
        del file[name]
        make(file)


def test_every_frame_is_the_right_one_in_random_order(robomimic_file):
    for cache_gb in (0.1, 1e-6):
        source = open_set(robomimic_file, cache_gb=cache_gb)
        assert len(source) == sum(LENGTHS)
        for i in np.random.default_rng(0).permutation(len(source)):
            sample = source.read(int(i))
            name, episode, frame = sample.id.split("/")
            e, t = int(episode), int(frame)
            assert (name, seen(sample.of(Image)[0].pixels)) == ("toy", (e, t))
            assert sample.of(State)[0].values.tolist() == [t, -t, 100 + t]
            assert sample.of(Action)[0].values[0].tolist() == [1000 * e + t] * 3
            assert sample.of(Text)[0].text == "lift it"
    assert source.names("state") == ("eef_pos.0", "eef_pos.1", "gripper_qpos")
    assert source.names("action") == ("actions.0", "actions.1", "actions.2")


def test_chunks_never_cross_episodes(robomimic_file):
    source = open_set(robomimic_file)
    values, valid = source.chunks(np.arange(len(source)))
    assert (values[:, :, 0] // 1000 == source.groups()[:, None]).all()
    assert (~valid).sum() == len(LENGTHS) * 4 * 3 // 2


def test_demonstrations_stand_by_number_and_not_by_name(tmp_path):
    path = write_robomimic(tmp_path / "many.hdf5", tuple([2] * 12))
    source = open_set(path)
    assert source.columns()["action"][::2, 0].tolist() == [1000.0 * e for e in range(12)]
    assert seen(source.read(21).of(Image)[0].pixels) == (10, 1)


def test_filter_keys(own_file):
    assert len(open_set(own_file, mask="train")) == sum(LENGTHS[:-1])
    valid = open_set(own_file, mask="valid")
    assert (len(valid), seen(valid.read(4).of(Image)[0].pixels)) == (LENGTHS[-1], (2, 4))
    del valid  # HDF5 lets nobody write to a file that somebody reads
    assert "no 'mask/test'; expected one of train, valid. Change `mask`." in broken(own_file, mask="test")
    replace(own_file, "mask/valid", lambda file: file.create_dataset("mask/valid", data=np.array([b"demo_7"])))
    assert "'demo_7' in mask/valid" in broken(own_file, mask="valid")


def test_libero_is_a_folder_of_tasks_with_pictures_upside_down(tmp_path):
    source = open_libero(write_libero(tmp_path / "libero_toy"))
    episodes = (0, 2, 1) if sorted(TASKS)[0] == TASKS[0] else (1, 0, 2)
    begin = 0
    for number, e in enumerate(episodes):
        sample = source.read(begin + 3)
        assert sample.id == f"libero_toy/{number}/3"
        assert [seen(image.pixels) for image in sample.of(Image)] == [(e, 3)] * 2
        assert sample.of(Text)[0].text == TASKS[e % 2]
        assert sample.of(Action)[0].values[0, 0] == 1000 * e + 3
        assert sample.of(State)[0].values.tolist() == [3, 3, 3, -3, -3, -3, 103, 103]
        begin += LENGTHS[e]
    first = draw(episodes[0], 3)
    as_stored, turned = (open_libero(tmp_path / "libero_toy", flip=flip) for flip in ("none", "half_turn"))
    assert (as_stored.read(3).of(Image)[0].pixels == first[::-1]).all()
    assert (turned.read(3).of(Image)[0].pixels == first[:, ::-1]).all()


def test_peek_decodes_nothing_and_agrees_with_read(robomimic_file):
    source = open_set(robomimic_file, history=2)
    peeked, read = source.peek(11), source.read(11)
    assert all(is_blank(image.pixels) for image in peeked.of(Image))
    assert [image.pixels.shape for image in peeked.of(Image)] == [(SIZE, SIZE, 3)] * 2
    assert [seen(image.pixels) for image in read.of(Image)] == [(1, 1), (1, 2)]


def _read_in_child(source: Hdf5, i: int, out) -> None:
    out.put(seen(source.read(i).of(Image)[0].pixels))


def test_a_source_travels_and_survives_a_fork(robomimic_file, own_file):
    source = open_set(robomimic_file, cache_gb=1e-6)
    source.read(0)
    again = pickle.loads(pickle.dumps(source))
    assert seen(again.read(10).of(Image)[0].pixels) == (1, 1)
    context = get_context("fork")
    out = context.Queue()
    child = context.Process(target=_read_in_child, args=(source, 12, out))
    child.start()
    assert out.get(timeout=60) == (1, 3)
    child.join()
    assert seen(source.read(11).of(Image)[0].pixels) == (1, 2)


def test_fingerprint_follows_content_and_not_place(own_file, tmp_path):
    before = open_set(own_file).fingerprint
    (tmp_path / "far").mkdir()
    assert open_set(Path(shutil.copy(own_file, tmp_path / "far"))).fingerprint == before
    with h5py.File(own_file, "a") as file:
        file["data/demo_1/actions"][3, 0] = 5
    assert open_set(own_file).fingerprint != before


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("obs/eef_pos", lambda g: g.create_dataset("obs/eef_pos", data=np.zeros((13, 2))), "13 rows; expected 14, as"),
        ("obs/eef_pos", lambda g: g.create_dataset("obs/eef_pos", data=np.zeros((14, 3))), "3 numbers a frame"),
        ("obs/eef_pos", lambda g: None, "no 'eef_pos'; expected one of agentview_image, gripper_qpos. Change `state`."),
        ("actions", lambda g: g.create_dataset("actions", data=np.array([b"x"] * 14)), "dtype |S1; expected numbers"),
        ("actions", lambda g: g.create_dataset("actions", data=["x"] * 14), "dtype object; expected numbers"),
        ("actions", lambda g: g.create_dataset("actions", (14, 3), "f4"), "0 bytes; expected 168 for shape (14, 3)"),
        ("actions", lambda g: g.create_dataset("actions", (14, 3), "f4", chunks=(2, 3)), "0 chunks; expected 7"),
        ("actions", lambda g: g.__setitem__("actions", h5py.SoftLink("/data/demo_0/actions")), "a SoftLink"),
        ("actions", lambda g: g.__setitem__("actions", h5py.ExternalLink("/etc/x", "/a")), "an? ExternalLink"),
        ("actions", lambda g: g.create_group("actions"), "a Group; expected a dataset"),
        (
            "obs/agentview_image",
            lambda g: g.create_dataset("obs/agentview_image", data=np.zeros((14, 8, 8, 3), np.uint8)),
            "pictures of (8, 8); expected (16, 16), as in the demonstrations before",
        ),
        (
            "obs/agentview_image",
            lambda g: g.create_dataset("obs/agentview_image", data=np.zeros((14, 8, 8), np.uint8)),
            "shape (14, 8, 8); expected RGB pictures",
        ),
    ],
)
def test_faults_of_a_demonstration_name_it(own_file, name, make, text):
    replace(own_file, f"data/demo_1/{name}", lambda file: make(file["data/demo_1"]))
    said = broken(own_file)
    assert f"{own_file}: demo_1" in said
    assert text.replace("an? ", "a ") in said


def test_data_in_other_files_are_never_read(own_file, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(14 * 3 * 4))
    layout = h5py.VirtualLayout((14, 3), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (14, 3))
    for make in (
        lambda file: file.create_dataset("data/demo_1/actions", (14, 3), "f4", external=[(str(secret), 0, 168)]),
        lambda file: file.create_virtual_dataset("data/demo_1/actions", layout),
    ):
        replace(own_file, "data/demo_1/actions", make)
        assert "demo_1, actions: found data that lie in other files" in broken(own_file)


def test_declared_sizes_are_checked_before_memory_is_taken(own_file):
    def huge(file: h5py.File) -> None:
        file.create_dataset("data/demo_1/actions", (1 << 40, 3), "f4", chunks=(1 << 20, 3))

    replace(own_file, "data/demo_1/actions", huge)
    assert "0 chunks; expected" in broken(own_file)


def test_a_gzip_bomb_stops_at_the_declared_size(own_file):
    def bomb(file: h5py.File) -> None:
        made = file.create_dataset("data/demo_1/actions", (14, 3), "f4", chunks=(14, 3), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 27)))

    replace(own_file, "data/demo_1/actions", bomb)
    assert (
        "demo_1, actions: found data that cannot be read (a chunk that unpacks to more than its 168 bytes)"
        in broken(own_file)
    )


def test_faults_of_a_file(own_file, tmp_path):
    with h5py.File(own_file, "a") as file:
        file["data/demo_1/actions"][5, 1] = np.inf
    assert "episode 1, frame 5: found inf in action, dimension 1 (actions.1)" in broken(own_file)
    assert "control_freq 20 in env_args; expected 10 frames a second, as `fps` says" in broken(own_file, fps=10.0)
    with h5py.File(own_file, "a") as file:
        file["data"].attrs["total"] = 27
    assert "total 27; expected the sum of num_samples" in broken(own_file)
    with h5py.File(own_file, "a") as file:
        file["data"].attrs["env_args"] = "{"
    assert "env_args: found '{'; expected a JSON object" in broken(own_file)
    own_file.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert "no whole HDF5 file" in broken(own_file)
    assert "no such file or folder" in broken(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "a folder without .hdf5 files" in broken(tmp_path / "empty")


@pytest.mark.parametrize(("scale", "good"), [(1.0, True), (0.9 / 255, False), (2.0, False)])
def test_float_pictures_must_be_whole_grey_levels(own_file, scale, good):
    name = "data/demo_1/obs/agentview_image"
    pixels = (np.stack([draw(1, t) for t in range(14)]) * scale).astype(np.float32)
    replace(own_file, name, lambda file: file.create_dataset(name, data=pixels))
    source = open_set(own_file)
    if good:
        assert seen(source.read(LENGTHS[0] + 6).of(Image)[0].pixels) == (1, 6)
        return
    with pytest.raises(DataError, match="demo_1, frame 6, obs/agentview_image: found floats that are no whole numbers"):
        source.read(LENGTHS[0] + 6)


def test_a_file_on_which_hdf5_loops_for_ever_or_crashes_is_refused(own_file, monkeypatch):
    data = bytearray(own_file.read_bytes())
    at = data.index(b"GCOL") + 16
    while int.from_bytes(data[at : at + 2], "little"):  # the objects of the global heap, up to its free space
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    data[at + 8 : at + 16] = bytes(8)
    bad = own_file.with_name("second.hdf5")
    bad.write_bytes(data)
    monkeypatch.setattr(hdf5_read, "REHEARSAL_S", 1)
    assert f"{bad}: found a file on which HDF5 crashes, or needs more than 1 s (its process ended with -" in broken(
        own_file.parent
    )
    monkeypatch.setattr(Hdf5, "_read_file", lambda self, path: os.kill(os.getpid(), signal.SIGKILL))
    assert "own.hdf5: found a file on which HDF5 crashes" in broken(own_file)


@pytest.mark.parametrize("storage", STORAGE)
def test_fuzz(tmp_path, storage, monkeypatch):
    # The fork costs more than all else; what it is for has the test above.
    monkeypatch.setattr(hdf5, "rehearse", lambda paths, read: None)
    path = write_robomimic(tmp_path / "tiny.hdf5", (3, 2), **STORAGE[storage])

    def use() -> None:
        source = open_set(path)
        for i in range(len(source)):
            assert source.read(i).of(Image)[0].pixels.shape == (SIZE, SIZE, 3)

    counts = survive(path, use, 700)
    assert min(counts.values()) > 20
