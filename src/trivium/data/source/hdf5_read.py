"""Arrays in HDF5 files of strangers: links, other files, objects and bombs are refused before anything is read.

Format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html. Chunks compressed by gzip are unpacked
here, because HDF5 itself unpacks as much as a chunk holds, whatever size it declares.
"""

import itertools
import math
import mmap
import os
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivium.core.errors import DataError
from trivium.data.source.recorded import library

MAX_CHUNK = 1 << 28
MAX_TEXT = 1 << 26
REHEARSAL_S = 300
"""Processor seconds that opening one file may take."""
DEFLATE, SHUFFLE, LZF = 1, 2, 32000
TODO = "Copy that file again."
Dataset = Any
"""An h5py.Dataset; h5py is imported only where such a set is read."""


def rehearse(paths: Sequence[Path], read: Callable[[Path], object]) -> None:
    """Let a child process read all files first: damage can make HDF5's own code crash, or loop for ever.

    What `read` raises there is left to the caller, who reads again. Without fork (Windows) nothing is tried.

    Raises:
        DataError: the child crashed or did not come back; the text names the file that it was reading.
    """
    if not hasattr(os, "fork"):
        return
    import resource  # is missing where fork is

    now_reading = mmap.mmap(-1, 8)  # shared with the child
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, of threads: the child only reads files
        child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            most = resource.getrlimit(resource.RLIMIT_CPU)[1]
            for j, path in enumerate(paths):
                now_reading[:] = j.to_bytes(8, "little")
                seconds = math.ceil(time.process_time()) + REHEARSAL_S
                resource.setrlimit(resource.RLIMIT_CPU, (seconds if most < 0 else min(seconds, most), most))
                read(path)
        finally:
            os._exit(0)  # before anything of the parent is closed or written a second time
    _, status = os.waitpid(child, 0)
    if status:
        path, signal = paths[int.from_bytes(now_reading[:], "little")], os.waitstatus_to_exitcode(status)
        found = f"a file on which HDF5 crashes, or needs more than {REHEARSAL_S} s (its process ended with {signal})"
        raise DataError(str(path), found, "a whole HDF5 file", TODO)


def open_file(path: Path) -> Any:
    """Open a file for reading, without locks: shared disks often have none.

    Raises:
        DataError: it is no HDF5 file.
    """
    h5py = library("h5py", "HDF5 files")
    try:
        return h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(str(path), f"no whole HDF5 file ({_line(error)})", "a whole one", TODO) from error


def child(where: str, group: Any, name: str) -> Any:
    """Return a member of a group, or None; "a/b" goes down step by step.

    Raises:
        DataError: it is a soft or external link, which may lead anywhere, or cannot be opened.
    """
    h5py = library("h5py", "HDF5 files")
    here = group
    for part in name.split("/"):
        try:
            if not isinstance(here, h5py.Group) or part in ("", ".", "..") or part not in here:
                return None
            link = here.get(part, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise DataError(where, f"{name}, a {type(link).__name__}", "a part of this file", "Write it whole.")
            here = here[part]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise DataError(where, f"{name}, which cannot be opened ({_line(error)})", "a whole file", TODO) from error
    return here


def members(where: str, group: Any) -> list[str]:
    """Return the names in a group; none where it is a dataset or missing.

    Raises:
        DataError: they cannot be read.
    """
    try:
        return [str(name) for name in group] if isinstance(group, library("h5py", "HDF5 files").Group) else []
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError) as error:
        raise DataError(where, f"a group that cannot be read ({_line(error)})", "a whole file", TODO) from error


