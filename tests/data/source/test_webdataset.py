import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fuzz import survive
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.sample import Image, Text
from trivium.data.blank import is_blank
from trivium.data.source import picture, tar, webdataset
from trivium.data.source.webdataset import JsonMember, PlainMember, WebDatasetConfig, find_shards


def png(value: int = 7, size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def member(name: str, data: bytes = b"", **changes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, data


def shard(path: Path, *members, kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as out:
        for entry in members:
            info, data = entry if isinstance(entry[0], tarfile.TarInfo) else member(*entry)
            out.addfile(info, io.BytesIO(data))
    return path


def pair(key: str, value: int = 7, words: str = "") -> list:
    return [(f"{key}.png", png(value)), (f"{key}.txt", (words or f"picture {value}").encode())]


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        WebDatasetConfig(path=str(path), **changes).build().read(0)
    return str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_in_any_order_over_shards(tmp_path, kind):
    long = "folder-with-a-name/" * 9 + "x"
    for s in range(2):
        names = [f"./{s}{j}" for j in range(4)] + ([] if kind == tarfile.USTAR_FORMAT else [f"{long}{s}", f"Ü{s}"])
        members = [entry for j, name in enumerate(names) for entry in pair(name, 10 * s + j)]
        shard(tmp_path / f"set/cc-{s:03d}.tar", (member("folder/", type=tarfile.DIRTYPE)), *members, kind=kind)
    source = WebDatasetConfig(path=str(tmp_path / "set/cc-{000..001}.tar"), license="CC0-1.0").build()
    assert len(source) == 2 * len(names)
    assert len(set(source.groups().tolist())) == len(source)
    seen = set()
    for i in np.random.default_rng(0).permutation(len(source)):
        sample = source.read(int(i))
        value = int(sample.of(Image)[0].pixels[0, 0, 0])
        assert (sample.of(Text)[0].text, sample.of(Text)[0].role) == (f"picture {value}", "caption")
        assert sample.segments.index(sample.of(Image)[0]) == 0
        assert sample.license == "CC0-1.0"
        seen.add((sample.id, value))
    assert ("cc/cc-001/12", 12) in seen
    assert len(seen) == len(source)
    if kind != tarfile.USTAR_FORMAT:
        assert {f"cc/cc-000/{long}0", "cc/cc-001/Ü1"} <= {name for name, _ in seen}
    assert WebDatasetConfig(path=str(tmp_path / "set")).build().read(3).of(Text)[0].text == "picture 3"


def test_peek_reads_no_pixels_and_pickles_carry_no_files(tmp_path):
    path = shard(tmp_path / "a.tar", *pair("one", 5))
    source = WebDatasetConfig(path=str(path)).build()
    peeked = source.peek(0).of(Image)[0].pixels
    assert is_blank(peeked)
    assert peeked.shape == source.read(0).of(Image)[0].pixels.shape == (6, 8, 3)
    again = pickle.loads(pickle.dumps(source))
    assert again.read(0).of(Image)[0].pixels[0, 0, 0] == 5
    child = os.fork()
    if not child:
        os._exit(0 if source.read(0).of(Text)[0].text == "picture 5" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert source.read(0).of(Text)[0].text == "picture 5"


def test_json_captions_and_conversations(tmp_path):
    turns = [{"from": "human", "value": "What is <image> this?"}, {"from": "gpt", "value": "An <image>."}]
    records = [{"caption": "a cup"}, {"caption": turns}]
    members = [
        entry
        for j, record in enumerate(records)
        for entry in [(f"{j}.JPG", png()), (f"{j}.json", json.dumps(record).encode())]
    ]
    path = shard(tmp_path / "a.tar", *members, ("0.cls", b"3"), ("readme", b"hello"))
    source = WebDatasetConfig(path=str(path), words=JsonMember(), group="shard").build()
    assert source.read(0).of(Text)[0].text == "a cup"
    talk = source.read(1).segments
    assert [segment.text if isinstance(segment, Text) else "picture" for segment in talk] == [
        "What is",
        "picture",
        "this?",
        "An <image>.",
    ]
    assert source.ignored == {"cls": 1, "": 1}
    assert len(set(source.groups().tolist())) == 1
    assert f"{path}: 0.json: found no 'text' (keys caption)" in broken(path, words=JsonMember(key="text"))
    bad = shard(tmp_path / "b.tar", ("0.jpg", png()), ("0.json", b'{"caption": '))
    assert f"{bad}: 0.json: found broken JSON" in broken(bad, words=JsonMember())


def test_fingerprint_follows_members_and_not_the_folder(tmp_path):
    def found(folder: str, *members) -> str:
        return WebDatasetConfig(path=str(shard(tmp_path / folder / "a.tar", *members))).build().fingerprint

    first = found("one", *pair("a"), *pair("b"))
    assert found("two", *pair("a"), *pair("b")) == first
    assert found("two", *pair("a"), *pair("c")) != first
    assert found("two", *pair("a"), *pair("b", words="longer than it was")) != first
    assert found("two", *pair("b"), *pair("a")) != first
    assert found("two", *pair("a"), (member("b.png", png(), mtime=5)), ("b.txt", b"picture 7")) != first


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (member("x.pyd", b"code"), "x.pyd: found a pickle, which is a program"),
        (member("x.image.pkl", b"code"), "x.image.pkl: found a pickle"),
        (member("x.pth", b"code"), "found a pickle"),
        (member("x.npy", b"\x93NUMPY"), "found an .npy of objects (a pickle), or no .npy at all"),
        (member("x.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'x.png', a symbolic link"),
        (member("x.png", type=tarfile.LNKTYPE, linkname="a.png"), "'x.png', a hard link"),
        (member("x.png", type=tarfile.CHRTYPE), "'x.png', a character device"),
        (member("x.png", type=tarfile.FIFOTYPE), "'x.png', a pipe"),
        (member("x.png", type=tarfile.GNUTYPE_SPARSE), "'x.png', a sparse file"),
        (member("../x.png", b"1"), "a member named '../x.png'; expected a relative name without '..'"),
        (member("/x.png", b"1"), "a member named '/x.png'"),
        (member("a\\x.png", b"1"), "a member named 'a\\\\x.png'"),
        (member("a.png", png()), "a.png: found a second picture of sample 'a'"),
        (member("a.TXT", b"again"), "a.TXT: found a second txt of sample 'a'"),
        (member("x.png", png()), "sample 'x': found no .txt; expected a picture and its words side by side"),
        (member("x.txt", b"words"), "sample 'x': found no .jpg or .jpeg or .png or .webp"),
    ],
)
def test_members_that_are_refused(tmp_path, entry, found):
    path = shard(tmp_path / "a.tar", *pair("a"), entry)
    text = broken(path)
    assert found in text
    assert str(path) in text


def test_npy_of_numbers_is_ignored_and_of_objects_refused(tmp_path):
    def saved(array: np.ndarray) -> bytes:
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()

    path = shard(tmp_path / "a.tar", *pair("a"), ("a.npy", saved(np.zeros(3))))
    assert WebDatasetConfig(path=str(path)).build().ignored == {"npy": 1}
    shard(path, *pair("a"), ("a.npy", saved(np.array([None]))))
    assert "a.npy: found an .npy of objects" in broken(path)


def test_a_sample_in_two_places(tmp_path):
    path = shard(tmp_path / "a.tar", *pair("a"), *pair("b"), *pair("a"))
    assert "sample 'a': found the same name again further on" in broken(path)


def test_damage_of_the_archive(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.tar", *pair("a"), *pair("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:2048])
    assert f"{path}: byte 2048: found the end of the file without an end mark" in broken(path)
    path.write_bytes(whole[:600])
    assert "found 'a.png' of 75 bytes in a file that ends after 88; expected a whole tar file" in broken(path)
    path.write_bytes(whole + whole)
    assert "found data behind the end mark" in broken(path)
    path.write_bytes(whole[:148] + b"0000000\0" + whole[156:])
    assert f"{path}: byte 0: found a header with a wrong checksum" in broken(path)
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    assert "found packed data; expected a plain tar file. Unpack it." in broken(path)
    path.write_bytes(whole)
    monkeypatch.setattr(tar, "MAX_MEMBERS", 2)
    assert "found more than 2 members" in broken(path)


def signed(block: bytes) -> bytes:
    """Return a header with the right checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + f"{sum(blank):06o}\0 ".encode() + block[156:]


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"\xff" * 12, "found a negative number in a header"),
        (b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, "bytes in a file that ends after"),
        (b"00000000009\0", "found b'00000000009\\x00' in a header; expected an octal number"),
        (b"-0000000001\0", "expected an octal number"),
    ],
)
def test_sizes_that_lie(tmp_path, field, found):
    path = shard(tmp_path / "a.tar", *pair("a"))
    whole = path.read_bytes()
    path.write_bytes(signed(whole[:124] + field + whole[136:512]) + whole[512:])
    assert found in broken(path)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"GNU.sparse.major": "1"}, "found 'GNU.sparse.major' in an extended header; expected a plain file"),
        ({"path": "../x.png"}, "a member named '../x.png'"),
        ({"path": "x\0y.png"}, "a member named 'x\\x00y.png'"),
        ({"size": "-5"}, "found size b'-5'"),
        ({"size": "9" * 15}, "bytes in a file that ends after"),
        ({"comment": "c" * 70000}, "found an extended header of 70,"),
    ],
)
def test_extended_headers_that_lie(tmp_path, headers, found):
    path = shard(tmp_path / "a.tar", member("x.png", png(), pax_headers=headers), kind=tarfile.PAX_FORMAT)
    assert found in broken(path)


def test_bombs_and_large_members(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.tar", ("a.png", png(1, (80, 60))), ("a.txt", b"words"))
    with monkeypatch.context() as patch:
        patch.setattr(picture, "MAX_PIXELS", 4000)
        assert f"{path}: a.png: found a picture of 80 x 60 pixels, above 4,000" in broken(path)
    monkeypatch.setattr(webdataset, "MAX_WORDS_BYTES", 4)
    assert "a.txt: found 5 bytes; expected at most 4" in broken(path)


def test_words_that_are_none(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", png()), ("a.txt", b"  "))
    assert f"{path}: a.txt: found the caption '  '; expected words" in broken(path)
    shard(path, ("a.png", png()), ("a.txt", b"\xff"))
    assert "a.txt: found words that are not UTF-8" in broken(path)
    shard(path, ("a.png", png()), ("a.caption", b"fine"))
    assert WebDatasetConfig(path=str(path), words=PlainMember(extension="caption")).build().read(0)


def test_paths_and_patterns(tmp_path):
    for name in ("s-08", "s-09", "s-10", "t-a", "t-b"):
        shard(tmp_path / f"{name}.tar", *pair("a"))
    assert [p.stem for p in find_shards(f"{tmp_path}/s-{{08..10}}.tar")] == ["s-08", "s-09", "s-10"]
    assert [p.stem for p in find_shards(f"{tmp_path}/{{s-{{9..9}},t-a}}.tar".replace("{9..9}", "08"))] == [
        "s-08",
        "t-a",
    ]
    assert f"{tmp_path}/s-11.tar: found no such file" in broken(tmp_path / "s-{08..11}.tar")
    assert "found the range 9..1; expected 1 to 1,000,000 upwards" in broken(tmp_path / "s-{9..1}.tar")
    assert "found too many shards" in broken(tmp_path / "{0..9999}-{0..9999}.tar")
    (tmp_path / "u.tar.gz").write_bytes(b"")
    assert (
        "found a packed shard, which has no random access; expected a plain .tar. Unpack it: `gunzip u.tar.gz`."
        in broken(tmp_path)
    )
    (tmp_path / "empty").mkdir()
    assert "found no .tar file in it" in broken(tmp_path / "empty")
    (tmp_path / "a.txt").write_bytes(b"")
    assert "found a file of another type" in broken(tmp_path / "a.txt")
    assert "found no samples in 1 shards" in broken(shard(tmp_path / "none.tar", ("readme", b"x")))


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_shards(tmp_path, kind, sign):
    """Half of them with checksums made right again, so that damage gets past the first gate."""
    name = "x" * (20 if kind == tarfile.USTAR_FORMAT else 120)
    path = shard(tmp_path / "a.tar", *pair(name, words="Grüße"), *pair("b"), kind=kind)
    path.write_bytes(path.read_bytes().rstrip(b"\0") + bytes(1500))
    headers = [at for at in range(0, path.stat().st_size, 512) if path.read_bytes()[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == (4 if kind == tarfile.USTAR_FORMAT else 6)

    def use() -> None:
        if sign:
            data = path.read_bytes()
            for at in headers:
                block = data[at : at + 512]
                data = data[:at] + (signed(block) if len(block) == 512 else block) + data[at + 512 :]
            path.write_bytes(data)
        source = WebDatasetConfig(path=str(path)).build()
        for i in range(len(source)):
            shape = source.peek(i).of(Image)[0].pixels.shape
            assert source.read(i).of(Image)[0].pixels.shape == shape

    seen = survive(path, use, 350, seed=2 * kind + sign)
    assert min(seen.values()) > 20, seen
