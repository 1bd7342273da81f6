"""Parquet tables, with errors that say which file or column is wrong."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trivium.core.errors import DataError

BROKEN = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on damaged files; text that is no UTF-8 is a ValueError."""
SMALL_BYTES = 256 << 20
GROWTH = 1000
"""A table may take this many times its file in memory: repeated numbers take next to nothing in a file."""
MAX_GROUP_BYTES = 4 << 30
"""Largest row group whose pictures are read."""
ROWS_AT_ONCE = 1 << 16
PICTURES_AT_ONCE = 64


def open_table(path: Path, columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file by its footer.

    Raises:
        DataError: the file is missing or broken, or has no such column.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except FileNotFoundError as error:
        raise DataError(str(path), "no such file", "a Parquet file", "Copy the whole set again.") from error
    except BROKEN as error:
        raise broken_table(path, error) from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise DataError(
            str(path),
            f"no column {missing[0]!r}",
            f"one of {', '.join(n for n in names if not n.startswith('stats/'))}",
            "Write the set again, or correct the names in the config.",
        )
    return file


def read_schema(path: Path) -> pa.Schema:
    """Return the columns of a Parquet file by its footer alone.

    Raises:
        DataError: the file is missing or broken.
    """
    return open_table(path).schema_arrow


def read_open(path: Path, file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of an open file, a part at a time, and stop where it unpacks to more than such a file can hold.

    Raises:
        DataError: the data are broken, or a bomb.
    """
    limit = max(SMALL_BYTES, GROWTH * path.stat().st_size)
    names = list(file.schema_arrow.names if columns is None else columns)
    # Nothing is asked of the metadata of column chunks, here or below: on damaged ones pyarrow 26 ends the process.
    promised = file.metadata.num_rows * sum(_width(file.schema_arrow.field(name).type) for name in names)
    if promised > limit:
        raise _bomb(str(path), promised, limit)
    return _read(path, file, names, None, limit)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or those columns of it.

    Raises:
        DataError: the file is missing or broken, or has no such column.
    """
    return read_open(path, open_table(path, columns or ()), columns)


def read_group(path: Path, number: int, column: str) -> pa.ChunkedArray:
    """Read one column of one row group of at most 4 GB.

    Raises:
        DataError: the data are broken or larger.
    """
    return _read(path, open_table(path, [column]), [column], number, MAX_GROUP_BYTES)[column]


def broken_table(where: str | Path, error: Exception) -> DataError:
    """Return the error for data that pyarrow cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(str(where), f"a broken Parquet file ({reason})", "a whole one", "Copy it again.")


def _read(path: Path, file: pq.ParquetFile, names: list[str], group: int | None, limit: int) -> pa.Table:
    where = str(path) if group is None else f"{path}: row group {group}"
    groups, rows = (None, ROWS_AT_ONCE) if group is None else ([group], PICTURES_AT_ONCE)
    batches, used = [], 0
    try:
        for batch in file.iter_batches(rows, row_groups=groups, columns=names, use_threads=False):
            batches.append(batch)
            used += batch.nbytes
            if used > limit:
                raise _bomb(where, used, limit)
        fields = [file.schema_arrow.field(name) for name in names]
        return pa.Table.from_batches(batches, None if batches else pa.schema(fields))
    except (*BROKEN, KeyError, IndexError) as error:
        raise broken_table(where, error) from error


def _bomb(where: str, size: int, limit: int) -> DataError:
    return DataError(
        where,
        f"a table that takes at least {size:,} bytes in memory",
        f"at most {limit:,}, {GROWTH} times the file or {MAX_GROUP_BYTES >> 30} GB of pictures",
        "Use no such file, or write it again with smaller row groups.",
    )


def _width(kind: pa.DataType) -> int:
    """Return the bytes that a row of a column takes at least."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    return max(1, kind.bit_width // 8) if pa.types.is_primitive(kind) else 1
