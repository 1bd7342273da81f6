"""Pictures that a LeRobot folder keeps inside its data files, read a row group at a time."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from trivium.core.errors import DataError
from trivium.data.source.picture import EXPECTED, TODO, Encoded, picture_below
from trivium.data.source.table import open_table, read_group


class StoredPictures:
    """Encoded pictures by column and frame; the row groups used last are kept, each process its own.

    A cell holds the encoded bytes, or a struct of bytes and a path inside the set, as the `datasets` library writes it.
    """

    def __init__(self, root: Path, files: Sequence[Path], first: Int[np.ndarray, " f"], num_bytes: int) -> None:
        """Say where the frames are.

        Args:
            root: the set; paths in cells are relative to it.
            files: data files in order.
            first: frame of the set with which each begins.
            num_bytes: of row groups to keep.
        """
        self._root, self._files, self._first, self._num_bytes = root, list(files), first, num_bytes
        self._ends: dict[int, np.ndarray] = {}
        self._kept: OrderedDict[tuple[str, int, int], pa.ChunkedArray] = OrderedDict()
        self._used = 0

    def __getstate__(self) -> dict:
        """Travel empty."""
        return {**self.__dict__, "_kept": OrderedDict(), "_used": 0}

    def encoded(self, column: str, row: int, where: str) -> Encoded:
        """Return the encoded picture of frame `row` of the set; `where` names it in errors.

        Raises:
            DataError: there is none, or the file is broken.
        """
        file = int(np.searchsorted(self._first, row, side="right")) - 1
        ends = self._row_groups(file)
        inner = row - int(self._first[file])
        group = int(np.searchsorted(ends, inner, side="right"))
        begin = int(ends[group - 1]) if group else 0
        cells = self._group(column, file, group)
        if len(cells) != int(ends[group]) - begin:
            raise DataError(where, "a row group without that frame", EXPECTED, "Copy the file again.")
        cell: Any = cells[inner - begin].as_py()
        if isinstance(cell, Mapping):
            path = cell.get("path")
            cell = cell.get("bytes") or (picture_below(self._root, path, where) if isinstance(path, str) else None)
        if not isinstance(cell, bytes | Path) or not cell:
            raise DataError(where, "no picture", EXPECTED, TODO)
        return cell

    def _row_groups(self, file: int) -> Int[np.ndarray, " g"]:
        """Return where each row group of a file ends."""
        if file not in self._ends:
            metadata = open_table(self._files[file]).metadata
            self._ends[file] = np.cumsum([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)])
        return self._ends[file]

    def _group(self, column: str, file: int, group: int) -> pa.ChunkedArray:
        key = column, file, group
        if key not in self._kept:
            self._kept[key] = read_group(self._files[file], group, column)
            self._used += self._kept[key].nbytes
            while self._used > self._num_bytes and len(self._kept) > 1:
                self._used -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]
