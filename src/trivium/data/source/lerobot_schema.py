"""The files around the data of a LeRobot v3.0 set: column types, info.json, tasks and episodes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trivium.core.files import write_json
from trivium.data.source.video_write import CODEC

FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class SetSpec:
    """What every episode of a set has in common."""

    fps: int
    """Frames a second, of all views and columns alike."""
    robot_type: str
    views: Mapping[str, tuple[int, int]]
    """View name -> (height, width) in pixels, both even (yuv420p)."""
    columns: Mapping[str, tuple[str, ...]]
    """Column name -> the names of its float32 dimensions, such as {"action": ("dx", "dy", "dz", "grip")}."""
    license: str
    paraphrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task sentence -> other ways to say it; kept under "trivium" in info.json, which other readers ignore."""


def column_type(num_dimensions: int) -> pa.DataType:
    """Return the type of a column; lerobot stores one dimension as a plain number and refuses a list of one."""
    return pa.float32() if num_dimensions == 1 else pa.list_(pa.float32(), num_dimensions)


def data_schema(spec: SetSpec) -> pa.Schema:
    """Return the columns of a data file, with the note that the `datasets` library reads their types from."""
    fields = [pa.field(name, column_type(len(names))) for name, names in spec.columns.items()]
    fields += [pa.field(name, pa.float32() if name == "timestamp" else pa.int64()) for name in INDEX]
    value = {"dtype": "float32", "_type": "Value"}
    features: dict[str, Any] = {
        name: value if len(names) == 1 else {"feature": value, "length": len(names), "_type": "List"}
        for name, names in spec.columns.items()
    }
    features |= {name: value if name == "timestamp" else {"dtype": "int64", "_type": "Value"} for name in INDEX}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_meta(
    folder: Path, rows: list[dict[str, Any]], tasks: list[str], stats: Mapping[str, Any], spec: SetSpec
) -> None:
    """Write everything under meta/: what the set is, its statistics, its sentences, and where each episode lies."""
    write_json(folder / "meta/info.json", _info(rows, tasks, spec))
    write_json(folder / "meta/stats.json", dict(stats))
    # pandas (and so lerobot) takes the sentence as the index because of this metadata.
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.large_string())})
    about = {
        "index_columns": [index],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), folder / "meta/tasks.parquet")
    path = folder / EPISODES_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _info(rows: list[dict[str, Any]], tasks: list[str], spec: SetSpec) -> dict[str, Any]:
    features: dict[str, Any] = {
        f"observation.images.{view}": _video_feature(size, spec.fps) for view, size in spec.views.items()
    }
    features |= {
        name: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for name, names in spec.columns.items()
    }
    features |= {
        name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None} for name in INDEX
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": spec.robot_type,
        "total_episodes": len(rows),
        "total_frames": rows[-1]["dataset_to_index"],
        "total_tasks": len(tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": spec.fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
        "trivium": {
            "license": spec.license,
            "paraphrases": {task: list(spec.paraphrases.get(task, ())) for task in tasks},
        },
    }


def _video_feature(size: tuple[int, int], fps: int) -> dict[str, Any]:
    info = {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": CODEC,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"], "info": info}
