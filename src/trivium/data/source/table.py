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
"""A column may take this many times its file in memory: repeated numbers take next to nothing in a file."""
MAX_GROUP_BYTES = 4 << 30
"""Largest row group whose pictures are read."""


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
    """Read columns of an open file, unless its footer promises far more numbers than such a file can hold.

    Raises:
        DataError: the data are broken, or a bomb.
    """
    try:
        promised = _promised_bytes(file, columns)
        if promised > max(SMALL_BYTES, GROWTH * path.stat().st_size):
            raise DataError(
                str(path),
                f"a table that takes {promised:,} bytes in memory, {path.stat().st_size:,} on disk",
                f"at most {GROWTH} times as many",
                "Use no such file; nothing that was measured packs so well.",
            )
        return file.read(None if columns is None else list(columns))
    except BROKEN as error:
        raise broken_table(path, error) from error


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
    file = open_table(path, [column])
    try:
        group = file.metadata.row_group(number)
        chunks = [group.column(j) for j in range(group.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks if _belongs(chunk.path_in_schema, [column]))
        if size > MAX_GROUP_BYTES:
            raise DataError(
                f"{path}: row group {number}",
                f"{size:,} bytes of {column}",
                f"at most {MAX_GROUP_BYTES:,}",
                "Split it.",
            )
        return file.read_row_group(number, columns=[column])[column]
    except (*BROKEN, KeyError, IndexError) as error:
        raise broken_table(f"{path}: row group {number}", error) from error


def broken_table(where: str | Path, error: Exception) -> DataError:
    """Return the error for data that pyarrow cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(str(where), f"a broken Parquet file ({reason})", "a whole one", "Copy it again.")


def _promised_bytes(file: pq.ParquetFile, columns: Sequence[str] | None) -> int:
    """Return 8 bytes for every value that the footer promises in these columns."""
    metadata, num_values = file.metadata, 0
    if not metadata.num_row_groups:
        return 0
    first = metadata.row_group(0)
    paths = [first.column(j).path_in_schema for j in range(first.num_columns)]
    wanted = [j for j, path in enumerate(paths) if columns is None or _belongs(path, columns)]
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        num_values += sum(group.column(j).num_values for j in wanted)
    return 8 * num_values


def _belongs(path: str, columns: Sequence[str]) -> bool:
    """Tell whether a leaf of the schema is one of these columns or lies in one; names may hold dots themselves."""
    return any(path == column or path.startswith(f"{column}.") for column in columns)
