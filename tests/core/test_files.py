"""Files appear whole or not at all, whatever happens in the middle, and a run folder has one writer."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trivium.core import files
from trivium.core.errors import CheckpointError
from trivium.core.files import lock_folder, publish_folder, sweep_folder, write_atomic, write_json

KILLED_WHILE_FILLING = """
import os, sys, time
from pathlib import Path
from trivium.core.files import publish_folder

def fill(folder):
    (folder / "a").write_text("half of the new")
    print("filling", flush=True)
    time.sleep(60)

publish_folder(Path(sys.argv[1]), fill)
"""

KILLED_WHILE_SWAPPING = """
import os, sys
from pathlib import Path
from trivium.core.files import publish_folder

rename = Path.rename
def dies_after_the_first(self, target):
    rename(self, target)
    os.kill(os.getpid(), 9)
Path.rename = dies_after_the_first
publish_folder(Path(sys.argv[1]), lambda folder: (folder / "a").write_text("new"))
"""

HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
from trivium.core.files import lock_folder

with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_a(text: str):
    return lambda folder: (folder / "a").write_text(text)


@pytest.fixture
def full_disk():
    """Limit the size of a file: the kernel itself then refuses a write in its middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_atomic_makes_folders_and_leaves_only_the_file(tmp_path):
    write_atomic(tmp_path / "x" / "y.txt", "one")
    write_atomic(tmp_path / "x" / "y.txt", b"two")
    assert (tmp_path / "x" / "y.txt").read_text() == "two"
    assert names(tmp_path / "x") == ["y.txt"]


def test_write_json_refuses_nan_and_keeps_the_old(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": [1.5]}


def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path, full_disk):
    path = tmp_path / "a"
    write_atomic(path, "old")
    with pytest.raises(CheckpointError) as caught:
        write_atomic(path, b"x" * 10_000)
    assert str(caught.value).startswith(f"{path}: found OSError: File too large; expected a folder on a disk with room")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_keeps_the_old_folder_also_when_safetensors_writes(tmp_path, full_disk):
    final = tmp_path / "step"
    publish_folder(final, write_a("old"))
    with pytest.raises(
        CheckpointError, match=r"found SafetensorError.*the last complete file or checkpoint is untouched"
    ):
        publish_folder(final, lambda folder: save_file({"w": np.zeros(9999)}, folder / "model.safetensors"))
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["step"]


def test_no_space_left_is_named(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    for write in (lambda: write_atomic(tmp_path / "a", "x"), lambda: publish_folder(tmp_path / "b", write_a("x"))):
        with pytest.raises(CheckpointError, match="found OSError: No space left on device; expected"):
            write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("write", [write_atomic, lambda path, text: publish_folder(path, write_a(text))])
def test_a_file_in_place_of_a_parent_folder_is_named(tmp_path, write):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match=r"x/y: found (NotADirectory|FileExists)Error"):
        write(tmp_path / "x" / "y", "text")
    with pytest.raises(CheckpointError, match=r"x: found FileExistsError"), lock_folder(tmp_path / "x"):
        pass


def test_publish_replaces_and_a_failure_of_fill_keeps_the_old(tmp_path):
    final = tmp_path / "runs" / "step"
    publish_folder(final, write_a("old"))

    def interrupted(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_folder(final, interrupted)
    assert (final / "a").read_text() == "old"
    publish_folder(final, write_a("new"))
    assert (final / "a").read_text() == "new"
    assert names(final.parent) == ["step"]


def test_every_file_is_on_the_disk_before_the_folder_is_named(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)

    def fill(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "b").write_text("b")

    publish_folder(tmp_path / "step", fill)
    partial = str(tmp_path / f".step.{os.getpid()}.tmp")
    assert synced == [f"{partial}/deep", f"{partial}/deep/b", partial, str(tmp_path)]


def test_killed_while_filling_leaves_the_old_and_the_next_writer_clears_up(tmp_path):
    final = tmp_path / "step"
    publish_folder(final, write_a("old"))
    process = start(KILLED_WHILE_FILLING, final)
    assert process.stdout.readline() == "filling\n"
    half = tmp_path / f".step.{process.pid}.tmp"
    sweep_folder(tmp_path)
    assert half.exists()  # its writer is alive
    process.kill()
    process.communicate()
    assert (final / "a").read_text() == "old"
    assert half.exists()
    publish_folder(final, write_a("new"))
    assert (final / "a").read_text() == "new"
    assert names(tmp_path) == ["step"]


def test_killed_while_swapping_loses_nothing(tmp_path):
    final = tmp_path / "step"
    publish_folder(final, write_a("old"))
    process = start(KILLED_WHILE_SWAPPING, final)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not final.exists()  # the one moment without it
    sweep_folder(tmp_path)
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["step"]


def test_a_failure_between_the_two_renames_puts_the_old_back(tmp_path, monkeypatch):
    final, rename = tmp_path / "step", Path.rename
    publish_folder(final, write_a("old"))

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(CheckpointError, match="Input/output error"):
        publish_folder(final, write_a("new"))
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["step"]


def test_sweep_leaves_strangers_alone(tmp_path):
    for name in (".hidden", ".a.b.tmp", "x.1.tmp", ".lock", f".mine.{os.getpid()}.tmp"):
        (tmp_path / name).write_text("")
    before = names(tmp_path)
    sweep_folder(tmp_path)
    assert names(tmp_path) == before


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    process = start(HOLDS_THE_LOCK, tmp_path)
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(CheckpointError) as caught, lock_folder(tmp_path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: found a run in progress (process {process.pid}); expected a folder that no other process is "
        "writing. Wait for it, stop it, or give another folder with --run."
    )
    process.kill()
    process.communicate()
    time.sleep(0.01)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
