"""Writing files so that a reader never meets half of one, and guarding a run folder against two writers."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys as given; NaN is refused (it is not JSON)."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def publish_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder appear whole or not at all: `fill` writes into a temporary sibling that is renamed at the end.

    Every file is fsynced before the rename. An older folder of the same name is replaced only then.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial)
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            elif file.is_dir():
                sync_folder(file)
        sync_folder(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        raise _unwritable(final, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock dies with the process, so no stale lock is ever left.

    Raises:
        CheckpointError: another process is using the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
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
        yield


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        str(path),
        f"{type(error).__name__}: {error.strerror or error}",
        "a folder on a disk with room that this user may write",
        "Free some room or choose another folder; the last complete file or checkpoint is untouched.",
    )
