"""Two processes that meet over gloo: a script ends in `both(work)`, and a test starts it by `run(script, folder)`."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist

SOURCES = Path(__file__).parents[2] / "src"


def both(work: Callable[[Path, int], None]) -> None:
    """Do `work(folder, rank)` in two processes of one group; the folder is the script's argument."""
    torch.set_num_threads(1)
    folder, child = Path(sys.argv[1]), os.fork()
    rank, patience = int(child == 0), timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=patience)
    work(folder, rank)
    dist.destroy_process_group()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))


def run(script: ModuleType, folder: Path) -> None:
    """Run a script of this folder to its end, in a process of its own."""
    assert script.__file__
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script.__file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
