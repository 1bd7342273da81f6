"""The table of episodes and the task sentences of a LeRobot folder, of any version, checked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from trivium.core.errors import DataError
from trivium.data.source.lerobot_meta import MAX_COUNT, MENDED, Info, parse, read_bytes, whole
from trivium.data.source.table import read_table

MAX_EPISODE = 1 << 31
AGAIN = "Write the set again; a conversion from v2.1 may have left wrong borders."


@dataclass(frozen=True, eq=False)
class Videos:
    """Where the episodes of one camera lie in its mp4 files."""

    files: list[Path]
    file: Int[np.ndarray, " e"]
    """Which of them each episode is in."""
    first: Int[np.ndarray, " e"]
    """The frame of that file with which it starts."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """Where each episode lies: meta/episodes/** of v3.0, meta/episodes.jsonl before."""

    number: Int[np.ndarray, " e"]
    begin: Int[np.ndarray, " e"]
    end: Int[np.ndarray, " e"]
    files: list[Path]
    """Data files in the order of their frames."""
    file: Int[np.ndarray, " e"]
    """Which of them each episode is in, as the table says."""
    videos: dict[str, Videos]
    """By feature key."""


def read_tasks(info: Info) -> list[str]:
    """Return task sentences by task_index.

    Raises:
        DataError: the table of tasks is missing or has no sentences.
    """
    path = info.inside("meta/tasks.parquet" if info.v3 else "meta/tasks.jsonl")
    tasks = _parquet_tasks(path) if info.v3 else _jsonl_tasks(path)
    if sorted(tasks) != list(range(len(tasks))):
        raise DataError(
            str(path), f"task_index {sorted(tasks)[:5]}...", "0, 1, 2, ... without gaps", "Write the set again."
        )
    return [tasks[j] for j in range(len(tasks))]


def read_episodes(info: Info, video_keys: tuple[str, ...]) -> Episodes:
    """Read where episodes lie and check that they tile the set.

    Raises:
        DataError: files or columns are missing, or episodes overlap or leave gaps.
    """
    return _read_v3(info, video_keys) if info.v3 else _read_v2(info, video_keys)


def _parquet_tasks(path: Path) -> dict[int, str]:
    table = read_table(path)
    # pandas writes the sentence as the index: its column is called "task" or "__index_level_0__" by version.
    text = [
        field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    kinds = {field.name: field.type for field in table.schema}
    if not text or "task_index" not in kinds or not pa.types.is_integer(kinds["task_index"]):
        raise DataError(
            str(path), f"columns {table.column_names}", "task_index and one column of sentences", "Write the set again."
        )
    if any(table[name].null_count for name in ("task_index", text[0])):
        raise DataError(str(path), "an empty cell", "a sentence for every task_index", "Write the set again.")
    try:
        return dict(zip(table["task_index"].to_pylist(), table[text[0]].to_pylist(), strict=True))
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"a sentence that is no text ({error})", "UTF-8", MENDED) from error


def _jsonl_tasks(path: Path) -> dict[int, str]:
    tasks: dict[int, str] = {}
    for where, row in _lines(path):
        if not whole(row.get("task_index"), 0, MAX_EPISODE) or not isinstance(row.get("task"), str):
            raise DataError(where, str(row)[:80], "task_index and task", "Write the set again.")
        tasks[row["task_index"]] = row["task"]
    return tasks


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of a .jsonl file with its place."""
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line.strip():
            yield f"{path}: line {number}", parse(line, f"{path}: line {number}")


def _read_v2(info: Info, video_keys: tuple[str, ...]) -> Episodes:
    path = info.inside("meta/episodes.jsonl")
    lengths: dict[int, int] = {}
    for where, row in _lines(path):
        number, length = row.get("episode_index", -1), row.get("length", -1)
        if not whole(number, 0, MAX_EPISODE) or not whole(length, 1, MAX_COUNT) or number in lengths:
            twice = " for the second time" if number in lengths else ""
            raise DataError(
                where,
                f"episode_index {number!r} of length {length!r}{twice}",
                "an episode with at least one frame, once",
                "Write the set again.",
            )
        lengths[number] = length
    numbers = sorted(lengths)
    end = np.cumsum([lengths[n] for n in numbers], dtype=np.int64)
    _check_totals(str(path), info, len(numbers), int(end[-1]) if numbers else 0)
    at = {n: {"episode_chunk": n // info.raw["chunks_size"], "episode_index": n} for n in numbers}
    data = info.paths("data_path", "episode_chunk", "episode_index")
    mine, zero = np.arange(len(numbers), dtype=np.int32), np.zeros(len(numbers), np.int32)
    videos = {}
    for key in video_keys:
        video = info.paths("video_path", "episode_chunk", "episode_index", "video_key")
        videos[key] = Videos([video(video_key=key, **at[n]) for n in numbers], mine, zero)
    return Episodes(np.array(numbers), end - _lengths(end), end, [data(**at[n]) for n in numbers], mine, videos)


def _lengths(end: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    return np.diff(end, prepend=0)


def _read_v3(info: Info, video_keys: tuple[str, ...]) -> Episodes:
    folder = info.root / "meta" / "episodes"
    files = [info.inside(str(f.relative_to(info.root))) for f in sorted(folder.glob("chunk-*/file-*.parquet"))]
    if not files:
        raise DataError(str(folder), "no chunk-*/file-*.parquet", "the table of episodes", "Copy the whole set again.")
    columns = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    columns += ["data/chunk_index", "data/file_index"]
    places = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns += [f"videos/{key}/{name}" for key in video_keys for name in places]
    get = _columns(folder, files, columns)
    _check_tiling(folder, info, get)
    data = info.paths("data_path", "chunk_index", "file_index")
    data_files, data_file = _distinct(data, get["data/chunk_index"], get["data/file_index"])
    videos = {}
    for key in video_keys:
        get_video = {name: get[f"videos/{key}/{name}"] for name in places}
        path = info.paths("video_path", "video_key", "chunk_index", "file_index")
        found, file = _distinct(partial(path, video_key=key), get_video["chunk_index"], get_video["file_index"])
        videos[key] = Videos(found, file, _check_spans(folder, info, get, key, get_video, file))
    return Episodes(
        number=get["episode_index"],
        begin=get["dataset_from_index"],
        end=get["dataset_to_index"],
        files=data_files,
        file=data_file,
        videos=videos,
    )


