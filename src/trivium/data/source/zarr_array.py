"""One array of a Zarr store: its description is checked, its chunks are unpacked with a short list of codecs."""

import itertools
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.core.errors import DataError
from trivium.data.source.recorded import library
from trivium.data.source.zarr_store import MAX_FILE, TODO, Store

CODECS = ("blosc", "zstd", "gzip", "zlib", "lz4")
MAX_CHUNKS = 1 << 26
MAX_JSON = 1 << 20


@dataclass(frozen=True)
class ZarrArray:
    """An array whose description has been checked; nothing of it is read yet."""

    store: Store
    key: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    order: str
    codecs: tuple[str, ...]
    """At most one that packs, then perhaps "crc32c", in the order of writing."""
    names: tuple[str, str]
    """What stands before the numbers of a chunk in its key, and between them."""

    @property
    def where(self) -> str:
        """Name the array in errors."""
        return f"{self.store.root}: {self.key}"

    def check_chunks(self) -> list[int]:
        """Check that every chunk is there; return their sizes in bytes.

        Raises:
            DataError: one is missing.
        """
        counts = [-(-n // size) for n, size in zip(self.shape, self.chunks, strict=True)]
        if math.prod(counts) > MAX_CHUNKS:
            raise DataError(self.where, f"{math.prod(counts):,} chunks", f"at most {MAX_CHUNKS:,}", TODO)
        sizes: list[int] = []
        for place in itertools.product(*map(range, counts)):
            size = self.store.size(self._chunk_key(place))
            if size is None:
                todo = "Copy the set again, or write it with write_empty_chunks=True."
                raise DataError(self.where, f"no chunk {self._chunk_key(place)}", f"all of shape {self.shape}", todo)
            sizes.append(size)
        return sizes

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Return rows begin..end.

        Raises:
            DataError: a chunk is missing or broken.
        """
        out = np.empty((end - begin, *self.shape[1:]), self.dtype)
        inner = [range(-(-n // size)) for n, size in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for place in itertools.product(range(begin // self.chunks[0], -(-end // self.chunks[0])), *inner):
            origin = [j * size for j, size in zip(place, self.chunks, strict=True)]
            first, last = max(origin[0], begin), min(origin[0] + self.chunks[0], end)
            stops = [min(o + size, n) for o, size, n in zip(origin, self.chunks, self.shape, strict=True)]
            cut = [slice(first - origin[0], last - origin[0])]
            cut += [slice(0, stop - o) for o, stop in zip(origin[1:], stops[1:], strict=True)]
            to = [slice(first - begin, last - begin), *map(slice, origin[1:], stops[1:])]
            out[tuple(to)] = self._chunk(place)[tuple(cut)]
        return out

    def _chunk_key(self, place: Sequence[int]) -> str:
        before, between = self.names
        return f"{self.key}/{before}{between.join(map(str, place))}"

    def _chunk(self, place: Sequence[int]) -> np.ndarray:
        key, size = self._chunk_key(place), math.prod(self.chunks) * self.dtype.itemsize
        raw = self.store.get(key)
        if raw is None:
            raise DataError(f"{self.store.root}: {key}", "no such chunk", "all that were there on opening", TODO)
        try:
            for codec in reversed(self.codecs):
                raw = _decode(codec, raw, size)
        except (ValueError, RuntimeError, zlib.error, struct.error, MemoryError, EOFError) as error:
            found = f"a chunk that cannot be unpacked ({error})"
            raise DataError(f"{self.store.root}: {key}", found, f"{size:,} bytes", TODO) from error
        if len(raw) != size:
            raise DataError(f"{self.store.root}: {key}", f"{len(raw):,} bytes", f"{size:,} in a chunk", TODO)
        return np.frombuffer(raw, self.dtype).reshape(self.chunks, order="F" if self.order == "F" else "C")


def open_array(store: Store, key: str) -> ZarrArray | None:
    """Read the description of an array; None where there is no such array.

    Raises:
        DataError: it is broken, holds objects, or is packed with a codec that is not on the list.
    """
    where = f"{store.root}: {key}"
    for file, read in ((f"{key}/zarr.json", _version3), (f"{key}/.zarray", _version2)):
        text = store.get(file, MAX_JSON)
        if text is None:
            continue
        try:
            raw = json.loads(text)
            shape, chunks, *rest = read(where, raw)
            shape, chunks = _sizes(shape), _sizes(chunks)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            found = f"a description that cannot be read ({type(error).__name__}: {error})"
            raise DataError(f"{store.root}: {file}", found, "what zarr writes", TODO) from error
        array = ZarrArray(store, key, shape, chunks, *rest)
        if len(shape) != len(chunks) or not shape or min(chunks) < 1 or min(shape) < 1:
            raise DataError(where, f"shape {shape}, chunks {chunks}", "as many of both, above 0", TODO)
        if math.prod(chunks) * array.dtype.itemsize > MAX_FILE:
            raise DataError(where, f"chunks of shape {chunks}", f"at most {MAX_FILE:,} bytes", "Write smaller chunks.")
        return array
    return None


def _sizes(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list) or len(raw) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in raw):
        raise ValueError(f"sizes {str(raw)[:60]}")
    return tuple(raw)


def _version2(where: str, raw: Mapping[str, Any]) -> tuple:
    if (
        raw["zarr_format"] != 2
        or raw["order"] not in ("C", "F")
        or raw.get("dimension_separator", ".") not in (".", "/")
    ):
        raise ValueError(f"format {raw['zarr_format']}, order {raw['order']}")
    filters = [str(about["id"]) for about in raw.get("filters") or ()]
    packing = [str(raw["compressor"]["id"])] if raw["compressor"] else []
    dtype = raw["dtype"]
    codecs = _check_codecs(where, [*filters, *packing])
    if not isinstance(dtype, str) or not re.fullmatch(r"[<>|][fiub][1248]", dtype):
        raise DataError(where, f"dtype {str(dtype)[:60]!r}", "numbers; objects are never read", "Choose another array.")
    names = "", raw.get("dimension_separator", ".")
    return raw["shape"], raw["chunks"], np.dtype(dtype), raw["order"], codecs, names


def _version3(where: str, raw: Mapping[str, Any]) -> tuple:
    if raw["zarr_format"] != 3 or raw["node_type"] != "array" or raw["chunk_grid"]["name"] != "regular":
        raise ValueError(f"format {raw['zarr_format']}, node {raw['node_type']}, grid {raw.get('chunk_grid')}")
    dtype, packing, encoding = raw["data_type"], list(raw["codecs"]), raw["chunk_key_encoding"]
    if not isinstance(dtype, str) or not re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)", dtype):
        raise DataError(where, f"data_type {str(dtype)[:60]!r}", "numbers; objects are never read", "Choose another.")
    if packing[0]["name"] != "bytes":
        raise DataError(
            where, f"codec {packing[0]['name']!r}", "plain bytes", "Write it without sharding or transpose."
        )
    big = (packing[0].get("configuration") or {}).get("endian") == "big"
    codecs = _check_codecs(where, [str(about["name"]).removeprefix("numcodecs.") for about in packing[1:]])
    between = (encoding.get("configuration") or {}).get("separator", "/" if encoding["name"] == "default" else ".")
    if encoding["name"] not in ("default", "v2") or between not in (".", "/"):
        raise ValueError(f"chunk keys {encoding}")
    names = f"c{between}" if encoding["name"] == "default" else "", between
    chunks = raw["chunk_grid"]["configuration"]["chunk_shape"]
    return raw["shape"], chunks, np.dtype(dtype).newbyteorder(">" if big else "<"), "C", codecs, names


def _check_codecs(where: str, codecs: list[str]) -> tuple[str, ...]:
    packing = [codec for codec in codecs if codec != "crc32c"]
    if len(packing) > 1 or any(codec not in CODECS for codec in packing) or "crc32c" in codecs[:-1]:
        raise DataError(
            where, f"codecs {', '.join(codecs)}", f"one of {', '.join(CODECS)}, or none", "Write it with another codec."
        )
    return tuple(codecs)


def _decode(codec: str, raw: bytes, size: int) -> bytes:
    """Undo one codec; what it says of its own size is compared with the chunk's before memory is taken."""
    if codec == "crc32c":
        if len(raw) < 4 or library("google_crc32c", "Zarr").value(raw[:-4]) != struct.unpack("<I", raw[-4:])[0]:
            raise ValueError("its checksum is wrong")
        return raw[:-4]
    if codec in ("gzip", "zlib"):
        unpacker = zlib.decompressobj(47)  # the header says which of the two
        return unpacker.decompress(raw, size + 1)
    if codec == "zstd":
        zstandard = library("zstandard", "Zarr chunks packed by zstd")
        try:
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw) as reader:
                return reader.read(size + 1)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    numcodecs = library("numcodecs", f"Zarr chunks packed by {codec}")
    if codec == "blosc":
        declared, packed = struct.unpack("<I4xI", raw[4:16])
        if packed != len(raw):
            raise ValueError(f"{len(raw):,} bytes of {packed:,}")
    else:
        declared = struct.unpack("<I", raw[:4])[0]
    if declared != size:
        raise ValueError(f"{declared:,} bytes inside")
    return bytes(numcodecs.get_codec({"id": codec}).decode(raw))
