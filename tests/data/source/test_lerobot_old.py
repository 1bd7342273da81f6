"""LeRobot v2.0 and v2.1: a file an episode."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from lerobot_sets import TASKS, copy, edit_json, film, set_cell, shade, write_v2

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.source.lerobot import LeRobot, LeRobotConfig

LENGTHS = (5, 7, 3)
DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = "videos/chunk-000/observation.images.eye/episode_000001.mp4"


def open_set(path: Path, **changes) -> LeRobot:
    return LeRobotConfig(**{"path": str(path), "views": ("eye",), "horizon": 4} | changes).build()


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(path, **changes)
    return str(caught.value)


@pytest.fixture(scope="module")
def old_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v2(tmp_path_factory.mktemp("old") / "toy")


@pytest.fixture
def mine(old_set: Path, tmp_path: Path) -> Path:
    return copy(old_set, tmp_path / "toy")


@pytest.mark.parametrize(("version", "camera"), [("v2.0", "video"), ("v2.1", "video"), ("v2.0", "image")])
def test_every_frame_is_where_it_was_put(tmp_path, version, camera):
    source = open_set(write_v2(tmp_path / "toy", version, camera=camera), history=2)
    places = [(e, i) for e, length in enumerate(LENGTHS) for i in range(length)]
    assert len(source) == len(places)
    assert source.groups().tolist() == [e for e, _ in places]
    for i in np.random.default_rng(0).permutation(len(source)):
        sample, (e, frame) = source.read(int(i)), places[i]
        assert sample.id == f"toy/{e}/{frame}"
        before, now = (image.pixels for image in sample.of(Image))
        np.testing.assert_allclose(now, shade(e, frame), atol=1.5)
        np.testing.assert_allclose(before, shade(e, max(frame - 1, 0)), atol=1.5)
        assert sample.of(State)[0].values.tolist() == [frame, 0.5]
        assert sample.of(State)[0].names == ("state.0", "state.1")
        action = sample.of(Action)[0]
        assert action.names == ("x", "y")
        assert action.values[:, 0].tolist() == [1000 * e + min(frame + j, LENGTHS[e] - 1) for j in range(4)]
        assert action.valid.tolist() == [frame + j < LENGTHS[e] for j in range(4)]
        assert sample.of(Text)[0].text == TASKS[e % 2]


def test_gaps_in_the_numbers_of_episodes_are_no_fault(tmp_path):
    root = write_v2(tmp_path / "toy", lengths=(4, 4))
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines[1]["episode_index"] = 2
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, reversed(lines))))
    (root / "data/chunk-001").mkdir()
    (root / DATA).rename(root / "data/chunk-001/episode_000002.parquet")
    assert "episode_000002.parquet: episode 2, frame 0: found episode_index 1; expected 2" in broken(root, views=())
    for row in range(4):
        set_cell(root / "data/chunk-001/episode_000002.parquet", "episode_index", row, 2)
    source = open_set(root, views=())
    assert source.read(5).id == "toy/2/1"


def test_it_travels_and_its_fingerprint_follows_words_and_numbers(mine):
    source = open_set(mine)
    source.read(3)
    assert np.array_equal(
        pickle.loads(pickle.dumps(source)).read(6).of(Image)[0].pixels, source.read(6).of(Image)[0].pixels
    )
    set_cell(mine / DATA, "action", 2, [0.5, 0.5])
    other = open_set(mine).fingerprint
    tasks = mine / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().replace("push", "shove"))
    assert len({source.fingerprint, other, open_set(mine).fingerprint}) == 3


def test_wrong_tables(mine):
    path = mine / "meta/episodes.jsonl"
    lines = path.read_text().splitlines()
    for line, found in {
        "nothing": "line 2: found broken JSON",
        "[" * 100_000: "line 2: found broken JSON",
        "[1]": "line 2: found JSON of type list",
        lines[0]: "line 2: found episode_index 0 of length 5 for the second time",
        '{"episode_index": 1, "length": 0}': "line 2: found episode_index 1 of length 0",
        '{"episode_index": true, "length": 2}': "line 2: found episode_index True of length 2",
        '{"episode_index": 1, "length": 1e400}': "line 2: found episode_index 1 of length inf",
        "": "found 2 episodes with 8 frames; expected 3 episodes with 15 frames",
    }.items():
        path.write_text("\n".join([lines[0], line, lines[2]]))
        assert found in broken(mine)
    path.unlink()
    assert "meta/episodes.jsonl: found no such file" in broken(mine)
    (mine / "meta/tasks.jsonl").write_text('{"task_index": 1, "task": "x"}')
    assert "tasks.jsonl: found task_index [1]...; expected 0, 1, 2" in broken(mine)


def test_episodes_are_named_in_faults_of_their_files(mine):
    set_cell(mine / DATA, "timestamp", 3, 0.2)
    assert f"{DATA}: episode 1, frame 3: found timestamp 0.2; expected 0.15" in broken(mine)
    set_cell(mine / DATA, "timestamp", 3, 0.15)
    set_cell(mine / DATA, "frame_index", 3, 2)
    assert f"{DATA}: episode 1, frame 3: found frame_index 2; expected 3" in broken(mine)
    set_cell(mine / DATA, "frame_index", 3, 3)
    set_cell(mine / DATA, "observation.state", 4, [1.0, float("nan")])
    assert f"{DATA}: episode 1, frame 4: found nan in observation.state, dimension 1 (state.1)" in broken(mine)
    set_cell(mine / DATA, "observation.state", 4, [1.0])
    assert f"{DATA}: column observation.state: found lists of 1 to 2 numbers" in broken(mine)
    set_cell(mine / DATA, "observation.state", 4, None)
    assert f"{DATA}: column observation.state: found 1 empty cells" in broken(mine)
    set_cell(mine / DATA, "observation.state", 4, [4.0, 0.5])
    set_cell(mine / DATA, "action", 0, [1e39, 0.0])
    assert "frame 0: found inf in action, dimension 0 (x)" in broken(mine)
    set_cell(mine / DATA, "action", 0, [1000.0, 0.0])
    set_cell(mine / DATA, "task_index", 6, 2)
    assert "episode 1, frame 6: found task_index 2; expected 0 to 1" in broken(mine)


def test_files_that_are_short_or_gone(mine):
    film(mine / VIDEO, [shade(1, f) for f in range(6)])
    assert f"{VIDEO}: episodes 1 to 1: found 6 frames where the episodes need 7" in broken(mine)
    (mine / VIDEO).unlink()
    assert f"{VIDEO}: episodes 1 to 1: found a video that cannot be opened" in broken(mine)
    (mine / DATA).write_bytes((mine / "data/chunk-000/episode_000000.parquet").read_bytes())
    assert f"{DATA}: episode 1: found 5 frames; expected 7, as meta/episodes.jsonl says" in broken(mine)
    (mine / DATA).unlink()
    assert f"{DATA}: found no such file" in broken(mine)


@pytest.mark.parametrize(
    "template",
    [
        "../data/{episode_index:06d}.parquet",
        "/etc/{episode_index:06d}",
        "data/{episode_index.__class__}",
        "data/{episode_index[0]}",
        "data/{episode_index!r}",
        "data/{episode_index:999999999d}",
        "data/{episode_index:{episode_chunk}d}",
        "data/{secret}",
        "data/{",
        "data\\{episode_index}",
        "",
        7,
        None,
    ],
)
def test_templates_of_strangers(mine, template):
    edit_json(mine / "meta/info.json", data_path=template)
    text = broken(mine, views=())
    assert f"{mine}/meta/info.json: found " in text
    assert "expected a path inside the set" in text


def test_links_that_lead_out(mine, tmp_path):
    outside = tmp_path / "elsewhere.parquet"
    (mine / DATA).rename(outside)
    (mine / DATA).symlink_to(outside)
    assert f"{DATA}: found a link to {outside}; expected a file inside the set. Copy the set with its files" in broken(
        mine
    )
    (mine / DATA).unlink()
    inside = mine / "data/kept.parquet"
    outside.rename(inside)
    (mine / DATA).symlink_to(inside)
    assert len(open_set(mine)) == 15
    (mine / "videos").rename(tmp_path / "films")
    (mine / "videos").symlink_to(tmp_path / "films")
    assert "found a link to" in broken(mine)
    (mine / "meta/tasks.jsonl").rename(tmp_path / "tasks.jsonl")
    (mine / "meta/tasks.jsonl").symlink_to(tmp_path / "tasks.jsonl")
    assert "meta/tasks.jsonl: found a link to" in broken(mine, views=())


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"fps": float("nan")}, "fps 'nan'"),
        ({"fps": 0}, "fps '0'"),
        ({"chunks_size": 0}, "chunks_size '0'"),
        ({"total_frames": -1}, "total_frames '-1'"),
        ({"features": []}, "features '[]'"),
        ({"features": {"action": 3}}, "feature 'action': 3"),
        ({"features": {"action": {"dtype": "float32", "shape": [1 << 27, 16]}}}, "feature 'action'"),
        ({"trivium": {"paraphrases": {"a": [3]}}}, "trivium"),
    ],
)
def test_info_of_strangers(mine, changes, found):
    edit_json(mine / "meta/info.json", **changes)
    assert f"meta/info.json: found {found}" in broken(mine)


def test_short_names_of_features(mine):
    """The LIBERO sets for openpi have state, actions, image and wrist_image."""
    info = json.loads((mine / "meta/info.json").read_text())
    features = info["features"]
    features["wrist_image"] = features.pop("observation.images.eye")
    edit_json(mine / "meta/info.json", features=features)
    for n in range(3):
        old = mine / f"videos/chunk-{n // 2:03d}/observation.images.eye"
        if old.is_dir():
            old.rename(old.parent / "wrist_image")
    assert open_set(mine, views=("wrist_image",)).read(2).of(Image)[0].view == "wrist_image"
    features["observation.wrist_image"] = features["wrist_image"]
    edit_json(mine / "meta/info.json", features=features)
    assert "observation.wrist_image of shape [32, 32, 3], beside wrist_image" in broken(mine, views=("wrist_image",))