def attribute(where: str, group: Any, name: str) -> Any:
    """Return an attribute: a text, a number, or None where there is none.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    try:
        if name not in group.attrs:
            return None
        about = group.attrs.get_id(name)
        if math.prod(about.shape) > 1 or about.get_storage_size() > MAX_TEXT:
            raise DataError(where, f"attribute {name} of shape {about.shape}", "one text or number", TODO)
        value = group.attrs[name]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError, MemoryError) as error:
        raise DataError(
            where, f"attribute {name} that cannot be read ({_line(error)})", "a whole file", TODO
        ) from error
    if isinstance(value, bytes | np.bytes_):
        return bytes(value).decode(errors="replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.item() if isinstance(value, np.generic) else value


def check_dataset(where: str, found: Any) -> Dataset:
    """Check that a dataset lies in this file alone and is there in full.

    Raises:
        DataError: it is none, refers to other files or to objects, is packed in an unknown way, or has holes.
    """
    h5py = library("h5py", "HDF5 files")
    if not isinstance(found, h5py.Dataset):
        raise DataError(where, f"a {type(found).__name__}", "a dataset", "Change the names in the config.")
    try:
        dtype, shape, plist = found.dtype, found.shape, found.id.get_create_plist()
        layout, num_external = plist.get_layout(), plist.get_external_count()
        filters = [plist.get_filter(j)[0] for j in range(plist.get_nfilters())]
        stored = found.id.get_storage_size()
        num_chunks = found.id.get_num_chunks() if layout == h5py.h5d.CHUNKED else 0
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(where, f"a dataset that cannot be read ({_line(error)})", "a whole file", TODO) from error
    if layout not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED) or num_external:
        raise DataError(where, "data that lie in other files", "data in this file", "Write the set in one file.")
    if dtype.hasobject or dtype.kind not in "fiubS":
        raise DataError(where, f"dtype {dtype}", "numbers; objects are never read", "Choose another array.")
    if not shape or not math.prod(shape):
        raise DataError(where, f"shape {shape}", "one row a frame", TODO)
    if unknown := [number for number in filters if number not in (DEFLATE, SHUFFLE, LZF)]:
        raise DataError(where, f"HDF5 filter {unknown[0]}", "gzip, lzf, shuffle or none", "Write it with gzip.")
    whole = math.prod(shape) * dtype.itemsize
    if layout != h5py.h5d.CHUNKED and stored != whole:
        raise DataError(where, f"{stored:,} bytes", f"{whole:,} for shape {shape}", TODO)
    if layout == h5py.h5d.CHUNKED:
        expected = math.prod(-(-n // size) for n, size in zip(shape, found.chunks, strict=True))
        if num_chunks != expected:
            raise DataError(where, f"{num_chunks} chunks", f"{expected} for shape {shape}", TODO)
        if math.prod(found.chunks) * dtype.itemsize > MAX_CHUNK:
            raise DataError(where, f"chunks of shape {found.chunks}", f"at most {MAX_CHUNK:,} bytes", "Write it again.")
    return found


def read_rows(where: str, dataset: Dataset, begin: int, end: int) -> np.ndarray:
    """Return rows begin..end of a dataset that `check_dataset` has passed.

    Raises:
        DataError: they cannot be read.
    """
    try:
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(j)[0] for j in range(plist.get_nfilters())]
        if DEFLATE not in filters:
            return dataset[begin:end]
        if LZF in filters:
            raise ValueError("gzip over lzf")
        return _unpack(dataset, filters, begin, end)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, zlib.error, MemoryError) as error:
        raise DataError(where, f"data that cannot be read ({_line(error)})", "a whole file", TODO) from error


def _unpack(dataset: Dataset, filters: list[int], begin: int, end: int) -> np.ndarray:
    """Read chunk by chunk; no chunk may unpack to more than it declares."""
    chunk, shape, dtype = dataset.chunks, dataset.shape, dataset.dtype
    out = np.empty((end - begin, *shape[1:]), dtype)
    rows = range(begin // chunk[0] * chunk[0], end, chunk[0])
    for origin in itertools.product(rows, *(range(0, n, c) for n, c in zip(shape[1:], chunk[1:], strict=True))):
        mask, raw = dataset.id.read_direct_chunk(origin)
        values = np.frombuffer(_undo(raw, filters, mask, math.prod(chunk) * dtype.itemsize, dtype.itemsize), dtype)
        first, last = max(origin[0], begin), min(origin[0] + chunk[0], end)
        inner = tuple(slice(o, min(o + c, n)) for o, c, n in zip(origin[1:], chunk[1:], shape[1:], strict=True))
        cut = tuple(slice(0, part.stop - part.start) for part in inner)
        out[(slice(first - begin, last - begin), *inner)] = values.reshape(chunk)[
            (slice(first - origin[0], last - origin[0]), *cut)
        ]
    return out


def _undo(raw: bytes, filters: list[int], mask: int, size: int, itemsize: int) -> bytes:
    """Undo the filters of a chunk, the last one first; bit j of the mask says that filter j was left out."""
    for j in reversed(range(len(filters))):
        if mask >> j & 1:
            continue
        if filters[j] == DEFLATE:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(raw, size)
            if not unpacker.eof and unpacker.decompress(unpacker.unconsumed_tail, 1):
                raise ValueError(f"a chunk that unpacks to more than its {size:,} bytes")
        elif len(raw) == size:
            raw = np.frombuffer(raw, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(raw) != size:
        raise ValueError(f"a chunk of {len(raw):,} bytes, not {size:,}")
    return raw


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
