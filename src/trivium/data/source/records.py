"""JSON records at random places: where each one lies is kept in memory, what it says stays on the disk."""

import gzip
import hashlib
import json
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium.core.errors import DataError, SetupError
from trivium.data.source.slices import Slices

BLANKS = re.compile(r"[ \t\r\n]*")
PACKED = (".gz", ".zst")
MAX_HELD_BYTES = 4 << 30
"""Unpacked bytes of all packed files of a source together: they are held in memory, and a small file may be a bomb
(gzip packs zeros 1,000 to 1, zstd 30,000 to 1)."""
MAX_RECORD_BYTES = 32 << 20
"""Longest line; a file without line ends would be read whole."""
MAX_ARRAY_BYTES = 2 << 30
"""Largest .json file: one array is parsed as a whole, once."""
MAX_WINDOW_BYTES = 1 << 27
"""Most memory that a zstd frame may ask for; `zstd --long=27` and everything below it fits."""
ZSTD_FEED = 1024
"""Packed bytes unpacked at a time: zeros become at most 32 MB before the limit is checked."""


class Records:
    """The records of JSON files, in order: the lines of .jsonl, or the entries of the one array in a .json file.

    Plain files stay on the disk: 16 bytes a record in memory. Packed lines (.gz, .zst) have no random access, so they
    are held in memory unpacked, up to 4 GiB a source; forked loader workers share them.
    Lines with nothing but blanks are no records. Format: https://jsonlines.org.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.hash = ""
        """Of every record's bytes, once `scan` has passed over them."""
        self._names = [f"{file}: {'record' if file.suffix == '.json' else 'line'}" for file in self.files]
        self._slices = Slices(files)
        self._held: dict[int, bytes] = {}
        self._start, self._size, self._number = array("q"), array("i"), array("i")
        self._ends: list[int] = []

    def __len__(self) -> int:
        """Return the number of records that `scan` has found."""
        return len(self._start)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of every record and remember where it is: to be walked through once, to the end.

        Raises:
            DataError: a file cannot be read, is broken, or larger than a limit.
        """
        assert not self._ends, "records are scanned once"
        state = hashlib.blake2b(digest_size=8)
        for f, file in enumerate(self.files):
            held = bytearray() if file.suffix in PACKED else None
            array_file = file.suffix == ".json"
            for number, start, record in _entries(file) if array_file else self._lines(file):
                if held is not None:
                    start = len(held)
                    held += record
                self._start.append(start)
                self._size.append(len(record))
                self._number.append(number)
                state.update(len(record).to_bytes(8, "little"))
                state.update(record)
                yield len(self._start) - 1, record
            if held is not None:
                self._held[f] = bytes(held)
            self._ends.append(len(self._start))
        self.hash = state.hexdigest()

    def __getitem__(self, i: int) -> bytes:
        """Return record `i`.

        Raises:
            DataError: the file has become shorter or cannot be read.
        """
        f, start, size = self.file(i), self._start[i], self._size[i]
        return self._held[f][start : start + size] if f in self._held else self._slices.read(f, start, size)

    def file(self, i: int) -> int:
        """Return which file holds record `i`."""
        return bisect_right(self._ends, i)

    def first(self, i: int) -> int:
        """Return the first record of the file that holds record `i`."""
        f = self.file(i)
        return self._ends[f - 1] if f else 0

    def spans(self) -> list[tuple[int, int]]:
        """Return the first record of every file, and the one after its last."""
        return list(zip([0, *self._ends], self._ends, strict=False))

    def where(self, i: int) -> str:
        """Say where record `i` is; the last one that was yielded, too."""
        return f"{self._names[self.file(i)]} {self._number[i]}"

    def parse(self, i: int, record: bytes | None = None) -> dict[str, Any]:
        """Return record `i` as a mapping; `record` saves reading it again.

        Raises:
            DataError: it is no JSON object.
        """
        return parse_object(self[i] if record is None else record, self.where(i))

    def _lines(self, file: Path) -> Iterator[tuple[int, int, bytes]]:
        """Yield number (from 1), place and bytes of the lines of a file, unpacked, never more than the limit."""
        start, packed = 0, file.suffix in PACKED
        held = sum(len(data) for data in self._held.values())
        try:
            for number, line in enumerate(_raw(file), start=1):
                if len(line) > MAX_RECORD_BYTES:
                    found, todo = f"more than {MAX_RECORD_BYTES:,} bytes", "Cut the document into several."
                    raise DataError(f"{file}: line {number}", found, "a shorter line", todo)
                if packed and held + start + len(line) > MAX_HELD_BYTES:
                    raise _too_large(file)
                if line.strip():
                    yield number, start, line
                start += len(line)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(str(file), f"broken gzip ({error})", "a whole file", "Copy it again.") from error
        except OSError as error:
            raise DataError(str(file), error.strerror or str(error), "a readable file", "Copy it again.") from error


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return JSON as a mapping.

    Raises:
        DataError: broken JSON, or something else than an object.
    """
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"broken JSON ({error})", "one JSON object", "Mend or delete that record.") from error
    if not isinstance(found, dict):
        raise DataError(where, f"a {type(found).__name__}", "a JSON object", "Mend or delete that record.")
    return found


