"""Corrections beside a set: applied without inventing a frame, refused when they are of something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.data.source.lerobot import LeRobot, LeRobotConfig


def opened(root: Path, file: Path | None, content: Any = None) -> LeRobot:
    if file is not None and content is not None:
        file.write_text(json.dumps({"corrections": 1, "episodes": content}))
    where = None if file is None else str(file)
    return LeRobotConfig(path=str(root), views=("front",), horizon=3, corrections=where).build()


def test_what_is_left_out_and_what_is_moved(toy_set: Path, tmp_path: Path, picture_number: Callable):
    rows = [{"episode": 0, "action": 2, "pictures": 1}, {"episode": 1, "leave_out": "swapped"}]
    source = opened(toy_set, tmp_path / "fix.json", rows)
    assert np.unique(source.groups()).tolist() == [0, 2]
    assert len(source) == 9 - 2 + 5
    for i in range(7):
        sample = source.read(i)
        assert source.where(i) == (0, i)
        assert sample.segments[2].values.tolist() == [i, i]
        assert sample.segments[3].values[0].tolist() == [i + 2, i + 2]
        assert picture_number(sample.segments[0].pixels) == (0, i + 1)
    assert not source.read(6).segments[3].valid[1:].any(), "a chunk ends with what is left of the episode"
    assert picture_number(source.read(8).segments[0].pixels) == (2, 1)


def test_streams_that_are_early_lose_frames_at_the_other_end(toy_set: Path, tmp_path: Path, picture_number: Callable):
    source = opened(toy_set, tmp_path / "fix.json", [{"episode": 0, "action": -1, "pictures": 2}])
    assert len(source) == 9 - 3 + 14 + 5
    first = source.read(0)
    assert (first.segments[2].values[0], first.segments[3].values[0, 0]) == (1, 0)
    assert picture_number(first.segments[0].pixels) == (0, 3)


def test_the_fingerprint_follows_the_content(toy_set: Path, tmp_path: Path):
    file = tmp_path / "fix.json"
    one = opened(toy_set, file, [{"episode": 0, "action": 1}]).fingerprint
    assert opened(toy_set, file, [{"episode": 0, "action": 2}]).fingerprint != one
    assert opened(toy_set, file, [{"episode": 0, "action": 1}]).fingerprint == one
    assert opened(toy_set, None).fingerprint != one


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"episode": 77, "action": 1}], "episode 77: found no such episode"),
        ([{"episode": 2, "action": 5}], "episode 2: found a shift by 5 and 0 frames"),
        ([{"episode": n, "leave_out": "x"} for n in range(3)], "leave no episode"),
        ([{"episode": 0}, {"episode": 0}], "episode 0 twice"),
        ([{"episode": 0, "state": 1}], "entry 0"),
        ([{"episode": 0, "action": True}], "entry 0"),
        ([{"episode": 0, "action": 10**9}], "entry 0"),
        ([{"episode": "0"}], "entry 0"),
        ([[0]], "entry 0"),
        ({"a": 1}, "no corrections of version 1"),
    ],
)
def test_corrections_of_something_else_are_refused(toy_set: Path, tmp_path: Path, content: Any, said: str):
    with pytest.raises(DataError) as caught:
        opened(toy_set, tmp_path / "fix.json", content)
    assert str(tmp_path / "fix.json") in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1", "[]", "\xff", '{"corrections": 2, "episodes": []}', "[" * 100_000])
def test_a_file_that_holds_none_is_refused(toy_set: Path, tmp_path: Path, text: str):
    file = tmp_path / "fix.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"expected corrections as `trivium data audit --fix` writes them"):
        opened(toy_set, file)


def test_a_missing_file_is_refused(toy_set: Path, tmp_path: Path):
    with pytest.raises(DataError, match="FileNotFoundError"):
        opened(toy_set, tmp_path / "none.json")
