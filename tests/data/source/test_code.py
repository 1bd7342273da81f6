import gzip
import json
import pickle
import resource
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import survive

from trivium.core.config import from_yaml, to_yaml
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Text
from trivium.data.bucket import BucketConfig, held_out
from trivium.data.sentinel import Sentinels
from trivium.data.source import rows as rows_module
from trivium.data.source.code import CodeConfig, DocumentRows, FileRows
from trivium.data.source.repository import unpack

ROWS = [
    {"repo_name": f"r{r}", "path": f"{p}.py", "content": f"x = {p}\n" * 3, "language": ["Python", "Go"][p % 2]}
    | {"detected_licenses": [["MIT"], ["Apache-2.0", "MIT"], []][p % 3]}
    for r in range(4)
    for p in range(5)
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        data = "\n".join(json.dumps(row) for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def build(path: Path, **changes):
    return CodeConfig(path=str(path), **changes).build()


def texts(source) -> list[str]:
    return [source.read(i).of(Text)[0].text for i in range(len(source))]


def broken(path: Path, **changes) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        build(path, **changes)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_every_format_gives_the_same_texts_in_any_order(tmp_path, name):
    source = build(write(tmp_path / name, ROWS))
    other = build(write(tmp_path / name.replace("a", "b", 1), ROWS[::-1]))
    assert texts(source) == texts(other)
    found = {}
    for i in range(len(source)):
        repo, files = unpack(Sentinels({}), source.read(i).of(Text)[0].text)
        found |= {(repo, path): code for path, code in files if repo}
    assert found  # some repositories are told with their names
    told = [(row, found.get((row["repo_name"], row["path"]))) for row in ROWS]
    assert all(code == row["content"] for row, code in told if code is not None)
    assert source.read(0).id == "a/r0/0"
    assert source.read(0).of(Text)[0].role == "document"


def test_a_split_never_cuts_a_repository(tmp_path):
    rows = [row | {"content": "y = 1\n" * 60} for row in ROWS]
    source = build(write(tmp_path / "a.jsonl", rows), max_chars=512)
    assert len(source) > 10
    repos = [source.read(i).id.split("/")[1] for i in range(len(source))]
    groups = source.groups()
    assert len(set(zip(repos, groups.tolist(), strict=True))) == 4
    out = held_out(groups, 0.5)
    assert not {repo for repo, o in zip(repos, out, strict=True) if o} & {
        repo for repo, o in zip(repos, out, strict=True) if not o
    }
    fewer = build(write(tmp_path / "b.jsonl", rows[5:]), max_chars=512)
    assert set(fewer.groups().tolist()) < set(groups.tolist())


def test_licences_of_a_piece_are_those_of_its_files(tmp_path):
    assert build(write(tmp_path / "a.jsonl", ROWS), license="none").read(0).license == "Apache-2.0 AND MIT AND none"
    mixed = write(tmp_path / "c.jsonl", [ROWS[0], ROWS[3] | {"detected_licenses": "0BSD OR X11"}])
    assert build(mixed).read(0).license == "(0BSD OR X11) AND MIT"
    rows = [{"repo": "r", "path": "p", "text": "x", "l": "GPL"}]
    columns = {"repo_name": "repo", "content": "text", "detected_licenses": "l"}
    assert build(write(tmp_path / "b.jsonl", rows), columns=columns).read(0).license == "GPL"


def test_a_bucket_of_code_travels_as_text(tmp_path):
    path = str(write(tmp_path / "a.jsonl", [{**ROWS[0], "text": "x"}]))
    config = CodeConfig(path=path, columns={"content": "text"}, sentinels={"pr": "<|pr|>"}, rows=FileRows(fim=1.0))
    bucket = BucketConfig(name="code", source=config, weight=1.0, max_epochs=4.0)
    assert from_yaml(BucketConfig, to_yaml(bucket), "here") == bucket
    assert bucket.source.build().fingerprint == config.build().fingerprint


def test_languages_choose_files(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    source = build(path, rows=FileRows(languages=("Go",), metadata=0, fim=0))
    assert sum(text.count("<file_sep>") for text in texts(source)) == 8
    assert not any("x = 0" in text for text in texts(source))
    assert "found no rows; expected at least one row of 'file'" in broken(path, rows=FileRows(languages=("Rust",)))


def test_fingerprint_follows_content_and_draws(tmp_path):
    first = build(write(tmp_path / "a.jsonl", ROWS)).fingerprint
    (tmp_path / "moved").mkdir()
    assert build(write(tmp_path / "moved" / "a.jsonl", ROWS)).fingerprint == first
    assert build(write(tmp_path / "a.jsonl", [ROWS[0] | {"content": "z"}, *ROWS[1:]])).fingerprint != first
    path = write(tmp_path / "a.jsonl", ROWS)
    assert build(path, rows=FileRows(seed=1)).fingerprint != first
    source = pickle.loads(pickle.dumps(build(path)))
    assert (source.fingerprint, source.peek(0).id) == (first, "a/r0/0")


BOOK = json.dumps({"cells": [{"cell_type": "code", "source": "print(1)\n" * 200, "outputs": []}]})


def test_documents_are_cut_and_lose_nothing(tmp_path):
    events = [{"author": "a", "text": "word " * 300, "action": "opened"}]
    issue = {"repo_name": "r", "title": "t", "events": events}
    book = {"repo_name": "r", "path": "p.ipynb", "content": BOOK}
    pull = issue | {"author": "a", "description": "d", "base": [], "events": []}
    for kind, row, start in [
        ("issue", issue, "<issue_start>Title: t\nusername_0: word word"),
        ("notebook", book, "<jupyter_start><jupyter_code>print(1)\n"),
        ("script", book, "<jupyter_script>print(1)\n"),
        ("pull_request", pull, "<pr>Title: t\nusername_0: d"),
    ]:
        source = build(write(tmp_path / f"{kind}.parquet", [row, row]), rows=DocumentRows(kind=kind), max_chars=512)
        found = texts(source)
        whole = "".join(found[: len(found) // 2])
        assert whole.startswith(start)
        assert whole.endswith("<|endoftext|>")
        assert max(map(len, found)) <= 512
        assert len(set(source.groups().tolist())) == 1
        assert len({source.read(i).id for i in range(len(source))}) == len(source)


def test_errors_name_file_and_row(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    assert "columns: found a name 'body'; expected one of repo_name" in broken(path, columns={"body": "x"})
    assert "line 1: found no 'text' (there are repo_name, path" in broken(path, columns={"content": "text"})
    assert f"{path}: line 1: found no 'title'" in broken(path, rows=DocumentRows(kind="issue"))
    table = write(tmp_path / "a.parquet", ROWS)
    assert f"{table}: found no column 'text'; expected one of repo_name" in broken(table, columns={"content": "text"})
    bad = write(tmp_path / "bad.jsonl", [ROWS[0], ROWS[1] | {"content": None}])
    assert f"{bad}: line 2: found None as content; expected text" in broken(bad)
    assert "found 3 as licence" in broken(write(bad, [ROWS[0] | {"detected_licenses": 3}]))
    assert "found '' as repo_name" in broken(write(bad, [ROWS[0] | {"repo_name": ""}]))
    assert "found half a character" in broken(write(bad, [ROWS[0] | {"content": "\ud800"}]))
    books = write(tmp_path / "b.jsonl", [{"repo_name": "r", "path": "p", "content": "{"}])
    assert f"{books}: line 1: found broken JSON" in broken(books, rows=DocumentRows(kind="notebook"))
    bad.write_text("[1]")
    assert f"{bad}: line 1: found a list; expected one JSON object a line" in broken(bad)
    bad.write_text("[" * 100_000)
    assert f"{bad}: line 1: found broken JSON" in broken(bad)
    assert "found no such file or folder" in broken(tmp_path / "nowhere")


def test_bombs(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl.gz", ROWS)
    table = write(tmp_path / "a.parquet", ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert f"{path}: found a broken file" in broken(path)
    path.write_bytes(whole)
    monkeypatch.setattr(rows_module, "MAX_BYTES", 1000)
    assert "found more than 1,000 bytes unpacked" in broken(path)
    assert f"{table}: found more than 1,000 bytes unpacked" in broken(table)


def test_one_long_text_in_every_row_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    """A dictionary page holds the text once: some kB on the disk, 16 GB in rows."""
    monkeypatch.setattr(rows_module, "MAX_BYTES", 40 << 20)
    monkeypatch.setattr(rows_module, "BATCH_BYTES", 20 << 20)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), pa.array(["x" * (4 << 20)]))
    names = pa.array([f"r{j}" for j in range(4000)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"repo_name": names, "path": names, "content": long}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "found more than 41,943,040 bytes unpacked" in broken(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 400


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_damaged_files(tmp_path, name):
    path = write(tmp_path / name, ROWS[:6])
    seen = survive(path, lambda: texts(build(path)), count=500 if name == "a.jsonl.gz" else 2000)
    assert seen["refused"] > 100


@pytest.mark.parametrize("kind", ["issue", "pull_request", "notebook"])
def test_damaged_documents(tmp_path, kind):
    event = {"type": "comment", "author": "a", "text": "words", "id": 3, "action": "opened"}
    code = {"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "text": "t"}]}
    content = json.dumps({"cells": [{"cell_type": "raw", "source": ["a", "b"]}, code]})
    row = {"repo_name": "r", "path": "p", "content": content, "title": "t", "author": "a", "description": "d"}
    row |= {"base": [{"path": "p", "content": "c"}], "events": [event, event]}
    path = write(tmp_path / "a.jsonl", [row])
    seen = survive(
        path, lambda: texts(build(path, rows=DocumentRows(kind=kind))), count=2000 if kind == "notebook" else 500
    )
    assert seen["refused"] > 100


def test_real_code_comes_back(tmp_path):
    """The packages installed here as repositories, some with sentinels of their own in them."""
    site = Path(sysconfig.get_paths()["purelib"])
    wanted = ("pydantic", "jaxtyping", "hypothesis", "tokenizers", "av")
    files = [file for name in wanted for file in sorted((site / name).rglob("*.py"))[:40]]
    rows = [
        {"repo_name": file.relative_to(site).parts[0], "path": str(file.relative_to(site)), "content": file.read_text()}
        for file in files
    ]
    source = build(write(tmp_path / "site.parquet", rows), rows=FileRows(metadata=1), max_chars=4000)
    found: dict[tuple[str | None, str | None], str] = {}
    for text in texts(source):
        assert len(text) <= 4000
        repo, parts = unpack(Sentinels({}), text)
        for path, code in parts:
            found[repo, path] = found.get((repo, path), "") + code
    assert found == {(row["repo_name"], row["path"]): row["content"] for row in rows}