def _columns(folder: Path, files: list[Path], columns: list[str]) -> dict[str, np.ndarray]:
    """Return columns over all files; times are float64, all else int64."""
    tables = [read_table(file, columns) for file in files]
    get: dict[str, np.ndarray] = {}
    for name in columns:
        parts = []
        for file, table in zip(files, tables, strict=True):
            kind, clock = table.schema.field(name).type, name.endswith("timestamp")
            good = pa.types.is_floating(kind) if clock else pa.types.is_integer(kind)
            if not good or table[name].null_count:
                found = f"type {kind}" if not good else f"{table[name].null_count} empty cells"
                raise DataError(f"{file}: column {name}", found, "seconds" if clock else "whole numbers", AGAIN)
            parts.append(table[name].to_numpy().astype(np.float64 if clock else np.int64))
        get[name] = np.concatenate(parts)
    faults = np.flatnonzero((get["episode_index"] < 0) | (np.diff(get["episode_index"], prepend=-1) <= 0))
    if len(faults):
        found = f"episode_index {get['episode_index'][faults[0]]} in row {faults[0]}"
        raise DataError(str(folder), found, "episodes in ascending order, each once", AGAIN)
    for name in columns:
        bad = np.flatnonzero(get[name] < 0) if name.endswith("_index") else []
        if len(bad):
            where = f"{folder}: episode {get['episode_index'][bad[0]]}"
            raise DataError(where, f"{name} {get[name][bad[0]]}", "0 or more", AGAIN)
    return get


def _distinct(
    path: Callable[..., Path], chunk: Int[np.ndarray, " e"], file: Int[np.ndarray, " e"]
) -> tuple[list[Path], Int[np.ndarray, " e"]]:
    """Return the files that are mentioned, in the order of mention, and the number of each episode's."""
    pairs = list(zip(chunk.tolist(), file.tolist(), strict=True))
    paths = {pair: path(chunk_index=pair[0], file_index=pair[1]) for pair in dict.fromkeys(pairs)}
    numbers: dict[Path, int] = {}
    which = [numbers.setdefault(paths[pair], len(numbers)) for pair in pairs]
    return list(numbers), np.array(which, np.int32)


def _check_tiling(folder: Path, info: Info, get: Mapping[str, np.ndarray]) -> None:
    begin, end = get["dataset_from_index"], get["dataset_to_index"]
    expected = np.concatenate([[0], end[:-1]])
    faults = np.flatnonzero((begin != expected) | (end - begin != get["length"]) | (end <= begin))
    if len(faults):
        e = faults[0]
        raise DataError(
            f"{folder}: episode {get['episode_index'][e]}",
            f"frames {begin[e]}..{end[e]} and length {get['length'][e]}",
            f"frames that start at {expected[e]}, where the episode before ends",
            AGAIN,
        )
    _check_totals(str(folder), info, len(begin), int(end[-1]) if len(end) else 0)


def _check_totals(where: str, info: Info, num_episodes: int, num_frames: int) -> None:
    promised = info.raw["total_episodes"], info.raw["total_frames"]
    if (num_episodes, num_frames) != promised or num_frames == 0:
        raise DataError(
            where,
            f"{num_episodes} episodes with {num_frames} frames",
            f"{promised[0]} episodes with {promised[1]} frames, as meta/info.json says, and at least one",
            "Copy the whole set again, or finish its recording.",
        )


def _check_spans(
    folder: Path,
    info: Info,
    get: Mapping[str, np.ndarray],
    key: str,
    video: Mapping[str, np.ndarray],
    file: Int[np.ndarray, " e"],
) -> Int[np.ndarray, " e"]:
    """Return the first frame of each episode in its video; a span of another length, or shared, is refused.

    Wrong spans are how an episode shows that points into the file before its own (lerobot#2401).
    """
    begin, end = video["from_timestamp"] * info.fps, video["to_timestamp"] * info.fps
    where = f"{folder}: episode {{}}, {key}"
    faults = np.flatnonzero(~((np.abs(end - begin - get["length"]) <= 0.5) & (begin > -0.5) & (begin < 2**31)))
    if len(faults):
        e = faults[0]
        raise DataError(
            where.format(get["episode_index"][e]),
            f"a video span of {end[e] - begin[e]:.1f} frames from {video['from_timestamp'][e]:g} s",
            f"{get['length'][e]} frames, the length of the episode",
            AGAIN,
        )
    first = np.round(begin).astype(np.int32)
    order = np.lexsort((first, file))
    after, before = order[1:], order[:-1]
    shared = np.flatnonzero((file[after] == file[before]) & (first[after] < (first + get["length"])[before]))
    if len(shared):
        e, other = max(after[shared[0]], before[shared[0]]), min(after[shared[0]], before[shared[0]])
        raise DataError(
            where.format(get["episode_index"][e]),
            f"frames {first[e]} to {first[e] + get['length'][e] - 1} of a video file, some of which episode "
            f"{get['episode_index'][other]} has too",
            "frames of its own",
            AGAIN,
        )
    return first
