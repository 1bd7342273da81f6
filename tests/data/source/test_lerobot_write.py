import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trivium.core.errors import CheckpointError, DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.source import lerobot_schema, lerobot_write
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_write import Episode, LeRobotWriter
from trivium.data.source.video_write import encode_video

REAL = Path(__file__).parents[4] / "shared" / "samples" / "lerobot_v3_tiny"
"""Written by the real lerobot 0.4.4; its structure is kept below, so that the test runs anywhere."""
STATS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
LENGTHS = (5, 8, 3)
SIZE, CELL = 64, 16
SPEC = SetSpec(
    fps=40,
    robot_type="toy",
    views={"top": (SIZE, SIZE)},
    columns={"observation.state": ("x", "y"), "action": ("dx",), "truth.object": ("x", "y", "z")},
    license="MIT",
    paraphrases={"push": ("shove",)},
)


def draw(episode: int, frame: int) -> np.ndarray:
    """Sixteen cells, black or white: eight bits of episode, eight of frame."""
    bits = np.unpackbits(np.array([episode, frame], np.uint8)).reshape(4, 4)
    return np.repeat(np.kron(bits * 255, np.ones((CELL, CELL))).astype(np.uint8)[..., None], 3, axis=2)


def seen(pixels: np.ndarray) -> tuple[int, int]:
    bits = pixels.mean(2).reshape(4, CELL, 4, CELL).mean((1, 3)) > 127
    episode, frame = np.packbits(bits.reshape(-1))
    return int(episode), int(frame)


def episode(number: int, length: int) -> Episode:
    frame = np.arange(length, dtype=np.float32)[:, None]
    columns = {
        "observation.state": np.hstack([frame, frame + 100 * number]),
        "action": frame + 1000 * number,
        "truth.object": np.full((length, 3), number, np.float32),
    }
    pixels = np.stack([draw(number, i) for i in range(length)])
    return Episode("push" if number % 2 == 0 else "pull", columns, {"top": pixels})


