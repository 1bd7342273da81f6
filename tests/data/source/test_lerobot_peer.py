"""The real lerobot package and we read the same sets alike; it needs an environment of its own (an older torch).

Point LEROBOT_PYTHON at a Python with lerobot 0.4.4 (see docs of the package; torchvision may lack its C++ part).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot_sets import edit_json, shade, write_v2

from trivium.core.sample import Action, Image, State, Text
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_stats import column_stats, histogram, picture_stats
from trivium.data.source.lerobot_write import Episode, LeRobotWriter

PYTHON = os.environ.get("LEROBOT_PYTHON", "")
PEER = Path(__file__).parents[2] / "plugin" / "lerobot_peer.py"
REAL = Path(__file__).parents[4] / "shared" / "samples" / "lerobot_v3_tiny"
needs_peer = pytest.mark.skipif(not PYTHON, reason="LEROBOT_PYTHON names no Python that has lerobot")


def ask_peer(*words: object) -> None:
    command = [PYTHON, str(PEER), *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr


def compare(
    root: Path, out: Path, views: tuple[str, ...], horizon: int, history: int, ours_at: Path | None = None
) -> int:
    """See that every frame is what the package's own reader gives, bit by bit; return how many there are."""
    ask_peer("read", root, horizon, history, out)
    theirs = np.load(out)
    config = LeRobotConfig(path=str(ours_at or root), views=views, horizon=horizon, history=history, paraphrase=False)
    ours = config.build()
    assert len(ours) == len(theirs["task"])
    for i in range(len(ours)):
        sample = ours.read(i)
        state, action = sample.of(State)[0], sample.of(Action)[0]
        np.testing.assert_array_equal(theirs["observation.state"][i].reshape(-1), state.values)
        np.testing.assert_array_equal(theirs["action"][i].reshape(action.values.shape), action.values)
        np.testing.assert_array_equal(theirs["action_is_pad"][i], ~action.valid)
        assert sample.of(Text)[0].text == theirs["task"][i]
        assert ours.where(i) == (theirs["episode_index"][i], theirs["frame_index"][i])
        for view in views:
            key = f"observation.images.{view}"
            images = [image for image in sample.of(Image) if image.view == view]
            np.testing.assert_array_equal(theirs[key][i], np.stack([image.pixels for image in images]))
            times = np.array([image.time_s for image in images])
            wanted = theirs["timestamp"][i] + np.arange(1 - history, 1) / ours.fps
            np.testing.assert_array_equal(theirs[f"{key}_is_pad"][i], wanted < -1e-4)
            np.testing.assert_allclose(times, np.maximum(wanted, 0.0), atol=1e-4)
    return len(ours)


@pytest.mark.peer
@needs_peer
def test_a_set_that_lerobot_wrote(tmp_path):
    """One camera is a video (AV1), the other one lies in the Parquet file."""
    ask_peer("write", tmp_path / "set")
    assert compare(tmp_path / "set", tmp_path / "out.npz", ("top", "wrist"), horizon=5, history=3) == 28


@pytest.mark.peer
@needs_peer
@pytest.mark.skipif(not REAL.is_dir(), reason="the sample set is not on this machine")
def test_the_sample_set_whole(tmp_path):
    assert compare(REAL, tmp_path / "out.npz", ("corner2",), horizon=16, history=2) == 307


@pytest.mark.peer
@needs_peer
def test_lerobot_reads_our_set_as_we_do(tmp_path):
    rng = np.random.default_rng(0)
    spec = SetSpec(40, "toy", {"top": (32, 32)}, {"observation.state": ("x",), "action": ("dx", "dy")}, "MIT")
    writer = LeRobotWriter(tmp_path / "staging", spec)
    for number, length in enumerate((4, 7)):
        columns = {
            "observation.state": rng.random((length, 1), np.float32),
            "action": rng.random((length, 2), np.float32),
        }
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (length, 4, 4, 3), np.uint8), 8, 1), 8, 2)
        writer.add(str(number), Episode(("push", "pull")[number], columns, {"top": pixels}))
    writer.fill(tmp_path / "set", writer.keys())
    assert compare(tmp_path / "set", tmp_path / "out.npz", ("top",), horizon=3, history=1) == 11


@pytest.mark.peer
@needs_peer
@pytest.mark.parametrize("camera", ["video", "image"])
def test_a_v21_set_is_what_lerobot_makes_of_it(tmp_path, camera):
    """The package reads v2.1 no more, but it converts: what it reads then is what we read without converting."""
    root = write_v2(tmp_path / "set", camera=camera)
    add_stats(root)
    ask_peer("convert", root)
    old = tmp_path / "set_old"
    assert (old / "meta/episodes.jsonl").is_file()
    assert compare(root, tmp_path / "a.npz", ("eye",), horizon=4, history=2, ours_at=old) == 15
    assert compare(root, tmp_path / "b.npz", ("eye",), horizon=4, history=2) == 15


def add_stats(root: Path) -> None:
    """Add what the converter wants to find: statistics of each episode, and what info.json has beside the needed."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    names = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in names.items()}
    edit_json(root / "meta/info.json", features=features, total_chunks=2, total_videos=3, total_tasks=2, splits={})
    lines = []
    for n, file in enumerate(sorted((root / "data").rglob("*.parquet"))):
        table = pq.read_table(file)
        stats = {}
        for key, what in features.items():
            if what["dtype"] in ("video", "image"):
                stats[key] = picture_stats(histogram(np.stack([shade(n, f) for f in range(table.num_rows)])))
            else:
                stats[key] = column_stats(np.array(table[key].to_pylist()).reshape(table.num_rows, -1))
        lines.append(json.dumps({"episode_index": n, "stats": stats}))
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(lines))
