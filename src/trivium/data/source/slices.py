"""Pieces of files by place and size."""

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium.core.errors import DataError

MAX_OPEN = 64
"""Files kept open: shards come in thousands, descriptors do not."""


class Slices:
    """Reads any piece of a list of files.

    `pread` has no position to share, so descriptors that a forked worker inherits are safe to use; a pickle carries
    none.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict:
        """Leave open files behind: another process opens its own."""
        return {"files": self.files, "_open": OrderedDict()}

    def __del__(self) -> None:
        """Close what is open."""
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def size(self, file: int) -> int:
        """Return the length of a file in bytes.

        Raises:
            DataError: it cannot be opened.
        """
        return os.fstat(self._descriptor(file)).st_size

    def some(self, file: int, start: int, size: int) -> bytes:
        """Return up to `size` bytes: fewer where the file ends.

        Raises:
            DataError: the file cannot be read.
        """
        descriptor, parts = self._descriptor(file), []
        try:
            while size and (part := os.pread(descriptor, size, start)):
                parts.append(part)
                start, size = start + len(part), size - len(part)
        except OSError as error:
            raise _unreadable(self.files[file], error) from error
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def read(self, file: int, start: int, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            DataError: the file cannot be read or has become shorter.
        """
        data = self.some(file, start, size)
        if len(data) != size:
            raise DataError(
                f"{self.files[file]}: byte {start}",
                f"{len(data):,} bytes before the end of the file",
                f"{size:,}",
                "It is cut short, or was changed while in use: copy it again.",
            )
        return data

    def stream(self, file: int, start: int, size: int) -> io.BufferedReader:
        """Return a piece as a file of its own, read as far as it is asked for."""
        return io.BufferedReader(_Piece(self, file, start, size))

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                self._open[file] = os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise _unreadable(self.files[file], error) from error
        self._open.move_to_end(file)
        return self._open[file]


class _Piece(io.RawIOBase):
    def __init__(self, slices: Slices, file: int, start: int, size: int) -> None:
        super().__init__()
        self._slices, self._file, self._start, self._size, self._at = slices, file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"seek to {at}")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._slices.some(self._file, self._start + self._at, max(0, min(len(view), self._size - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(str(file), f"{error.strerror or error}", "a file that can be read", "Copy the set again.")
