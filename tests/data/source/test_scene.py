import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from film import clip, film
from fuzz import survive

import trivium
from trivium.core.errors import DataError
from trivium.data.source import scene as module
from trivium.data.source.scene import detect, load, prepare, sidecar, starts


def test_cuts_are_found_and_motion_is_none(tmp_path):
    found = detect(film(tmp_path / "a.mp4", [1.0, 2.0, 3.2, 0.8]))
    assert np.allclose(found.starts_s, [0, 1, 3, 6.2])
    assert found.end_s == pytest.approx(7.0)
    assert (found.height, found.width) == (48, 64)


@pytest.mark.parametrize("seed", range(5))
def test_random_films(tmp_path, seed):
    lengths = np.random.default_rng(seed).integers(18, 60, 6) / 25
    found = detect(film(tmp_path / "a.mp4", lengths.tolist()))
    assert np.allclose(found.starts_s, np.cumsum([0, *lengths[:-1]]))


def test_a_flash_and_a_slow_fade_are_no_scenes():
    dark, light = np.full((3, 4, 4), 20, np.uint8), np.full((3, 4, 4), 200, np.uint8)
    flash = [(j / 10, light if j == 2 else dark) for j in range(30)]
    assert starts(flash, 30.0) == [0.0]
    fade = [(j / 10, np.full((3, 4, 4), 6 * j, np.uint8)) for j in range(40)]
    assert starts(fade, 30.0) == [0.0]
    assert starts(fade, 15.0)[:2] == [0.0, 0.6]


def test_prepare_writes_once_and_again_when_the_video_changes(tmp_path):
    film(tmp_path / "a.mp4", [1.0, 1.0])
    (tmp_path / "deep").mkdir()
    film(tmp_path / "deep" / "b.mp4", [1.0])
    assert prepare(tmp_path) == [tmp_path / "a.scenes.json", tmp_path / "deep" / "b.scenes.json"]
    assert prepare(tmp_path) == []
    assert len(load(tmp_path / "a.mp4").starts_s) == 2
    film(tmp_path / "a.mp4", [1.0, 1.0, 1.0])
    with pytest.raises(DataError, match=r"a.scenes.json: found the scenes of another video"):
        load(tmp_path / "a.mp4")
    assert prepare(tmp_path) == [tmp_path / "a.scenes.json"]
    assert len(load(tmp_path / "a.mp4").starts_s) == 3
    assert len(prepare(tmp_path, threshold=700.0)) == 2
    assert len(load(tmp_path / "a.mp4").starts_s) == 1


def test_the_command_in_the_error_works(tmp_path):
    path = film(tmp_path / "a.mp4", [1.0])
    with pytest.raises(DataError) as caught:
        load(path)
    assert f"{path}: found no scenes; expected them in a.scenes.json" in str(caught.value)
    python, *words = caught.value.todo.removeprefix("Type: ").split()
    assert python == "python"
    here = os.environ | {"PYTHONPATH": str(Path(trivium.__file__).parents[1])}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=here)
    assert load(path).end_s == pytest.approx(1.0)
    path.write_bytes(b"nothing")
    told = subprocess.run([sys.executable, *words], capture_output=True, env=here, text=True)
    assert told.returncode == 1
    assert told.stderr.startswith(f"{path}: found a video that cannot be opened")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"starts_s": []}, "times that do not rise"),
        ({"starts_s": [0.0, 0.0]}, "times that do not rise"),
        ({"starts_s": [0.0, float("nan")]}, "times that do not rise"),
        ({"end_s": -1.0}, "times that do not rise"),
        ({"end_s": 1e300}, "times that do not rise"),
        ({"end_s": 10**400}, "too large"),
        ({"height": 10**9}, "pictures of 1000000000 x 64"),
        ({"width": "x"}, "pictures of 48 x 'x'"),
        ({"video": 3}, "no hash of the video"),
        ({"threshold": None}, "broken scenes"),
    ],
)
def test_broken_scenes(tmp_path, change, found):
    path = film(tmp_path / "a.mp4", [1.0])
    prepare(tmp_path)
    sidecar(path).write_text(json.dumps(json.loads(sidecar(path).read_text()) | change))
    with pytest.raises(DataError) as caught:
        load(path)
    assert found in str(caught.value)
    assert prepare(tmp_path) == [sidecar(path)]


def test_damaged_scenes(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", [1.0, 1.0])
    prepare(tmp_path)
    assert min(survive(sidecar(path), lambda: load(path), count=500).values()) > 5
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="bytes; expected at most 10"):
        load(path)


def test_truncated_and_other_files(tmp_path):
    path = clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(
        DataError, match=r"a.mp4: found a truncated video: its index points to byte .*; expected a whole mp4"
    ):
        prepare(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.mp4: found a video that cannot be opened"):
        prepare(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"found a folder without .mp4 files"):
        prepare(tmp_path)
    with pytest.raises(DataError, match="found no such file or folder"):
        prepare(tmp_path / "nowhere")


def test_a_single_picture_is_a_scene(tmp_path):
    clip(tmp_path / "a.mp4", times_ms=(0,))
    prepare(tmp_path)
    found = load(tmp_path / "a.mp4")
    assert found.starts_s == (0.0,)
    assert 0 < found.end_s <= 1.0
