"""Pictures with words in Parquet: captions, or questions with answers."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Image, Role, Sample, Text
from trivium.data.source.picture import EXPECTED, Encoded, decode, outline, picture_below
from trivium.data.source.source import Source, digest
from trivium.data.source.table import read_table

CACHED_GROUPS = 4


class CaptionColumns(Config):
    """Each row has a picture and what it shows."""

    kind: Literal["caption"] = "caption"
    caption: str = "caption"
    """Column of the caption."""

    def roles(self) -> dict[str, Role]:
        """Return column names with what their words are for."""
        return {self.caption: "caption"}


class QuestionColumns(Config):
    """Each row has a picture, a question and its answer."""

    kind: Literal["question"] = "question"
    question: str = "question"
    """Column of the question."""
    answer: str = "answer"
    """Column of the answer."""

    def roles(self) -> dict[str, Role]:
        """Return column names with what their words are for."""
        return {self.question: "question", self.answer: "answer"}


class ImageTextConfig(Config):
    """Pictures with words in Parquet files."""

    kind: Literal["image_text"] = "image_text"
    path: str
    """A .parquet file, or a folder of them."""
    words: Annotated[CaptionColumns | QuestionColumns, Field(discriminator="kind")] = CaptionColumns()
    """Which columns hold words, and what they are for."""
    image_column: str = "image"
    """Column of the picture: encoded bytes, or a struct of bytes and path as Hugging Face writes it."""
    group_column: str = ""
    """Column of integers; rows of one group (an episode, a scene) stay on one side of a split. "" makes every row a
    group of its own."""
    license: str = "unknown"
    """Licence of the whole set."""

    def build(self) -> "ImageText":
        """Open the files and read every column but the pictures."""
        return ImageText(self)


class ImageText(Source):
    """One sample a row: the picture, then its words. Pictures are read a row group at a time.

    Raises:
        DataError: files or columns are missing, or words are empty; the text names file and row.
    """

    def __init__(self, config: ImageTextConfig) -> None:
        self.config = config
        root = Path(config.path)
        self.name = root.name.removesuffix(".parquet")
        self.license = config.license
        self._root = root if root.is_dir() else root.parent
        self._roles = config.words.roles()
        self._files = _files(root)
        extra = [config.group_column] if config.group_column else []
        tables = [read_table(file, [*self._roles, *extra]) for file in self._files]
        parquets = [pq.ParquetFile(file) for file in self._files]
        for file, parquet in zip(self._files, parquets, strict=True):
            _check_image_column(file, parquet, config.image_column)
        sizes = [[p.metadata.row_group(g).num_rows for g in range(p.num_row_groups)] for p in parquets]
        self._places = [(f, g) for f, rows in enumerate(sizes) for g in range(len(rows))]
        self._ends = np.cumsum([rows for file_rows in sizes for rows in file_rows])
        self._first = np.cumsum([0, *(table.num_rows for table in tables)])
        self._words = self._read_words(tables)
        self._groups = self._read_groups(tables)
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self.fingerprint = digest(
            config.model_dump(exclude={"path"}),
            [(file.name, file.stat().st_size) for file in self._files],
            self._groups,
            [self._words[column].to_pylist() for column in self._roles],
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._first[-1])

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return the group of every row."""
        return self._groups

    def peek(self, i: int) -> Sample:
        """Return row `i` with a blank picture: only the header of the file is read."""
        return self._sample(i, outline(self._encoded(i), self._where(i)))

    def read(self, i: int) -> Sample:
        """Return row `i`.

        Raises:
            DataError: the picture is missing, broken, or larger than 64 megapixels.
        """
        return self._sample(i, decode(self._encoded(i), self._where(i)))

    def _sample(self, i: int, pixels: UInt8[np.ndarray, "_ _ 3"]) -> Sample:
        words = [Text(text=self._words[column][i].as_py(), role=role) for column, role in self._roles.items()]
        return Sample(
            id=f"{self.name}/{i}",
            segments=(Image(pixels=pixels), *words),
            source=self.name,
            license=self.license,
        )

    def _encoded(self, i: int) -> Encoded:
        group = int(np.searchsorted(self._ends, i, side="right"))
        begin = int(self._ends[group - 1]) if group else 0
        cell: Any = self._column(group)[i - begin].as_py()
        if isinstance(cell, Mapping):
            path = cell.get("path")
            cell = cell.get("bytes") or (picture_below(self._root, path, self._where(i)) if path else None)
        if not cell:
            raise DataError(self._where(i), "no picture", EXPECTED, "Remove that row or write its picture again.")
        return cell

    def _column(self, group: int) -> pa.ChunkedArray:
        if group not in self._cache:
            file, number = self._places[group]
            try:
                table = pq.ParquetFile(self._files[file]).read_row_group(number, columns=[self.config.image_column])
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(
                    f"{self._files[file]}: row group {number}",
                    f"broken data ({str(error).splitlines()[0]})",
                    "a whole Parquet file",
                    "Copy it again.",
                ) from error
            self._cache[group] = table[0]
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]

    def _read_words(self, tables: list[pa.Table]) -> dict[str, pa.ChunkedArray]:
        for file, table in zip(self._files, tables, strict=True):
            for column in self._roles:
                if not (pa.types.is_string(table[column].type) or pa.types.is_large_string(table[column].type)):
                    raise DataError(
                        f"{file}: column {column}", f"type {table[column].type}", "strings", "Correct `words`."
                    )
        words = {column: pa.chunked_array([c for t in tables for c in t[column].chunks]) for column in self._roles}
        for column, values in words.items():
            for i, text in enumerate(values.to_pylist()):
                if not (text or "").strip():
                    raise DataError(self._where(i), f"an empty {column}", "words", "Remove that row.")
        return words

    def _read_groups(self, tables: list[pa.Table]) -> Int[np.ndarray, " n"]:
        column = self.config.group_column
        if not column:
            return np.arange(len(self))
        values = np.concatenate([table[column].to_numpy() for table in tables])
        if values.dtype.kind not in "iu":
            raise DataError(
                f"{self._files[0]}: column {column}", f"type {values.dtype}", "integers", "Correct `group_column`."
            )
        return values.astype(np.int64)

    def _where(self, i: int) -> str:
        f = int(np.searchsorted(self._first, i, side="right")) - 1
        return f"{self._files[f]}: row {i - self._first[f]}"


def _files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet")) if root.is_dir() else []
    if not files:
        found = "a folder without .parquet files" if root.is_dir() else "no such file or folder"
        raise DataError(str(root), found, "a .parquet file, or a folder of them", "Correct `path`.")
    return files


def _check_image_column(file: Path, parquet: pq.ParquetFile, column: str) -> None:
    names = parquet.schema_arrow.names
    kind = parquet.schema_arrow.field(column).type if column in names else None
    binary = [pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct]
    if kind is None or not any(test(kind) for test in binary):
        raise DataError(
            str(file),
            f"no column {column!r}" if kind is None else f"column {column!r} of type {kind}",
            f"encoded pictures in one of: {', '.join(names)}",
            "Correct `image_column`.",
        )
