"""A LeRobot v3.0 set made here with pyarrow and av alone, whose every frame says its own number in its pixels."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LENGTHS = (9, 14, 5)
FPS = 20
SIZE = 64
CELL = 16
TASKS = ("push the block", "open the drawer")


def draw(episode: int, frame: int) -> np.ndarray:
    """Sixteen black or white cells: eight bits of episode, eight of frame. Lossy coding cannot blur them."""
    bits = np.unpackbits(np.array([episode, frame], np.uint8)).reshape(4, 4)
    return np.repeat(np.kron(bits * 255, np.ones((CELL, CELL))).astype(np.uint8)[..., None], 3, axis=2)


def seen(pixels: np.ndarray) -> tuple[int, int]:
    """Read (episode, frame) back from a picture."""
    bits = pixels.mean(2).reshape(4, CELL, 4, CELL).mean((1, 3)) > 127
    episode, frame = np.packbits(bits.reshape(-1))
    return int(episode), int(frame)


def encode(path: Path, pictures: list[np.ndarray], options: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_table(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_lerobot(root: Path, lengths: tuple[int, ...] = LENGTHS, gop: int = 7) -> Path:
    """Write a set of two files each: the last episode lies in the second ones. obs = t, action = 1000 * episode + t."""
    feature = {"dtype": "float32", "shape": [2], "names": ["a", "b"]}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "toy",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.images.front": {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "c"]},
            "observation.state": feature,
            "action": feature,
            "truth.object": {"dtype": "float32", "shape": [3], "names": None},
        },
        "trivium": {"paraphrases": {TASKS[0]: ["shove the block", "move the block"]}, "license": "CC-BY-4.0"},
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    write_table(root / "meta" / "tasks.parquet", {"task_index": range(len(TASKS)), "__index_level_0__": TASKS})
    rows, begin = [], 0
    for files in (range(len(lengths) - 1), range(len(lengths) - 1, len(lengths))):
        pictures, columns = [], {name: [] for name in ("episode", "frame", "index")}
        for episode in files:
            row = {"episode_index": episode, "length": lengths[episode], "tasks": [TASKS[episode % 2]]}
            row |= {"dataset_from_index": begin, "dataset_to_index": begin + lengths[episode]}
            place = {"chunk_index": 0, "file_index": int(files.start > 0)}
            times = {"from_timestamp": len(pictures) / FPS, "to_timestamp": (len(pictures) + lengths[episode]) / FPS}
            row |= {f"data/{key}": value for key, value in place.items()}
            row |= {f"videos/observation.images.front/{key}": value for key, value in (place | times).items()}
            rows.append(row)
            pictures += [draw(episode, frame) for frame in range(lengths[episode])]
            columns["episode"] += [episode] * lengths[episode]
            columns["frame"] += range(lengths[episode])
            columns["index"] += range(begin, begin + lengths[episode])
            begin += lengths[episode]
        name = f"chunk-000/file-{int(files.start > 0):03d}"
        encode(root / f"videos/observation.images.front/{name}.mp4", pictures, {"g": str(gop), "bf": "2"})
        write_frames(root / f"data/{name}.parquet", **{key: np.asarray(value) for key, value in columns.items()})
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", {key: [row[key] for row in rows] for key in rows[0]})
    return root


def write_frames(path: Path, episode: np.ndarray, frame: np.ndarray, index: np.ndarray) -> None:
    state = np.stack([frame, frame], 1).astype(np.float32)
    action = np.stack([1000 * episode + frame] * 2, 1).astype(np.float32)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.reshape(-1)), 2),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(action.reshape(-1)), 2),
        "truth.object": pa.array([[e, f, 0.0] for e, f in zip(episode, frame, strict=True)], pa.list_(pa.float32())),
        "timestamp": pa.array(frame / FPS, pa.float32()),
        "frame_index": frame,
        "episode_index": episode,
        "index": index,
        "task_index": episode % 2,
    }
    write_table(path, columns)


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set for all tests that only read."""
    return write_lerobot(tmp_path_factory.mktemp("sets") / "toy")


@pytest.fixture
def own_set(toy_set: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(toy_set, tmp_path / "toy"))


@pytest.fixture(scope="session")
def picture_number() -> Callable[[np.ndarray], tuple[int, int]]:
    return seen
