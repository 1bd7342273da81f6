"""Diffusion Policy's ReplayBuffer, as the zarr library writes it in all its ways, against our own reader."""

import json
import pickle
import shutil
import warnings
import zipfile
import zlib
from multiprocessing import get_context
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from fuzz import survive
from recordings import BASE, LENGTHS, SIZE, draw, seen, write_zarr

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.blank import is_blank
from trivium.data.source.zarr_set import ZarrConfig, ZarrSet

V2, V3 = numcodecs, zarr.codecs
WAYS = {
    "v2 blosc": ("a.zarr", {"compressors": V2.Blosc("lz4", 5, V2.Blosc.NOSHUFFLE)}),
    "v2 blosc for disks": ("a.zarr", {"compressors": V2.Blosc("zstd", 5, V2.Blosc.BITSHUFFLE)}),
    "v2 zstd": ("a.zarr", {"compressors": V2.Zstd(3)}),
    "v2 gzip": ("a.zarr", {"compressors": V2.GZip(3)}),
    "v2 zlib": ("a.zarr", {"compressors": V2.Zlib(3)}),
    "v2 lz4": ("a.zarr", {"compressors": V2.LZ4()}),
    "v2 raw, Fortran order": ("a.zarr", {"compressors": None, "order": "F"}),
    "v2 folders": ("a.zarr", {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),
    "v2 zip": ("a.zarr.zip", {"compressors": V2.Blosc()}),
    "v2 floats": ("a.zarr", {"pictures": np.float32}),
    "v2 channels first": ("a.zarr", {"channels_first": True}),
    "v3 zstd": ("a.zarr", {"version": 3}),
    "v3 blosc, checksum": ("a.zarr", {"version": 3, "compressors": [V3.BloscCodec(typesize=1), V3.Crc32cCodec()]}),
    "v3 gzip zip": ("a.zip", {"version": 3, "compressors": V3.GzipCodec()}),
    "v3 raw": ("a.zarr", {"version": 3, "compressors": None, "serializer": V3.BytesCodec(endian="big")}),
}


def open_set(path: Path, **changes) -> ZarrSet:
    asked = {"path": str(path), "views": ("img",), "action": ("action",), "task": "push it"} | BASE
    return ZarrConfig(**asked | {"state": ("agent_pos", "gripper")} | changes).build()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of codecs outside its specification
        root = tmp_path_factory.mktemp("zarr")
        return {way: write_zarr(root / str(j) / name, **how) for j, (way, (name, how)) in enumerate(WAYS.items())}


@pytest.fixture
def own_store(stores, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores["v2 gzip"], tmp_path / "own.zarr"))


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(path, **changes)
    return str(caught.value)


def edit(path: Path, file: str, **changes) -> None:
    raw = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(raw | changes))


@pytest.mark.parametrize("way", WAYS)
def test_every_frame_is_the_right_one_in_random_order(stores, way):
    for cache_gb in (0.1, 1e-6):
        source = open_set(stores[way], cache_gb=cache_gb)
        assert len(source) == sum(LENGTHS)
        for i in np.random.default_rng(0).permutation(len(source)):
            sample = source.read(int(i))
            name, episode, frame = sample.id.split("/")
            e, t = int(episode), int(frame)
            assert (name, seen(sample.of(Image)[0].pixels)) == ("a", (e, t))
            assert (sample.of(Image)[0].pixels == draw(e, t)).all()
            assert sample.of(State)[0].values.tolist() == [t, -t, 100 + t]
            assert sample.of(Action)[0].values[0].tolist() == [1000 * e + t] * 3
            assert sample.of(Text)[0].text == "push it"
    assert source.names("state") == ("agent_pos.0", "agent_pos.1", "gripper")


