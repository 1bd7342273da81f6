"""Fixtures of tests/train: the toy runs, and a folder where fsync is quick."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# pytest imports tests by file (importlib mode), so a neighbour such as toy.py is not on the path by itself.
sys.path.insert(0, str(HERE))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder, in memory where there is such a place: some of these tests save a hundred times."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trivium-", dir=place) as name:
        yield Path(name)


class Server:
    """A process that has torch loaded and forks one run a request: killing those costs milliseconds, not seconds."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(HERE / "toy.py")], env=environment, **pipes)

    def ask(self, **request: object) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, task: str, folder: Path, **settings: object) -> int:
        return self.ask(task=task, folder=str(folder), **settings)

    def wait(self, process: int) -> int:
        return self.ask(wait=process)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.stdin.close()
    server.process.wait(timeout=20)
    server.process.stdout.close()
