"""Writing files so that a reader never meets half of one, and guarding a run folder against two writers."""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from trivium.core.errors import CheckpointError


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: temporary file in the same folder, fsync, rename.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    partial = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove(partial)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys as given; NaN is refused (it is not JSON)."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def publish_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder appear whole or not at all: `fill` writes into a temporary sibling that is renamed at the end.

    Every file is fsynced before the rename. An older folder of the same name is moved aside only then, and deleted
    when the new one stands; a process killed in between leaves it aside, and `sweep_folder` puts it back.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    partial, aside = _beside(final, "tmp"), _beside(final, "old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        _remove(partial)
        partial.mkdir()
        fill(partial)
        _sync_tree(partial)
        if final.exists():
            final.rename(aside)
        partial.rename(final)
        sync_folder(final.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in an error of its own
        raise _unwritable(final, error) from error
    finally:
        _remove(partial)
        if aside.exists() and not final.exists():
            aside.rename(final)
        _remove(aside)


def sweep_folder(folder: Path) -> None:
    """Clear what killed processes left in a folder: half-written siblings go, a folder left aside comes back."""
    for left in sorted(folder.glob(".*.*.???")):
        name, _, rest = left.name[1:].rpartition(".")[0].rpartition(".")
        if name and rest.isdecimal():
            _sweep(folder / name)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock dies with the process, so no stale lock is ever left.

    A forked child shares the lock with its parent and would hold it on after the parent was killed (loader workers
    live for seconds more), so every child lets go of it at birth.

    Raises:
        CheckpointError: another process is using the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise CheckpointError(
                str(folder),
                f"a run in progress (process {owner})",
                "a folder that no other process is writing",
                "Wait for it, stop it, or give another folder with --run.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def _let_go() -> None:
    for file in _held:
        file.close()  # not flock(LOCK_UN), which would free the parent's lock too
    _held.clear()


_held: set[IO[str]] = set()
os.register_at_fork(after_in_child=_let_go)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")


def _sync_tree(folder: Path) -> None:
    for entry in sorted(folder.rglob("*")):
        if entry.is_file():
            with entry.open("rb") as handle:
                os.fsync(handle.fileno())
        elif entry.is_dir():
            sync_folder(entry)
    sync_folder(folder)


def _sweep(path: Path) -> None:
    """Mend what processes that are no longer alive left beside one path."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        process, _, suffix = left.name[len(path.name) + 2 :].partition(".")
        if suffix not in ("tmp", "old") or not process.isdecimal() or _alive(int(process)):
            continue
        if suffix == "old" and not path.exists():
            left.rename(path)
        else:
            _remove(left)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _unwritable(path: Path, error: OSError | SafetensorError) -> CheckpointError:
    return CheckpointError(
        str(path),
        f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}",
        "a folder on a disk with room that this user may write",
        "Free some room or choose another folder; the last complete file or checkpoint is untouched.",
    )
