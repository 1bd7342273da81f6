"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow and without copying pictures.

Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord, https://protobuf.dev/programming-guides/encoding.
The protobuf package would copy every picture of an episode to reach its numbers; this walk steps over them.
"""

import struct
from collections.abc import Collection, Iterator
from mmap import mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int

from trivium.data.source.recorded import library

HEADER, FOOTER = 12, 4
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class RecordError(Exception):
    """A record is broken; the source that knows file and episode turns this into a `DataError`."""


Values = np.ndarray
"""float32 or int64 [n], or the places [n, 2] of n byte strings: offset in the file and length, always int64."""


def masked_crc(data: bytes) -> int:
    """Return the checksum that TFRecord stores: CRC-32C, rotated and shifted so that it differs from that of itself."""
    crc = library("google_crc32c", "TFRecord files").value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the data of every record, by reading headers alone.

    Raises:
        RecordError: a header is damaged, or the file is cut short.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < total:
            file.seek(at)
            head = file.read(HEADER)
            if len(head) < HEADER:
                raise RecordError(f"a file cut short: {total - at} bytes after byte {at:,}")
            length, crc = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != crc:
                raise RecordError(f"a damaged header at byte {at:,} (its checksum is wrong)")
            if at + HEADER + length + FOOTER > total:
                raise RecordError(f"a file cut short: the record at byte {at:,} has {length:,} bytes")
            yield at + HEADER, length
            at += HEADER + length + FOOTER


def check_record(file: BinaryIO, offset: int, length: int) -> None:
    """Compare a record with its checksum; this reads all of it.

    Raises:
        RecordError: it is damaged.
    """
    file.seek(offset)
    data, foot = file.read(length), file.read(FOOTER)
    if len(data) < length or len(foot) < FOOTER or masked_crc(data) != struct.unpack("<I", foot)[0]:
        raise RecordError("a damaged record (its checksum is wrong)")


def read_example(data: bytes | mmap, begin: int, end: int, wanted: Collection[str]) -> dict[str, Values]:
    """Read the wanted features of the tf.train.Example in data[begin:end]; the others are stepped over.

    Raises:
        RecordError: it is no Example, or a feature stands there twice.
    """
    keys = {key.encode(): key for key in wanted}
    found: dict[str, Values] = {}
    for number, wire, at, stop in _fields(data, begin, end):
        if (number, wire) != (1, BYTES):
            continue
        for number_, wire_, at_, stop_ in _fields(data, at, stop):
            if (number_, wire_) != (1, BYTES):
                continue
            entry = {n: (w, a, s) for n, w, a, s in _fields(data, at_, stop_)}
            _, a, s = _bytes_field(entry, 1, at_)
            key = keys.get(bytes(data[a:s]))
            if key is None:
                continue
            if key in found:
                raise RecordError(f"feature {key!r} twice in one record")
            _, a, s = _bytes_field(entry, 2, at_)
            found[key] = _feature(data, a, s)
    return found


def _bytes_field(entry: dict[int, tuple[int, int, int]], number: int, at: int) -> tuple[int, int, int]:
    if number not in entry:
        return BYTES, at, at  # a field that is left out is empty
    if entry[number][0] != BYTES:
        raise RecordError(f"a broken message at byte {at:,}")
    return entry[number]


def _feature(data: bytes | mmap, begin: int, end: int) -> Values:
    """Read one Feature: a list of byte strings (1), floats (2) or integers (3)."""
    lists = list(_fields(data, begin, end))
    if len(lists) != 1:
        raise RecordError(f"{len(lists)} lists in one feature at byte {begin:,}")
    kind, wire, at, stop = lists[0]
    if wire != BYTES or kind not in (1, 2, 3):
        raise RecordError(f"a feature of unknown kind {kind} at byte {begin:,}")
    if kind == 1:
        places = [(a, s - a) for n, w, a, s in _fields(data, at, stop) if (n, w) == (1, BYTES)]
        return np.array(places, np.int64).reshape(-1, 2)
    parts = [(w, a, s) for n, w, a, s in _fields(data, at, stop) if n == 1]
    packed = {BYTES, FIXED32} if kind == 2 else {BYTES, VARINT}
    if any(w not in packed for w, _, _ in parts):
        raise RecordError(f"a broken list at byte {at:,}")
    raw = b"".join(bytes(data[a:s]) for _, a, s in parts)
    return _floats(raw, at) if kind == 2 else _integers(raw, at)


def _floats(raw: bytes, at: int) -> np.ndarray:
    if len(raw) % 4:
        raise RecordError(f"a list of floats with {len(raw)} bytes at byte {at:,}")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def _integers(raw: bytes, at: int) -> Int[np.ndarray, " n"]:
    """Decode varints: seven bits a byte, lowest first; the last byte of each has no top bit."""
    data = np.frombuffer(raw, np.uint8)
    last = np.flatnonzero(data < 128)
    if len(last) == len(data):
        return data.astype(np.int64)
    if not len(last) or last[-1] != len(data) - 1:
        raise RecordError(f"a list of integers cut short at byte {at:,}")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 9:
        raise RecordError(f"an integer of more than 64 bits at byte {at:,}")
    shift = np.arange(len(data)) - np.repeat(first, last - first + 1)
    bits = (data & 127).astype(np.uint64) << (7 * shift).astype(np.uint64)
    return np.add.reduceat(bits, first).view(np.int64)


def _fields(data: bytes | mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, begin and end of every field of the message in data[at:end]."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        begin = at
        if wire == BYTES:
            length, begin = _varint(data, at, end)
            at = begin + length
        elif wire == VARINT:
            _, at = _varint(data, at, end)
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        else:
            raise RecordError(f"a broken message (wire type {wire}) at byte {at:,}")
        if at > end:
            raise RecordError(f"a message cut short at byte {begin:,}")
        yield number, wire, begin, at


def _varint(data: bytes | mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise RecordError(f"a broken message (no end of a number) at byte {at:,}")