def write(root: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    writer = LeRobotWriter(root / "staging", SPEC)
    for number, length in enumerate(lengths):
        writer.add(f"episode-{number}", episode(number, length))
    writer.fill(root / "set", writer.keys())
    return root / "set"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lerobot"))


def test_our_reader_finds_every_frame_where_it_was_put(written: Path):
    source = LeRobotConfig(path=str(written), views=("top",), horizon=4, paraphrase=False).build()
    assert len(source) == sum(LENGTHS)
    assert (source.license, source.embodiment) == ("MIT", "toy")
    places = [(e, i) for e, length in enumerate(LENGTHS) for i in range(length)]
    for row in np.random.default_rng(0).permutation(len(source)):  # any order: seeks have to land exactly
        sample = source.read(int(row))
        number, frame = places[row]
        assert seen(sample.of(Image)[0].pixels) == (number, frame)
        np.testing.assert_array_equal(sample.of(State)[0].values, [frame, frame + 100 * number])
        assert sample.of(Action)[0].values[0, 0] == frame + 1000 * number
        assert sample.of(Text)[0].text == ("push", "pull", "push")[number]
        np.testing.assert_array_equal(sample.truth["object"], [number] * 3)


def test_paraphrases_reach_the_reader(written: Path):
    source = LeRobotConfig(path=str(written), views=(), horizon=4).build()
    assert {source.read(i).of(Text)[0].text for i in range(len(source))} == {"push", "shove", "pull"}


def test_files_are_those_that_lerobot_writes(written: Path):
    found = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert found == {
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.top/chunk-000/file-000.mp4",
    }


@pytest.mark.skipif(not REAL.is_dir(), reason="the sample set is not on this machine")
def test_columns_and_types_are_those_of_the_real_package(written: Path):
    def types(root: Path, name: str, views: str) -> dict[str, str]:
        schema = pq.read_schema(root / name)
        return {field.name.replace(views, "VIEW"): str(field.type) for field in schema}

    for name in ("meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        ours, real = types(written, name, "images.top"), types(REAL, name, "images.corner2")
        assert [key for key in ours if "truth" not in key] == list(real)
        assert {key: kind for key, kind in ours.items() if "truth" not in key} == real
    data = "data/chunk-000/file-000.parquet"
    ours, real = types(written, data, "images.top"), types(REAL, data, "images.corner2")
    assert ours.pop("action") == "float", "lerobot keeps one dimension as a plain number"
    assert {k: v.replace("[2]", "[4]") for k, v in ours.items() if "truth" not in k} == {
        k: v for k, v in real.items() if k != "action"
    }
    ours_info, real_info = (json.loads((root / "meta/info.json").read_text()) for root in (written, REAL))
    assert set(ours_info) == set(real_info) | {"trivium"}
    video, real_video = (
        i["features"][f"observation.images.{v}"] for i, v in ((ours_info, "top"), (real_info, "corner2"))
    )
    assert {k: type(v) for k, v in video["info"].items()} == {k: type(v) for k, v in real_video["info"].items()}


def test_the_index_of_tasks_is_marked_as_pandas_does(written: Path):
    about = json.loads(pq.read_schema(written / "meta/tasks.parquet").metadata[b"pandas"])
    assert about["index_columns"] == ["__index_level_0__"]
    assert pq.read_table(written / "meta/tasks.parquet").to_pydict() == {
        "task_index": [0, 1],
        "__index_level_0__": ["push", "pull"],
    }


def test_one_row_group_an_episode(written: Path):
    file = pq.ParquetFile(written / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == list(LENGTHS)


def test_statistics_are_those_of_the_numbers(written: Path):
    stats = json.loads((written / "meta/stats.json").read_text())
    actions = np.concatenate([np.arange(n) + 1000 * e for e, n in enumerate(LENGTHS)])
    got = stats["action"]
    assert tuple(got) == STATS
    np.testing.assert_allclose([got["mean"][0], got["std"][0]], [actions.mean(), actions.std()])
    np.testing.assert_allclose([got["q01"][0], got["q90"][0]], np.quantile(actions, [0.01, 0.9]))
    assert got["count"] == [sum(LENGTHS)]
    row = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    assert row["stats/action/min"] == [1000.0]
    assert row["stats/action/max"] == [1007.0]
    pixels = np.stack([draw(1, i) for i in range(LENGTHS[1])]) / 255
    np.testing.assert_allclose(np.ravel(row["stats/observation.images.top/mean"]), pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(np.ravel(row["stats/observation.images.top/std"]), pixels.std((0, 1, 2)))
    assert np.shape(row["stats/observation.images.top/q50"]) == (3, 1, 1)


def test_files_roll_over_at_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("DATA_FILE_MB", "VIDEO_FILE_MB"):
        monkeypatch.setattr(lerobot_write, name, 0)  # every episode is larger: a file each
    monkeypatch.setattr(lerobot_write, "FILES_PER_CHUNK", 2)
    root = write(tmp_path)
    names = sorted(str(path.relative_to(root)) for path in (root / "data").rglob("*.parquet"))
    assert names == [f"data/chunk-{c:03d}/file-{f:03d}.parquet" for c, f in ((0, 0), (0, 1), (1, 0))]
    source = LeRobotConfig(path=str(root), views=("top",), horizon=2).build()
    assert [seen(source.read(i).of(Image)[0].pixels) for i in (4, 5, 13)] == [(0, 4), (1, 0), (2, 0)]


def test_videos_join_exactly_at_any_rate(tmp_path: Path):
    frames = np.stack([draw(0, i) for i in range(7)])
    for fps in (30, 80):
        parts = [tmp_path / f"{fps}-{i}.mp4" for i in range(3)]
        for part in parts:
            encode_video(part, frames, fps)
        lerobot_write.join_videos(tmp_path / f"{fps}.mp4", parts, fps)
        with av.open(str(tmp_path / f"{fps}.mp4")) as container:
            decoded = [(frame.time * fps, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        np.testing.assert_allclose([at for at, _ in decoded], np.arange(21), atol=1e-6)
        assert [seen(pixels)[1] for _, pixels in decoded] == [*range(7)] * 3


def test_finished_episodes_survive_and_half_ones_are_not_seen(tmp_path: Path):
    writer = LeRobotWriter(tmp_path, SPEC)
    writer.add("a", episode(0, 4))

    def die(folder: Path) -> None:
        assert (folder / "frames.parquet").is_file(), "it dies when something is written already"
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device.*a disk with room.*Free some room"):
        writer.add("b", episode(1, 4), also=die)
    assert LeRobotWriter(tmp_path, SPEC).keys() == ["a"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_nan_is_refused_with_its_frame(tmp_path: Path):
    bad = episode(0, 4)
    bad.columns["action"][2, 0] = np.nan
    with pytest.raises(DataError, match=r"episode a, frame 2: found action = \[nan\]; expected finite numbers"):
        LeRobotWriter(tmp_path, SPEC).add("a", bad)
    assert os.listdir(tmp_path) == []


def test_a_wrong_shape_is_refused(tmp_path: Path):
    good = episode(0, 4)
    short = Episode(good.task, dict(good.columns), {"top": good.frames["top"][:3]})
    with pytest.raises(DataError, match=r"view top: uint8 \(3, 64, 64, 3\); expected uint8 \(4, 64, 64, 3\)"):
        LeRobotWriter(tmp_path, SPEC).add("a", short)
    missing = Episode(good.task, {k: v for k, v in good.columns.items() if k != "action"}, good.frames)
    with pytest.raises(DataError, match=r"found action: no values; expected float32 \(4, 1\)"):
        LeRobotWriter(tmp_path, SPEC).add("a", missing)


def test_an_empty_set_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"no finished episode.*Record some episodes first"):
        LeRobotWriter(tmp_path / "staging", SPEC).fill(tmp_path / "set", [])


def test_types_of_the_data_file_are_told_to_the_datasets_library():
    schema = lerobot_schema.data_schema(SPEC)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["observation.state"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 2,
        "_type": "List",
    }
    assert features["timestamp"]["dtype"] == "float32"
    assert features["action"] == {"dtype": "float32", "_type": "Value"}
    assert schema.field("task_index").type == pa.int64()
