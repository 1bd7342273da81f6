"""`trivium data ...` as a person types it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from PIL import Image as Pillow
from typer.testing import CliRunner

from trivium.cli import app

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    small_run.write_set(root / "robot")
    (root / "text.jsonl").write_text('{"text": "one"}\n')
    return root


def say(*words: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["data", *map(str, words)], env={"COLUMNS": "100"})
    return result.exit_code, result.output


def test_ls_lists_sets_and_what_they_hold(folder: Path):
    code, text = say("ls", folder)
    assert code == 0
    assert "lerobot: " in text
    assert "text: 1 samples in 1 groups" in text


def test_ls_goes_on_behind_a_broken_set_and_says_so(folder: Path, tmp_path: Path):
    (tmp_path / "a").mkdir()
    pq.write_table(pa.table({"image": ["no bytes"], "caption": ["x"]}), tmp_path / "a/a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n')
    code, text = say("ls", tmp_path)
    assert code == 1
    assert "found column 'image' of type string" in text
    assert "text: 1 samples" in text


def test_show_draws_a_sheet(folder: Path, tmp_path: Path):
    code, text = say("show", folder / "robot", "horizon=4", "--number", 4, "--out", tmp_path / "s.png")
    assert code == 0
    assert "4 of " in text
    with Pillow.open(tmp_path / "s.png") as picture:
        assert picture.width > 600


def test_stats_prints_and_writes(folder: Path, tmp_path: Path):
    code, text = say("stats", folder / "robot", "--out", tmp_path / "s.json")
    assert code == 0
    assert "q01" in text
    found = json.loads((tmp_path / "s.json").read_text())
    [robot] = found.values()
    assert np.isfinite(robot["action"]["mean"]).all()
    code, text = say("stats", folder / "text.jsonl")
    assert code == 2
    assert "a set without numbers" in text


def test_convert_writes_a_set_that_ls_knows(folder: Path, tmp_path: Path):
    code, text = say("convert", folder / "robot", tmp_path / "new")
    assert code == 0
    assert "as LeRobot v3.0" in text
    assert "lerobot: " in say("ls", tmp_path / "new")[1]
    code, text = say("convert", folder / "robot", tmp_path / "new")
    assert code == 2
    assert "expected a new folder" in text


@pytest.mark.parametrize("verb", ["ls", "show", "stats"])
def test_a_path_that_is_no_set_ends_in_one_paragraph(verb: str, tmp_path: Path):
    code, text = say(verb, tmp_path / "nowhere")
    assert code == 2
    assert "DataError" in text
    assert "no such file or folder" in text
