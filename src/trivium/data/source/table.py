"""Parquet tables, with errors that say which file or column is wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trivium.core.errors import DataError


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or those columns of it.

    Raises:
        DataError: the file is missing or broken, or has no such column.
    """
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        if missing:
            raise DataError(
                str(path),
                f"no column {missing[0]!r}",
                f"one of {', '.join(n for n in file.schema_arrow.names if not n.startswith('stats/'))}",
                "Write the set again, or correct the names in the config.",
            )
        return file.read(columns)
    except FileNotFoundError as error:
        raise DataError(str(path), "no such file", "a Parquet file", "Copy the whole set again.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            str(path), f"a broken Parquet file ({str(error).splitlines()[0]})", "a whole one", "Copy it again."
        ) from error


def read_schema(path: Path) -> pa.Schema:
    """Return the columns of a Parquet file by its footer alone.

    Raises:
        DataError: the file is missing or broken.
    """
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            str(path), f"a broken Parquet file ({str(error).splitlines()[0]})", "a whole one", "Copy it again."
        ) from error
