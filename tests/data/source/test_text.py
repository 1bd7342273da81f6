import gzip
import json
from pathlib import Path

import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Text
from trivium.data.source import records
from trivium.data.source.text import TextConfig


def write(path: Path, *records) -> Path:
    lines = "\n".join(json.dumps(record) for record in records)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        TextConfig(path=str(path), **changes).build()
    return str(caught.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
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
