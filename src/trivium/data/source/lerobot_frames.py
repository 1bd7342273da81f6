"""The numbers of every frame of a LeRobot folder, checked row by row against the table of episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from trivium.core.errors import DataError
from trivium.data.source.lerobot_episodes import Episodes
from trivium.data.source.lerobot_meta import INDEX_COLUMNS, Info
from trivium.data.source.table import open_table, read_open

CLOCK_TOLERANCE = 0.1
"""Share of a frame by which a stored time may differ from frame_index / fps."""
AGAIN = "Frames are missing or out of order: write the set again."


@dataclass(frozen=True, eq=False)
class Frames:
    """What the data files hold, pictures and words aside."""

    columns: dict[str, Shaped[np.ndarray, "n _"]]
    """Float32, or whole numbers where the set stores them (truths alone)."""
    task: Int[np.ndarray, " n"]
    """4 bytes a frame; the other index columns follow from the episodes and are dropped once checked."""
    files: list[Path]
    first: Int[np.ndarray, " f"]
    """Frame of the set with which each file begins."""


def read_frames(
    info: Info,
    episodes: Episodes,
    numeric: Sequence[str],
    exact: Sequence[str],
    pictures: Sequence[str],
    num_tasks: int,
) -> Frames:
    """Read the numbers of every frame.

    A v3.0 episode that meta/episodes puts into the file before its own (lerobot#2401), or into a file that was never
    written (#2643), is read right: rows say themselves which frame they are, and each is compared.

    Args:
        info: what the set is.
        episodes: where its episodes lie.
        numeric: features that become float32 and must be finite.
        exact: features whose whole numbers stay what they are.
        pictures: columns of encoded pictures, which must be there and are not read.
        num_tasks: how many sentences there are.

    Raises:
        DataError: a file, a column or frames are missing, out of order, or not finite.
    """
    needed = [*INDEX_COLUMNS, *numeric, *exact, *pictures]
    files, tables = _open_all(info, episodes, needed)
    columns: dict[str, list[np.ndarray]] = {key: [] for key in (*numeric, *exact)}
    tasks: list[np.ndarray] = []
    first, row = [], 0
    for path, opened in zip(files, tables, strict=True):
        file = opened or open_table(path, needed)
        _check_pictures(path, file, pictures)
        if opened is None:
            _check_length(path, episodes, len(first), file)
        part = Part(info, episodes, path, row, read_open(path, file, [*INDEX_COLUMNS, *columns]))
        part.check_order()
        tasks.append(part.tasks(num_tasks))
        for key, parts in columns.items():
            parts.append(part.values(key, finite=key in numeric))
        first.append(row)
        row += len(part)
    joined = {}
    for key in list(columns):
        joined[key] = np.concatenate(columns.pop(key))  # one at a time: twice one column is in memory, not twice all
    return Frames(joined, np.concatenate(tasks), files, np.array(first))


def _open_all(
    info: Info, episodes: Episodes, needed: Sequence[str]
) -> tuple[list[Path], list[pq.ParquetFile] | list[None]]:
    """Return the data files in order; those of v3.0 are open and together hold as many frames as episodes need.

    The thousands of files of a v2 set are opened one by one, later.
    """
    if not info.v3:
        return episodes.files, [None] * len(episodes.files)
    files = [file for file in episodes.files if file.is_file()]
    tables = [open_table(file, needed) for file in files]
    found = {file: table.metadata.num_rows for file, table in zip(files, tables, strict=True)}
    if sum(found.values()) == episodes.end[-1]:
        return files, tables
    for number, file in enumerate(episodes.files):
        mine = np.flatnonzero(episodes.file == number)
        need = int((episodes.end - episodes.begin)[mine].sum())
        if found.get(file) != need:
            raise DataError(
                f"{file}: episodes {episodes.number[mine[0]]} to {episodes.number[mine[-1]]}",
                f"{found[file]} frames" if file in found else "no such file",
                f"{need} frames, as meta/episodes says",
                "Copy or write the set again.",
            )
    raise AssertionError("files that each hold what is needed hold it together")


def _check_length(path: Path, episodes: Episodes, e: int, file: pq.ParquetFile) -> None:
    need = int(episodes.end[e] - episodes.begin[e])
    if file.metadata.num_rows != need:
        raise DataError(
            f"{path}: episode {episodes.number[e]}",
            f"{file.metadata.num_rows} frames",
            f"{need}, as meta/episodes.jsonl says",
            "Copy or write the set again.",
        )


def _check_pictures(path: Path, file: pq.ParquetFile, pictures: Sequence[str]) -> None:
    for key in pictures:
        kind = file.schema_arrow.field(key).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)):
            raise DataError(
                f"{path}: column {key}", f"type {kind}", "encoded pictures, or a struct of bytes and path", AGAIN
            )


class Part:
    """The rows of one file, which begin at frame `row` of the set."""

    def __init__(self, info: Info, episodes: Episodes, path: Path, row: int, table: pa.Table) -> None:
        self.info, self.episodes, self.path, self.row, self.table = info, episodes, path, row, table

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.table.num_rows

    def where(self, i: int) -> str:
        """Name a row as "file: episode 3, frame 17"."""
        e = int(np.searchsorted(self.episodes.end, self.row + i, side="right"))
        return f"{self.path}: episode {self.episodes.number[e]}, frame {self.row + i - self.episodes.begin[e]}"

    def check_order(self) -> None:
        """Compare every index column with what the table of episodes says.

        Raises:
            DataError: they differ; the text names the first such frame.
        """
        rows = np.arange(self.row, self.row + len(self))
        e = np.searchsorted(self.episodes.end, rows, side="right")
        frame = rows - self.episodes.begin[e]
        self._compare("index", rows)
        self._compare("episode_index", self.episodes.number[e])
        self._compare("frame_index", frame)
        self._compare("timestamp", frame / self.info.fps)

    def tasks(self, num_tasks: int) -> Int[np.ndarray, " n"]:
        """Return which task sentence holds at each row, 4 bytes each.

        Raises:
            DataError: there is no such sentence.
        """
        task = self._flat("task_index", "iu")
        faults = np.flatnonzero((task < 0) | (task >= num_tasks))
        if len(faults):
            raise DataError(
                self.where(int(faults[0])),
                f"task_index {task[faults[0]]}",
                f"0 to {num_tasks - 1}: the table of tasks has {num_tasks} sentences",
                "Write the set again.",
            )
        return task.astype(np.int32)

    def values(self, key: str, finite: bool) -> Shaped[np.ndarray, "n _"]:
        """Return one feature: float32, or whole numbers as they are unless they have to be finite.

        Raises:
            DataError: rows of another length than meta/info.json says, empty cells, or (if asked) a NaN.
        """
        width, values = self.info.width(key), self._flat(key, "iufb")
        if len(values) != width * len(self):
            raise DataError(
                f"{self.path}: column {key}",
                f"{len(values)} values in {len(self)} frames",
                f"{width} a frame, as meta/info.json says",
                "Write the set again.",
            )
        values = values.reshape(len(self), width)
        if finite or values.dtype.kind not in "iu":
            with np.errstate(over="ignore"):  # too large for float32: found below
                values = values.astype(np.float32)
        faults = np.argwhere(~np.isfinite(values)) if finite else []
        if len(faults):
            i, dimension = (int(x) for x in faults[0])
            raise DataError(
                self.where(i),
                f"{values[i, dimension]} in {key}, dimension {dimension} ({self.info.names(key)[dimension]}); "
                f"{len(faults)} such values in the file",
                "finite numbers",
                "Record that episode again or remove it from the set.",
            )
        return values

    def _compare(self, name: str, right: np.ndarray) -> None:
        clock = name == "timestamp"
        values = self._flat(name, "f" if clock else "iu")
        # float32 holds about seven digits of a time: an episode of an hour is 0.1 ms off.
        slack = CLOCK_TOLERANCE / self.info.fps + 1e-6 * right.max(initial=0) if clock else 0.0
        faults = np.flatnonzero(~(np.abs(values - right) <= slack) if clock else values != right)
        if len(faults):
            raise DataError(self.where(int(faults[0])), f"{name} {values[faults[0]]:g}", f"{right[faults[0]]:g}", AGAIN)

    def _flat(self, name: str, kinds: str) -> np.ndarray:
        """Return all numbers of a column one after the other; lists have one length and no cell is empty."""
        array = self.table[name].combine_chunks()
        fault = ""
        while (
            pa.types.is_list(array.type)
            or pa.types.is_large_list(array.type)
            or pa.types.is_fixed_size_list(array.type)
        ):
            if array.null_count:
                break
            if not pa.types.is_fixed_size_list(array.type) and len(array):
                lengths = np.diff(array.offsets.to_numpy())
                shortest, longest = lengths.min(), lengths.max()
                fault = fault or (f"lists of {shortest} to {longest} numbers" if shortest != longest else "")
            array = array.flatten()
        if array.null_count:
            fault = fault or f"{array.null_count} empty cells"
        numeric = any(test(array.type) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean))
        values = array.to_numpy(zero_copy_only=False) if numeric and not fault else np.zeros(0, object)
        if fault or values.dtype.kind not in kinds:
            raise DataError(
                f"{self.path}: column {name}",
                fault or f"type {array.type}",
                "numbers, as many in every frame",
                "Write the set again, or leave that feature out.",
            )
        return values
