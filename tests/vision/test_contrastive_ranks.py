"""Two processes over gloo, each in chunks, give the loss and the gradients of one process with all pairs at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "two_ranks.py"), str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_two_ranks_in_chunks_equal_one(results, loss):
    alone, expected = read(results, f"{loss}-1-0")
    for rank in range(2):
        figures, found = read(results, f"{loss}-2-{rank}")
        assert figures == pytest.approx(alone, rel=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, f"{name} would be equal whatever happened"
            assert (found[name] - gradient).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name
