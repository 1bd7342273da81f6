import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import zstandard
from fuzz import survive

from trivium.core.errors import DataError
from trivium.core.sample import Text
from trivium.data.source import records
from trivium.data.source.text import TextConfig


def write(path: Path, *records) -> Path:
    lines = "\n".join(json.dumps(record) for record in records)
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(lines.encode()))
    return path


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        TextConfig(path=str(path), **changes).build()
    return str(caught.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.json.zst"])
def test_documents_are_cut_into_pieces_that_lose_nothing(tmp_path, name):
    long = " ".join(f"word{j}" for j in range(50))
    source = TextConfig(path=str(write(tmp_path / name, {"text": "short"}, {"text": long})), max_chars=64).build()
    pieces = [source.read(i).of(Text)[0].text for i in range(len(source))]
    assert pieces[0] == "short"
    assert " ".join(pieces[1:]) == long
    assert max(map(len, pieces)) <= 64
    assert source.groups().tolist() == [0] + [1] * (len(source) - 1)
    assert source.read(2).id == "corpus/1/1"
    assert source.read(0).of(Text)[0].role == "document"


def test_a_text_without_blanks_is_still_cut(tmp_path):
    source = TextConfig(path=str(write(tmp_path / "a.jsonl", {"text": "x" * 100})), max_chars=32).build()
    assert [len(source.read(i).of(Text)[0].text) for i in range(len(source))] == [32, 32, 32, 4]


def test_dolma_fields(tmp_path):
    record = {"id": "d7", "text": "hello", "source": "wiki", "license": "CC0-1.0"}
    sample = TextConfig(path=str(write(tmp_path / "a.jsonl", record))).build().read(0)
    assert (sample.id, sample.source, sample.license) == ("a/d7/0", "wiki", "CC0-1.0")


def test_licences_by_line_and_fields_that_are_null(tmp_path):
    lines = [
        {"id": None, "text": "a", "source": None, "license": None, "metadata": {"license": "MIT"}},
        {"id": 5, "text": "b", "metadata": None, "added": "2024-01-01", "created": "2020-01-01"},
        {"text": "c", "license": "CC-BY-4.0", "metadata": {"license": "MIT"}},
    ]
    source = TextConfig(path=str(write(tmp_path / "a.jsonl", *lines)), license="mine").build()
    found = [source.read(i) for i in range(3)]
    assert [(s.id, s.source, s.license) for s in found] == [
        ("a/0/0", "a", "MIT"),
        ("a/5/0", "a", "mine"),
        ("a/2/0", "a", "CC-BY-4.0"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_random_places_in_any_process(tmp_path, name):
    lines = [{"text": f"Ü{j} " + "word " * j} for j in range(30)]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set/b.jsonl.gz", *lines[20:])
    write(tmp_path / f"set/{name}", *lines[:20])
    source = TextConfig(path=str(tmp_path / "set"), max_chars=32).build()
    firsts = {int(d): i for i, d in reversed(list(enumerate(source.groups())))}

    def right(reader) -> bool:
        places = np.random.default_rng(0).permutation(30)
        return all(reader.read(firsts[int(d)]).of(Text)[0].text.split()[0] == f"Ü{d}" for d in places)

    assert right(source)
    assert right(pickle.loads(pickle.dumps(source)))
    child = os.fork()
    if not child:
        os._exit(0 if right(source) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_plain_texts_stay_on_the_disk(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"text": f"{j} " + "word " * 2000} for j in range(50)))
    source = TextConfig(path=str(path), max_chars=20_000).build()
    assert len(pickle.dumps(source)) < 50 * 64 + 2000
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"before the end of the file; expected 10,\d+. It is cut short"):
        source.read(49)


def test_fingerprint_follows_content(tmp_path):
    first = TextConfig(path=str(write(tmp_path / "a.jsonl", {"text": "one"}))).build().fingerprint
    assert TextConfig(path=str(write(tmp_path / "a.jsonl", {"text": "one"}))).build().fingerprint == first
    assert TextConfig(path=str(write(tmp_path / "a.jsonl", {"text": "two"}))).build().fingerprint != first


def test_errors_name_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "fine"}, {"body": "x"})
    assert f"{path}: line 2: found no text under 'text' (keys body)" in broken(path)
    assert "line 1: found no text under 'body' (keys text)" in broken(path, text_field="body")
    path.write_text('{"text": "fine"}\n\n{"text": \n')
    assert f"{path}: line 3: found broken JSON" in broken(path)
    path.write_text('"just a string"\n')
    assert "line 1: found a str; expected a JSON object" in broken(path)
    path.write_text('{"text": "\\ud800"}')
    assert "line 1: found half a character" in broken(path)
    path.write_text('{"text": " "}')
    assert f"{path}: found no documents" in broken(path)


def test_not_a_corpus(tmp_path):
    assert "found no such file or folder" in broken(tmp_path / "nowhere")
    assert "found no .jsonl or .jsonl.gz or .json.gz or .jsonl.zst or .json.zst in it" in broken(tmp_path)


def test_truncated_and_bombed_gzip(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl.gz", {"text": "hello " * 1000})
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert f"{path}: found broken gzip" in broken(path)
    path.write_bytes(b"not gzip")
    assert f"{path}: found broken gzip" in broken(path)
    path.write_bytes(whole)
    monkeypatch.setattr(records, "MAX_HELD_BYTES", 1000)
    assert "found more than 1,000 bytes unpacked" in broken(path)
    assert "Unpack it (`gunzip a.jsonl.gz`): plain .jsonl stays on the disk" in broken(path)


def test_zstd_frames_damage_and_bombs(tmp_path, monkeypatch):
    lines = [json.dumps({"text": f"document {j}"}).encode() + b"\n" for j in range(4)]
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(line[:9]) + zstandard.compress(line[9:]) for line in lines))
    source = TextConfig(path=str(path)).build()
    assert [source.read(i).of(Text)[0].text for i in range(4)] == [f"document {j}" for j in range(4)]
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert f"{path}: found broken zstd (the last frame has no end)" in broken(path)
    path.write_bytes(whole + b"garbage")
    assert f"{path}: found broken zstd (" in broken(path)
    wide = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    path.write_bytes(frame.compress(b'{"text": "a"}' * 10) + frame.flush())
    assert "requires too much memory" in broken(path)
    path.write_bytes(zstandard.compress(b" " * (40 << 20)))
    assert "line 1: found more than 33,554,432 bytes; expected a shorter line" in broken(path)
    monkeypatch.setattr(records, "MAX_HELD_BYTES", 1 << 20)
    assert "found more than 1,048,576 bytes unpacked" in broken(path)
    assert "`zstd -d --rm a.jsonl.zst`" in broken(path)


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    path = write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "x" * 200})
    assert f"{path}: line 2: found more than 100 bytes" in broken(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_corpora(tmp_path, name):
    long = "".join(chr(33 + j * j % 89) for j in range(400))
    path = write(tmp_path / name, {"text": long, "id": 3}, {"text": "ü" * 40, "metadata": {"license": "MIT"}})

    def use() -> None:
        source = TextConfig(path=str(path), max_chars=64).build()
        for i in range(len(source)):
            source.read(i)

    seen = survive(path, use, 700)
    assert seen["refused"] > 100
    if name.endswith(".jsonl"):
        assert seen["worked"] > 100
