"""Writing LeRobot v3.0 sets with pyarrow and PyAV: episodes are staged one by one and joined into a set at the end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8

from trivium.core.errors import DataError
from trivium.core.files import publish_folder, write_json
from trivium.data.source.lerobot_schema import (
    DATA_FILE_MB,
    DATA_PATH,
    FILES_PER_CHUNK,
    INDEX,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    SetSpec,
    data_schema,
    write_meta,
)
from trivium.data.source.lerobot_stats import column_stats, histogram, picture_stats
from trivium.data.source.video_write import encode_video, join_videos


@dataclass(frozen=True)
class Episode:
    """One recording: columns of n rows, n frames a view, and the sentence that says what is done."""

    task: str
    columns: Mapping[str, Float32[np.ndarray, "_ _"]]
    frames: Mapping[str, UInt8[np.ndarray, "_ _ _ 3"]]


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
            columns = {name: _column(values) for name, values in episode.columns.items()}
            pq.write_table(pa.table(columns), folder / "frames.parquet")
            for view, frames in episode.frames.items():
                encode_video(folder / f"{view}.mp4", frames, self.spec.fps)
                np.save(folder / f"{view}.histogram.npy", histogram(frames))
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
            for view in self.spec.views:
                stats = picture_stats(episode.histogram(view))
                row |= {f"stats/observation.images.{view}/{key}": value for key, value in stats.items()}
            for name, values in episode.all_columns().items():
                row |= {f"stats/{name}/{key}": value for key, value in column_stats(values).items()}
            total.add(episode, self.spec)
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        write_meta(folder, rows, tasks, total.stats(), self.spec)


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
        self.index_columns = dict(zip(INDEX, (*values, np.full_like(frame, task)), strict=True))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        table = pq.read_table(self.path / "frames.parquet")
        return {name: _values(table.column(name)).reshape(self.length, -1) for name in table.column_names}

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
        pictures = {f"observation.images.{view}": picture_stats(counts) for view, counts in self.pictures.items()}
        return pictures | {name: column_stats(np.concatenate(values)) for name, values in self.columns.items()}


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


def _column(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _values(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy()


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
    schema = data_schema(spec)
    writer: pq.ParquetWriter | None = None
    for position, (episode, row, number) in enumerate(zip(staged, rows, files, strict=True)):
        chunk, file = _place(number)
        if writer is None or number != files[position - 1]:
            if writer is not None:
                writer.close()
            path = folder / DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(path, schema)
        arrays = [_column(episode.columns[name]) for name in spec.columns]
        arrays += [pa.array(values) for values in episode.index_columns.values()]
        # One row group an episode, as lerobot does: a reader of one episode touches nothing else.
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=2**20)
        start = int(episode.index_columns["index"][0])
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": start, "dataset_to_index": start + episode.length}
    assert writer is not None, "there is at least one episode"
    writer.close()


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