def test_chunks_never_cross_episodes(stores):
    source = open_set(stores["v2 blosc"])
    values, valid = source.chunks(np.arange(len(source)))
    assert (values[:, :, 0] // 1000 == source.groups()[:, None]).all()
    assert (~valid).sum() == len(LENGTHS) * 4 * 3 // 2


def test_peek_decodes_nothing_and_agrees_with_read(stores):
    source = open_set(stores["v2 channels first"], history=2)
    peeked, read = source.peek(11), source.read(11)
    assert all(is_blank(image.pixels) for image in peeked.of(Image))
    assert [image.pixels.shape for image in peeked.of(Image)] == [(SIZE, SIZE, 3)] * 2
    assert [seen(image.pixels) for image in read.of(Image)] == [(1, 1), (1, 2)]


def _read_in_child(source: ZarrSet, i: int, out) -> None:
    out.put(seen(source.read(i).of(Image)[0].pixels))


@pytest.mark.parametrize("way", ["v2 blosc", "v2 zip"])
def test_a_source_travels_and_survives_a_fork(stores, way):
    source = open_set(stores[way], cache_gb=1e-6)
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


def test_fingerprint_follows_content_and_not_place(stores, own_store):
    before = open_set(own_store).fingerprint
    moved = Path(shutil.copytree(own_store, own_store.parent / "far" / "own.zarr"))
    assert open_set(moved).fingerprint == before
    assert open_set(moved, horizon=5).fingerprint != before
    (moved / "data/action/1.0").write_bytes((moved / "data/action/2.0").read_bytes())
    assert open_set(moved).fingerprint != before


def test_a_zip_with_a_folder_around_everything(stores, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in stores["v2 blosc"].rglob("*") if p.is_file()):
            archive.write(file, Path("a.zarr") / file.relative_to(stores["v2 blosc"]))
    assert seen(open_set(tmp_path / "a.zarr.zip").read(12).of(Image)[0].pixels) == (1, 3)


@pytest.mark.parametrize(
    ("key", "changes", "text"),
    [
        ("action", {"dtype": "|O"}, "dtype '|O'; expected numbers; objects are never read"),
        ("action", {"filters": [{"id": "pickle"}]}, "codecs pickle, gzip; expected one of blosc"),
        ("action", {"compressor": {"id": "pickle"}}, "codecs pickle"),
        ("img", {"compressor": {"id": "imagecodecs_jpegxl"}}, "codecs imagecodecs_jpegxl"),
        ("action", {"shape": [28]}, "shape (28,), chunks (7, 3)"),
        ("action", {"shape": [27, 3]}, "27 rows; expected 28, where the last episode ends"),
        ("action", {"shape": [28, 1 << 40]}, "shape (28, 1099511627776)"),
        ("action", {"chunks": [7, 1 << 40]}, "chunks of shape (7, 1099511627776); expected at most"),
        ("img", {"shape": [28, 16, 16, 4]}, "shape (28, 16, 16, 4); expected RGB pictures"),
        ("img", {"shape": [28, 1 << 20, 1 << 20, 3]}, "pictures of 1048576 x 1048576 pixels"),
        ("action", {"shape": "x"}, "a description that cannot be read"),
        ("action", {"order": "Z"}, "a description that cannot be read"),
    ],
)
def test_faults_of_a_description_name_the_array(own_store, key, changes, text):
    edit(own_store, f"data/{key}/.zarray", **changes)
    said = broken(own_store)
    assert f"data/{key}" in said
    assert text in said


def test_faults_of_a_set(own_store, tmp_path):
    assert "no 'arm'; expected one of action, agent_pos, gripper, img. Change `state`." in broken(
        own_store, state=("arm",)
    )
    assert "no '../../x'" in broken(own_store, state=("../../x",))
    assert "no such file or folder" in broken(tmp_path / "nowhere")
    (own_store / "data/img/2.0.0.0").unlink()
    assert "data/img: found no chunk data/img/2.0.0.0" in broken(own_store)
    shutil.rmtree(own_store / "meta/episode_ends")
    assert "no meta/episode_ends (under data there is action, agent_pos, gripper, img)" in broken(own_store)


@pytest.mark.parametrize(
    ("ends", "text"), [([9, 9, 28], "episode 1: found end 9"), ([0, 28], "episode 0: found end 0")]
)
def test_episode_ends(own_store, ends, text):
    made = zarr.create_array(own_store / "meta/episode_ends", data=np.array(ends), zarr_format=2, overwrite=True)
    assert made.shape == (len(ends),)
    assert text in broken(own_store)


def test_numbers_that_are_none_name_their_frame(own_store):
    zarr.open_array(own_store / "data/action", mode="a")[LENGTHS[0] + 2, 1] = np.nan
    assert "episode 1, frame 2: found nan in action, dimension 1 (action.1)" in broken(own_store)


def _blosc_bomb(size: int) -> bytes:
    return bytes(numcodecs.Blosc("zstd").encode(np.zeros(size, np.uint8)))


@pytest.mark.parametrize(
    ("way", "bomb", "text"),
    [
        ("v2 gzip", zlib.compress(bytes(1 << 27)), "3,841 bytes; expected 3,840 in a chunk"),
        ("v2 zstd", numcodecs.Zstd().encode(bytes(1 << 27)), "3,841 bytes; expected 3,840 in a chunk"),
        ("v2 blosc", _blosc_bomb(1 << 27), "cannot be unpacked (134,217,728 bytes inside)"),
        ("v2 lz4", numcodecs.LZ4().encode(bytes(1 << 27)), "cannot be unpacked (134,217,728 bytes inside)"),
        ("v2 raw, Fortran order", bytes(7), "7 bytes; expected 3,840 in a chunk"),
    ],
)
def test_a_chunk_that_is_too_large_stops_at_its_size(stores, tmp_path, way, bomb, text):
    path = Path(shutil.copytree(stores[way], tmp_path / "own.zarr"))
    (path / "data/img/1.0.0.0").write_bytes(bytes(bomb))
    source = open_set(path)
    with pytest.raises(DataError, match=r"data/img/1.0.0.0: episode 0, frame 7: found") as caught:
        source.read(7)
    assert text in str(caught.value)


def test_links_and_names_that_lead_out_are_refused(own_store, stores, tmp_path):
    outside = tmp_path / "outside"
    (own_store / "data/action").rename(outside)
    (own_store / "data/action").symlink_to(outside)
    assert "a link at action" in broken(own_store)
    for name, text in (("../x", "a member named '../x'"), ("/x", "a member named '/x'"), ("a\\b", "a member named")):
        path = Path(shutil.copy(stores["v2 zip"], tmp_path / "own.zip"))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"")
        assert text in broken(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta/episode_ends/.zarray", bytes(1 << 24))
    assert "16,777,216 bytes; expected at most" in broken(path)


FUZZED = {
    "v2 blosc": ("data/img/0.0.0.0", "data/img/.zarray", "meta/episode_ends/0"),
    "v2 zstd": ("data/action/0.0",),
    "v2 lz4": ("data/action/0.0",),
    "v2 gzip": ("data/action/0.0",),
    "v3 zstd": ("data/img/zarr.json",),
    "v2 zip": ("",),
}


@pytest.mark.parametrize(("way", "file"), [(way, file) for way, files in FUZZED.items() for file in files])
def test_fuzz(tmp_path, way, file):
    name, how = WAYS[way]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_zarr(tmp_path / name, (3, 2), **how)

    def use() -> None:
        source = open_set(path, state=("agent_pos",), horizon=2)
        for i in range(len(source)):
            assert source.read(i).of(Image)[0].pixels.shape == (SIZE, SIZE, 3)

    assert survive(path / file if file else path, use, 260)["refused"] > 20
