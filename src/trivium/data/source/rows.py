"""Rows with nested columns, from Parquet or json lines, one after the other in bounded memory."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trivium.core.errors import DataError

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz")
MAX_BYTES = 4 << 30
"""Largest file, unpacked: a small one may unpack to a thousand times its size."""
BATCH_ROWS, BATCH_BYTES = 1024, 1 << 30
"""What is unpacked at a time: one long text that a row group holds once may stand in each of its rows."""


def row_files(root: Path) -> list[Path]:
    """Return the files of a set, in the order of their names.

    Raises:
        DataError: there is none.
    """
    if root.is_file() and root.name.endswith(SUFFIXES):
        return [root]
    files = sorted(file for file in root.rglob("*") if file.name.endswith(SUFFIXES)) if root.is_dir() else []
    if not files:
        found = "no such file or folder" if not root.exists() else f"no {' or '.join(SUFFIXES)} in it"
        raise DataError(str(root), found, "one such file, or a folder of them", "Correct `path`.")
    return files


def read_rows(file: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row with the words that name its place.

    Args:
        file: Parquet, or json lines, plain or gzip.
        columns: what every row must have.
        optional: what is read where it is there, and None elsewhere.

    Raises:
        DataError: the file is broken, or a row lacks a column.
    """
    rows = _parquet(file, columns, optional) if file.suffix == ".parquet" else _json(file)
    for where, row in rows:
        missing = [name for name in columns if name not in row]
        if missing:
            found = f"no {missing[0]!r} (there are {', '.join(map(str, row)) or 'none'})"
            raise DataError(where, found, f"the columns {', '.join(columns)}", "Correct `columns`, or mend the file.")
        yield where, {name: row.get(name) for name in (*columns, *optional)}


def _parquet(file: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = read = 0
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            missing = [name for name in columns if name not in names]
            if missing:
                found, expected = f"no column {missing[0]!r}", f"one of {', '.join(names)}"
                raise DataError(str(file), found, expected, "Correct `columns`, or write the set again.")
            wanted = [name for name in (*columns, *optional) if name in names]
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).total_byte_size
                for batch in parquet.iter_batches(min(BATCH_ROWS, BATCH_BYTES // max(size, 1) + 1), [group], wanted):
                    read += batch.nbytes
                    if read > MAX_BYTES:
                        raise _too_large(file)
                    batch.validate(full=True)  # offsets and UTF-8: a broken page must not become wrong text
                    for row in batch.to_pylist():
                        yield f"{file}: row {number}", row
                        number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"{file}: after row {number - 1}" if number else str(file)
        raise DataError(where, f"broken Parquet ({reason})", "a whole Parquet file", "Copy it again.") from error


def _too_large(file: Path) -> DataError:
    return DataError(str(file), f"more than {MAX_BYTES:,} bytes unpacked", "less", "Split it into several files.")


def _json(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(where, f"broken JSON ({error})", "one JSON object a line", "Mend or delete it.") from error
        if not isinstance(row, dict):
            raise DataError(where, f"a {type(row).__name__}", "one JSON object a line", "Mend or delete it.")
        yield where, row


def _lines(file: Path) -> Iterator[bytes]:
    read = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            while line := stream.readline(MAX_BYTES - read + 1):
                read += len(line)
                if read > MAX_BYTES:
                    raise _too_large(file)
                yield line
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(str(file), f"a broken file ({error})", "a whole one", "Copy it again.") from error
