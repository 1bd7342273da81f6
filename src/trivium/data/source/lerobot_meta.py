"""Opening a LeRobot v3.0 folder: its tables are read and checked before anything is used."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, Int

from trivium.core.errors import DataError
from trivium.data.source.source import digest
from trivium.data.source.table import read_table

VERSION = "v3.0"
CLOCK_TOLERANCE = 0.1
"""Share of a frame by which a stored time may differ from frame_index / fps."""
INDEX_COLUMNS = ("index", "episode_index", "frame_index", "task_index", "timestamp")


@dataclass(frozen=True, eq=False)
class Info:
    """meta/info.json, checked."""

    root: Path
    raw: Mapping[str, Any]
    text: bytes

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.raw["fps"])

    @property
    def features(self) -> Mapping[str, Any]:
        """Columns and videos by key."""
        return self.raw["features"]

    @property
    def extra(self) -> Mapping[str, Any]:
        """What Trivium's own writer adds: "paraphrases" by task and "license"."""
        return self.raw.get("trivium", {})

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of a feature's dimensions; "state.0", "state.1" where the set gives none."""
        feature = self.features[key]
        size, found = math.prod(feature["shape"]), feature.get("names")
        if isinstance(found, Mapping):
            found = [name for names in found.values() for name in (names if isinstance(names, list) else [names])]
        if found and len(found) == size:
            return tuple(map(str, found))
        return tuple(f"{key.rsplit('.', 1)[-1]}.{j}" for j in range(size))

    def picture_size(self, key: str) -> tuple[int, int]:
        """Return height and width of a camera's pictures."""
        shape, names = tuple(self.features[key]["shape"]), self.features[key].get("names") or ()
        return (shape[1], shape[2]) if names and str(names[0]).startswith("channel") else (shape[0], shape[1])

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """Return the path of one mp4 file."""
        return self.root / self.raw["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)

    def data_file(self, chunk: int, file: int) -> Path:
        """Return the path of one data file."""
        return self.root / self.raw["data_path"].format(chunk_index=chunk, file_index=file)


@dataclass(frozen=True, eq=False)
class Episodes:
    """meta/episodes/**: where each episode lies."""

    number: Int[np.ndarray, " e"]
    begin: Int[np.ndarray, " e"]
    end: Int[np.ndarray, " e"]
    data_file: list[Path]
    video_file: dict[str, list[Path]]
    video_begin: dict[str, Float[np.ndarray, " e"]]
    """Time in seconds at which an episode starts in its video file, by feature key."""


def read_info(root: Path) -> Info:
    """Read and check meta/info.json.

    Raises:
        DataError: this is not a LeRobot v3.0 folder.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        record = root.parent if root.name == "robot" else "FOLDER"  # demo-data calls its LeRobot set robot/
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else ""
        raise DataError(
            str(root),
            f"no meta/info.json (the folder holds: {inside or 'nothing'})" if root.is_dir() else "no such folder",
            "a LeRobot v3.0 data set: meta/info.json, meta/tasks.parquet, meta/episodes/, data/, videos/",
            f"Correct `path`, or record demonstrations: trivium demo-data {record}",
        )
    text = path.read_bytes()
    try:
        raw = json.loads(text)
        version = raw.get("codebase_version")
    except (ValueError, AttributeError) as error:
        raise DataError(
            str(path), f"broken JSON ({error})", "the JSON object that LeRobot writes", "Copy the set again."
        ) from error
    if version != VERSION:
        raise DataError(
            str(path),
            f"codebase_version {version!r}",
            repr(VERSION),
            "Convert it with lerobot >= 0.4: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id ...",
        )
    required = ("fps", "features", "total_frames", "total_episodes", "data_path")
    missing = [key for key in required if key not in raw]
    if missing:
        raise DataError(str(path), f"no {missing[0]!r}", f"the keys {', '.join(required)}", "Write the set again.")
    return Info(root, raw, text)


def feature(info: Info, key: str, field: str) -> Mapping[str, Any]:
    """Return the description of a feature that the config asks for.

    Raises:
        DataError: the set has no such feature.
    """
    if key not in info.features:
        close = get_close_matches(key, info.features, n=1, cutoff=0.5)
        raise DataError(
            str(info.root / "meta" / "info.json"),
            f"no feature {key!r}",
            f"one of {', '.join(k for k in info.features if k not in INDEX_COLUMNS)}",
            f"Did you mean {close[0]!r}? Change `{field}`." if close else f"Change `{field}`.",
        )
    return info.features[key]


def read_tasks(info: Info) -> list[str]:
    """Return task sentences by task_index.

    Raises:
        DataError: meta/tasks.parquet is missing or has no sentences.
    """
    path = info.root / "meta" / "tasks.parquet"
    table = read_table(path)
    # pandas writes the sentence as the index: its column is called "task" or "__index_level_0__" by version.
    text = [
        field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    if not text or "task_index" not in table.column_names:
        raise DataError(
            str(path), f"columns {table.column_names}", "task_index and one column of sentences", "Write the set again."
        )
    pairs = zip(table["task_index"].to_pylist(), table[text[0]].to_pylist(), strict=True)
    tasks = dict(pairs)
    if sorted(tasks) != list(range(len(tasks))):
        raise DataError(str(path), f"task_index {sorted(tasks)[:5]}...", "0, 1, 2, ... without gaps", "Write it again.")
    return [tasks[j] for j in range(len(tasks))]


def read_episodes(info: Info, video_keys: tuple[str, ...]) -> Episodes:
    """Read meta/episodes/** and check that episodes tile the set.

    Raises:
        DataError: files or columns are missing, or episodes overlap or leave gaps.
    """
    folder = info.root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataError(str(folder), "no chunk-*/file-*.parquet", "the table of episodes", "Copy the whole set again.")
    columns = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    columns += ["data/chunk_index", "data/file_index"]
    places = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns += [f"videos/{key}/{place}" for key in video_keys for place in places]
    table = pa.concat_tables([read_table(file, columns) for file in files]).sort_by("episode_index")
    get = {name: table[name].to_numpy() for name in columns}

    def pairs(prefix: str) -> Iterator[tuple[int, int]]:
        return zip(get[f"{prefix}/chunk_index"].tolist(), get[f"{prefix}/file_index"].tolist(), strict=True)

    _check_tiling(folder, info, get)
    for key in video_keys:
        _check_spans(folder, info, get, key)
    return Episodes(
        number=get["episode_index"],
        begin=get["dataset_from_index"],
        end=get["dataset_to_index"],
        data_file=[info.data_file(*at) for at in pairs("data")],
        video_file={key: [info.video_file(key, *at) for at in pairs(f"videos/{key}")] for key in video_keys},
        video_begin={key: get[f"videos/{key}/from_timestamp"].astype(np.float64) for key in video_keys},
    )


def read_frames(info: Info, episodes: Episodes, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the numeric columns of every frame and check that they follow the table of episodes.

    Raises:
        DataError: a file, a column or frames are missing, out of order, or not finite.
    """
    wanted = [*INDEX_COLUMNS, *keys]
    files = list(dict.fromkeys(episodes.data_file))
    tables = [read_table(file, wanted) for file in files]
    for file, table in zip(files, tables, strict=True):
        need = sum(
            int(e - b) for b, e, f in zip(episodes.begin, episodes.end, episodes.data_file, strict=True) if f == file
        )
        if table.num_rows != need:
            raise DataError(
                str(file), f"{table.num_rows} frames", f"{need}, as meta/episodes says", "Copy or write the set again."
            )
    table = pa.concat_tables(tables)
    frames = {name: _matrix(info.root, name, table[name]) for name in wanted}
    _check_order(info, episodes, frames)
    for key in keys:
        if not key.startswith("truth."):
            _check_finite(info, episodes, key, frames[key])
    return frames


def fingerprint(info: Info, frames: Mapping[str, np.ndarray], episodes: Episodes) -> str:
    """Hash everything but the pixels, and the sizes of the video files; moving the folder changes nothing."""
    videos = sorted({file for files in episodes.video_file.values() for file in files})
    sizes = [(str(file.relative_to(info.root)), file.stat().st_size) for file in videos]
    arrays = [frames[name] for name in sorted(frames)]
    return digest(info.text, sizes, *arrays, *(episodes.video_begin[key] for key in sorted(episodes.video_begin)))


def _matrix(root: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Turn a column into [n, d], an index column into [n]; integers stay integers, the rest becomes float32."""
    array = column.combine_chunks()
    rows = len(array)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "iufb" or len(values) % rows:
        raise DataError(
            f"{root / 'data'}: column {name}",
            f"{len(values)} values of type {array.type} in {rows} frames",
            "the same number of numbers in every frame",
            "Write the set again, or leave that feature out.",
        )
    if values.dtype.kind not in "iu":
        values = values.astype(np.float32)
    return values if name in INDEX_COLUMNS else values.reshape(rows, -1)


def _check_tiling(folder: Path, info: Info, get: Mapping[str, np.ndarray]) -> None:
    begin, end, total = get["dataset_from_index"], get["dataset_to_index"], info.raw["total_frames"]
    expected = np.concatenate([[0], end[:-1]])
    faults = np.flatnonzero((begin != expected) | (end - begin != get["length"]) | (end <= begin))
    if len(faults):
        e = faults[0]
        raise DataError(
            f"{folder}: episode {get['episode_index'][e]}",
            f"frames {begin[e]}..{end[e]} and length {get['length'][e]}",
            f"frames that start at {expected[e]}, where the episode before ends",
            "Write the set again; a conversion from v2.1 may have left wrong borders.",
        )
    if len(begin) != info.raw["total_episodes"] or (len(end) and end[-1] != total) or total == 0:
        raise DataError(
            str(folder),
            f"{len(begin)} episodes with {end[-1] if len(end) else 0} frames",
            f"{info.raw['total_episodes']} episodes with {total} frames, as meta/info.json says, and at least one",
            "Copy the whole set again, or finish its recording.",
        )


def _check_spans(folder: Path, info: Info, get: Mapping[str, np.ndarray], key: str) -> None:
    """A wrong span is how lerobot#2401 shows: an episode that points into the previous file."""
    span = (get[f"videos/{key}/to_timestamp"] - get[f"videos/{key}/from_timestamp"]) * info.fps
    faults = np.flatnonzero(np.abs(span - get["length"]) > 0.5)
    if len(faults):
        e = faults[0]
        raise DataError(
            f"{folder}: episode {get['episode_index'][e]}, {key}",
            f"a video span of {span[e]:.1f} frames",
            f"{get['length'][e]} frames, the length of the episode",
            "Write the set again; a conversion from v2.1 may have left wrong borders.",
        )


def _check_order(info: Info, episodes: Episodes, frames: Mapping[str, np.ndarray]) -> None:
    lengths = episodes.end - episodes.begin
    rows = np.arange(len(frames["index"]))
    in_episode = rows - np.repeat(episodes.begin, lengths)
    expected = {
        "index": rows,
        "episode_index": np.repeat(episodes.number, lengths),
        "frame_index": in_episode,
        "timestamp": in_episode / info.fps,
    }
    for name, right in expected.items():
        slack = CLOCK_TOLERANCE / info.fps + 1e-6 * right.max() if name == "timestamp" else 0.0
        faults = np.flatnonzero(~(np.abs(frames[name] - right) <= slack))
        if len(faults):
            raise DataError(
                place(episodes, int(faults[0])),
                f"{name} {frames[name][faults[0]]:g}",
                f"{right[faults[0]]:g}",
                "Frames are missing or out of order: write the set again.",
            )


def _check_finite(info: Info, episodes: Episodes, key: str, values: Float32[np.ndarray, "n d"]) -> None:
    faults = np.argwhere(~np.isfinite(values))
    if len(faults):
        row, dimension = faults[0]
        name = info.names(key)[dimension]
        raise DataError(
            place(episodes, int(row)),
            f"{values[row, dimension]} in {key}, dimension {dimension} ({name}); {len(faults)} such values in the set",
            "finite numbers",
            "Record that episode again or remove it from the set.",
        )


def place(episodes: Episodes, row: int) -> str:
    """Name a frame as "file: episode 3, frame 17"."""
    e = int(np.searchsorted(episodes.end, row, side="right"))
    return f"{episodes.data_file[e]}: episode {episodes.number[e]}, frame {row - episodes.begin[e]}"
