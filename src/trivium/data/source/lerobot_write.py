"""Writing LeRobot v3.0 sets with pyarrow and PyAV: episodes are staged one by one and joined into a set at the end."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8

from trivium.core.errors import DataError
from trivium.core.files import publish_folder, write_json

FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
# Every second frame is a key frame: a random frame costs at most two decodes. ultrafast without B frames encodes
# 4,800 and decodes 1,800 pictures of 112 px a second on one core; SVT-AV1 encodes 900.
ENCODER = {"g": "2", "bf": "0", "crf": "18", "preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
_INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")


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


@dataclass(frozen=True)
class Episode:
    """One recording: columns of n rows, n frames a view, and the sentence that says what is done."""

    task: str
    columns: Mapping[str, Float32[np.ndarray, "n d"]]
    frames: Mapping[str, UInt8[np.ndarray, "n h w 3"]]


class LeRobotWriter:
    """Collects finished episodes in a staging folder and joins them into a LeRobot v3.0 set.

    Staged episodes survive a crash, so a recording goes on where it stopped; a half-written episode is never seen.
    Any number of processes may stage at once (different keys). Format: https://github.com/huggingface/lerobot
    (codebase 0.4.4), where we differ: quantiles are exact over the whole set, not averages of those of the episodes.
    """

    def __init__(self, staging: Path, spec: SetSpec) -> None:
        """Use (or make) the staging folder."""
        self.staging, self.spec = staging, spec
        staging.mkdir(parents=True, exist_ok=True)

    def keys(self) -> list[str]:
        """Return the keys of the finished episodes, sorted."""
        return sorted(path.name for path in self.staging.iterdir() if not path.name.startswith("."))

    def add(self, key: str, episode: Episode, also: Callable[[Path], None] | None = None) -> None:
        """Stage one episode, whole or not at all; `also` may write more files into its folder.

        Raises:
            DataError: the episode does not fit the set (shapes, NaN).
            CheckpointError: the disk is full or not writable; nothing of the episode is left.
        """
        _check(f"episode {key}", episode, self.spec)

        def fill(folder: Path) -> None:
            columns = {name: _fixed(values) for name, values in episode.columns.items()}
            pq.write_table(pa.table(columns), folder / "frames.parquet")
            for view, frames in episode.frames.items():
                encode_video(folder / f"{view}.mp4", frames, self.spec.fps)
                np.save(folder / f"{view}.histogram.npy", _histogram(frames))
            write_json(folder / "episode.json", {"task": episode.task, "length": _length(episode)})
            if also is not None:
                also(folder)

        publish_folder(self.staging / key, fill)

    def fill(self, folder: Path, keys: Sequence[str]) -> None:
        """Write the set of these staged episodes, in this order, into a folder (publish it with `publish_folder`).

        Raises:
            DataError: there is no episode.
        """
        if not keys:
            raise DataError(str(folder), "no finished episode", "at least one", "Record some episodes first.")
        staged = [_Staged.read(self.staging / key) for key in keys]
        tasks = list(dict.fromkeys(episode.task for episode in staged))
        rows: list[dict[str, Any]] = []
        start = 0
        for number, episode in enumerate(staged):
            episode.number(number, start, tasks.index(episode.task), self.spec.fps)
            rows.append({"episode_index": number, "tasks": [episode.task], "length": episode.length})
            start += episode.length
        _write_data(folder, staged, rows, self.spec)
        for view in self.spec.views:
            _write_videos(folder, staged, rows, view, self.spec.fps)
        total = _Total()
        for episode, row in zip(staged, rows, strict=True):
            for name, values in episode.all_columns().items():
                row |= {f"stats/{name}/{key}": value for key, value in _stats(values).items()}
            for view in self.spec.views:
                stats = _picture_stats(episode.histogram(view))
                row |= {f"stats/observation.images.{view}/{key}": value for key, value in stats.items()}
            total.add(episode, self.spec)
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        _write_meta(folder, rows, tasks, total, self.spec)


@dataclass
class _Staged:
    """A staged episode; its columns are read when first used."""

    path: Path
    task: str
    length: int
    index_columns: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "_Staged":
        about = json.loads((path / "episode.json").read_text())
        return cls(path, about["task"], about["length"])

    def number(self, episode: int, start: int, task: int, fps: int) -> None:
        frame = np.arange(self.length)
        values = ((frame / fps).astype(np.float32), frame, np.full_like(frame, episode), start + frame)
        self.index_columns = dict(zip(_INDEX, (*values, np.full_like(frame, task)), strict=True))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        table = pq.read_table(self.path / "frames.parquet")
        return {
            name: table.column(name).combine_chunks().flatten().to_numpy().reshape(self.length, -1)
            for name in table.column_names
        }

    def all_columns(self) -> dict[str, np.ndarray]:
        return self.columns | {name: values[:, None] for name, values in self.index_columns.items()}

    def histogram(self, view: str) -> np.ndarray:
        return np.load(self.path / f"{view}.histogram.npy")


class _Total:
    """Statistics of the whole set, gathered episode by episode."""

    def __init__(self) -> None:
        self.columns: dict[str, list[np.ndarray]] = {}
        self.pictures: dict[str, np.ndarray] = {}

    def add(self, episode: _Staged, spec: SetSpec) -> None:
        for name, values in episode.all_columns().items():
            self.columns.setdefault(name, []).append(values)
        for view in spec.views:
            self.pictures[view] = self.pictures.get(view, 0) + episode.histogram(view)

    def stats(self) -> dict[str, dict[str, Any]]:
        pictures = {f"observation.images.{view}": _picture_stats(counts) for view, counts in self.pictures.items()}
        return pictures | {name: _stats(np.concatenate(values)) for name, values in self.columns.items()}


def encode_video(path: Path, frames: UInt8[np.ndarray, "n h w 3"], fps: int) -> None:
    """Write frames as H.264 in an mp4 whose time unit divides the frame time (so that files join exactly)."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options=ENCODER)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def join_videos(path: Path, parts: Iterable[Path], fps: int) -> None:
    """Put videos one after the other without decoding them; all come from `encode_video` with one size and rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = Fraction(0)
    with av.open(str(path), "w") as target:
        stream: Any = None
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                num_frames = 0
                for packet in source.demux(video):
                    if packet.dts is None:  # the flush packet
                        continue
                    offset = start / packet.time_base
                    assert offset.denominator == 1, "the time unit divides the frame time"
                    packet.pts, packet.dts = packet.pts + int(offset), packet.dts + int(offset)
                    packet.stream = stream
                    target.mux(packet)
                    num_frames += 1
                start += Fraction(num_frames, fps)


def _check(where: str, episode: Episode, spec: SetSpec) -> None:
    length = _length(episode)
    for name, names in spec.columns.items():
        values = episode.columns.get(name)
        shape = None if values is None else values.shape
        if values is None or shape != (length, len(names)) or values.dtype != np.float32:
            found = "no values" if values is None else f"{values.dtype} {shape}"
            raise DataError(where, f"{name}: {found}", f"float32 {(length, len(names))}", "Mend the recorder.")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DataError(f"{where}, frame {row}", f"{name} = {values[row]}", "finite numbers", "Mend the recorder.")
    for view, size in spec.views.items():
        frames = episode.frames.get(view)
        if frames is None or frames.shape != (length, *size, 3) or frames.dtype != np.uint8:
            found = "no frames" if frames is None else f"{frames.dtype} {frames.shape}"
            raise DataError(where, f"view {view}: {found}", f"uint8 {(length, *size, 3)}", "Mend the recorder.")


def _length(episode: Episode) -> int:
    return len(next(iter(episode.columns.values())))


def _fixed(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _place(number: int) -> tuple[int, int]:
    return number // FILES_PER_CHUNK, number % FILES_PER_CHUNK


def _files(sizes: Sequence[int], limit_mb: int) -> list[int]:
    """Give every episode the number of the file it goes to: files are filled in order up to the limit."""
    numbers, number, filled = [], 0, 0
    for size in sizes:
        if filled and filled + size > limit_mb * 2**20:
            number, filled = number + 1, 0
        filled += size
        numbers.append(number)
    return numbers


def _write_data(folder: Path, staged: list[_Staged], rows: list[dict[str, Any]], spec: SetSpec) -> None:
    files = _files([(episode.path / "frames.parquet").stat().st_size for episode in staged], DATA_FILE_MB)
    schema = _data_schema(spec)
    writer: pq.ParquetWriter | None = None
    for position, (episode, row, number) in enumerate(zip(staged, rows, files, strict=True)):
        chunk, file = _place(number)
        if writer is None or number != files[position - 1]:
            if writer is not None:
                writer.close()
            path = folder / DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(path, schema)
        arrays = [_fixed(episode.columns[name]) for name in spec.columns]
        arrays += [pa.array(values) for values in episode.index_columns.values()]
        # One row group an episode, as lerobot does: a reader of one episode touches nothing else.
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=2**20)
        start = int(episode.index_columns["index"][0])
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": start, "dataset_to_index": start + episode.length}
    assert writer is not None, "there is at least one episode"
    writer.close()


def _data_schema(spec: SetSpec) -> pa.Schema:
    fields = [pa.field(name, pa.list_(pa.float32(), len(names))) for name, names in spec.columns.items()]
    fields += [pa.field(name, pa.float32() if name == "timestamp" else pa.int64()) for name in _INDEX]
    value = {"dtype": "float32", "_type": "Value"}
    features: dict[str, Any] = {
        name: {"feature": value, "length": len(names), "_type": "List"} for name, names in spec.columns.items()
    }
    features |= {name: value if name == "timestamp" else {"dtype": "int64", "_type": "Value"} for name in _INDEX}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _write_videos(folder: Path, staged: list[_Staged], rows: list[dict[str, Any]], view: str, fps: int) -> None:
    parts = [episode.path / f"{view}.mp4" for episode in staged]
    files = _files([part.stat().st_size for part in parts], VIDEO_FILE_MB)
    key = f"observation.images.{view}"
    start = 0
    for position, (episode, row, number) in enumerate(zip(staged, rows, files, strict=True)):
        chunk, file = _place(number)
        if position and number != files[position - 1]:
            start = 0
        end = start + episode.length
        row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
        row |= {f"videos/{key}/from_timestamp": start / fps, f"videos/{key}/to_timestamp": end / fps}
        start = end
    for number in range(files[-1] + 1):
        chunk, file = _place(number)
        path = folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
        join_videos(path, [part for part, at in zip(parts, files, strict=True) if at == number], fps)


def _write_meta(folder: Path, rows: list[dict[str, Any]], tasks: list[str], total: _Total, spec: SetSpec) -> None:
    write_json(folder / "meta/info.json", _info(rows, tasks, spec))
    write_json(folder / "meta/stats.json", total.stats())
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
    pq.write_table(pa.Table.from_pylist(rows, schema=_episode_schema(rows[0])), path)


def _episode_schema(row: dict[str, Any]) -> pa.Schema:
    picture = pa.list_(pa.list_(pa.list_(pa.float64())))

    def type_of(name: str, value: Any) -> pa.DataType:
        if name.startswith("stats/observation.images.") and not name.endswith("/count"):
            return picture
        return pa.array([value]).type

    return pa.schema([pa.field(name, type_of(name, value)) for name, value in row.items()])


def _info(rows: list[dict[str, Any]], tasks: list[str], spec: SetSpec) -> dict[str, Any]:
    features: dict[str, Any] = {
        f"observation.images.{view}": _video_feature(size, spec.fps) for view, size in spec.views.items()
    }
    features |= {
        name: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for name, names in spec.columns.items()
    }
    features |= {
        name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None} for name in _INDEX
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
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"], "info": info}


def _stats(values: np.ndarray) -> dict[str, list[Any]]:
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    stats = {"min": values.min(0), "max": values.max(0)}
    stats |= {"mean": values.mean(0, dtype=np.float64), "std": values.std(0, dtype=np.float64)}
    stats |= {"count": np.array([len(values)])} | dict(zip(QUANTILES, quantiles.astype(np.float64), strict=True))
    return {name: value.tolist() for name, value in stats.items()}


def _histogram(frames: np.ndarray) -> np.ndarray:
    """Count pixel values by channel in at most 32 frames (counts are exact to join, unlike quantiles)."""
    some = frames[:: max(1, len(frames) // 32)]
    counts = np.stack([np.bincount(some[..., channel].reshape(-1), minlength=256) for channel in range(3)])
    return np.concatenate([counts, np.full((1, 256), len(some))])


def _picture_stats(histogram: np.ndarray) -> dict[str, list[Any]]:
    counts, num_frames = histogram[:3].astype(np.float64), int(histogram[3, 0])
    levels = np.arange(256) / 255
    share = counts.cumsum(1) / counts.sum(1, keepdims=True)
    mean = (counts * levels).sum(1) / counts.sum(1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    seen = [np.flatnonzero(row) for row in counts]
    values = {"min": [levels[row[0]] for row in seen], "max": [levels[row[-1]] for row in seen]}
    values |= {"mean": mean, "std": np.sqrt(variance), "count": None}
    values |= {name: levels[(share < at).sum(1)] for name, at in QUANTILES.items()}
    return {
        name: [num_frames] if value is None else [[[float(channel)]] for channel in value]
        for name, value in values.items()
    }