def text_of(value: object) -> str | None:
    """Return a value if it is text that UTF-8 can hold: JSON can spell half a character, which nothing can print."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _raw(file: Path) -> Iterator[bytes]:
    if file.suffix == ".zst":
        yield from _unpacked_lines(file)
        return
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        most = min(MAX_RECORD_BYTES, MAX_HELD_BYTES) + 1
        while line := stream.readline(most):
            yield line


def _unpacked_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a zstd file, frame after frame."""
    rest, most = b"", min(MAX_RECORD_BYTES, MAX_HELD_BYTES)
    for part in _unpacked(file):
        *lines, last = (rest + part).split(b"\n") if b"\n" in part else [rest + part]
        yield from (line + b"\n" for line in lines)
        rest = last
        if len(rest) > most:
            break
    if rest:
        yield rest


def _unpacked(file: Path) -> Iterator[bytes]:
    """Yield what a zstd file holds, in pieces of some megabytes at most.

    Raises:
        DataError: the file is broken, ends within a frame, or asks for too much memory.
    """
    try:
        import zstandard
    except ImportError as error:
        raise SetupError(
            str(file), "no package zstandard", "it to read .zst files", "Type `pip install zstandard`."
        ) from error
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    frame, parts, size = unpacker.decompressobj(), [], 0
    try:
        with file.open("rb") as stream:
            data, begun = stream.read(ZSTD_FEED), False
            while data:
                parts.append(frame.decompress(data))
                size, begun = size + len(parts[-1]), True
                if frame.eof:
                    data, frame, begun = frame.unused_data, unpacker.decompressobj(), False
                else:
                    data = b""
                data = data or stream.read(ZSTD_FEED)
                if size >= 1 << 16:
                    yield b"".join(parts)
                    parts, size = [], 0
    except zstandard.ZstdError as error:
        raise DataError(str(file), f"broken zstd ({error})", "a whole file", "Copy it again.") from error
    if begun:
        raise DataError(str(file), "broken zstd (the last frame has no end)", "a whole file", "Copy it again.")
    yield b"".join(parts)


def _entries(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 0), place and bytes of the entries of the array in a JSON file."""
    text = whole_text(file)
    todo = "Mend the file, or write one record a line (.jsonl)."
    decode, at, number = json.JSONDecoder().raw_decode, _skip(text, 0), 0
    if text[at : at + 1] != "[":
        raise DataError(str(file), f"{text[at : at + 20]!r} at the start", "a JSON array of records", todo)
    begin = _skip(text, at + 1)
    byte = len(text[:begin].encode())
    mark = "]" if text[begin : begin + 1] == "]" else ","
    at = begin
    while mark == ",":
        where = f"{file}: record {number}"
        try:
            _, end = decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise DataError(where, f"broken JSON ({error})", "a JSON object", todo) from error
        record = text[begin:end].encode()
        if len(record) > MAX_RECORD_BYTES:
            raise DataError(where, f"{len(record):,} bytes", f"at most {MAX_RECORD_BYTES:,}", todo)
        yield number, byte, record
        at = _skip(text, end)
        mark, begin = text[at : at + 1], _skip(text, at + 1)
        if mark not in {",", "]"}:
            raise DataError(where, f"{text[at : at + 20]!r} after it", "',' or ']'", todo)
        byte, number = byte + len(record) + len(text[end:begin].encode()), number + 1
    if text[at + 1 :].strip():
        raise DataError(str(file), f"{text[at + 1 : at + 21]!r} after the array", "one array and no more", todo)


def whole_text(file: Path) -> str:
    """Return the text of a JSON file that is parsed as a whole.

    Raises:
        DataError: it cannot be read, is larger than 2 GiB, or is not UTF-8.
    """
    try:
        size = file.stat().st_size
        if size > MAX_ARRAY_BYTES:
            todo = f"Write one record a line: jq -c '.[]' {file.name} > {file.stem}.jsonl"
            raise DataError(str(file), f"{size:,} bytes", f"at most {MAX_ARRAY_BYTES:,} in one .json file", todo)
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(str(file), f"bytes that are not UTF-8 ({error.reason})", "UTF-8", "Copy it again.") from error
    except OSError as error:
        raise DataError(str(file), error.strerror or str(error), "a readable file", "Copy it again.") from error


def _skip(text: str, at: int) -> int:
    """Return the place of the next character that is no blank."""
    found = BLANKS.match(text, at)
    return found.end() if found else at


def _too_large(file: Path) -> DataError:
    command = f"zstd -d --rm {file.name}" if file.suffix == ".zst" else f"gunzip {file.name}"
    return DataError(
        str(file),
        f"more than {MAX_HELD_BYTES:,} bytes unpacked",
        "less in all packed files of a source, which are held in memory",
        f"Unpack it (`{command}`): plain .jsonl stays on the disk, whatever its size.",
    )
