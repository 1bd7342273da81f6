"""A module as one file: equal to the bit when it comes back, refused when it is not what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trivium.core.errors import CheckpointError
from trivium.nn.codebook import VqConfig
from trivium.nn.stored import load_module, save_module


def build(about: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(about["width"], 4), VqConfig(size=8).build(4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = build({"width": 6})
    module(torch.randn(50, 6))
    save_module(tmp_path / "module.safetensors", "toy", module, {"width": 6})
    return tmp_path / "module.safetensors"


def rewrite(path: Path, head: dict[str, Any] | None = None, **tensors: torch.Tensor) -> None:
    whole = {"format": "toy", "version": 1, "about": {"width": 6}}
    save_file(load_file(path) | tensors, path, {"trivium": json.dumps(whole | (head or {}))})


def refused(path: Path, *said: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_module(path, "toy", build, "Make it again.")
    for part in (*said, str(path), "expected a whole file of format toy, version 1", "Make it again."):
        assert part in str(error.value)


def test_a_module_comes_back_to_the_bit_and_in_eval_mode(path: Path):
    module = load_module(path, "toy", build, "")
    for name, value in load_file(path).items():
        assert torch.equal(module.state_dict()[name], value)
    assert not module.training
    assert module[1].ready
    assert list(path.parent.iterdir()) == [path]


def test_files_that_are_something_else_are_refused(path: Path, tmp_path: Path):
    refused(tmp_path / "nowhere", "FileNotFoundError")
    for head, said in (
        ({"format": "other"}, "format 'other' version 1"),
        ({"version": 2}, "version 2"),
        ({"about": [1]}, "TypeError"),
        ({"about": {}}, "KeyError: 'width'"),
        ({"about": {"more": "x" * 2_000_000}}, "2,000,054 characters of description"),
        ({"about": {"width": 7}}, "weights that do not fit, such as '0.weight'"),
    ):
        rewrite(path, head)
        refused(path, said)
    save_file(load_file(path), path)
    refused(path, "KeyError: 'trivium'")
    save_file(load_file(path), path, {"trivium": "{"})
    refused(path, "JSONDecodeError")


def test_damaged_weights_are_refused(path: Path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(path, "SafetensorError")
    path.write_bytes(b"\xff" * 100)
    refused(path, "SafetensorError")
    path.write_bytes(whole)
    rewrite(path, **{"0.bias": torch.tensor([0.0, float("nan"), 0.0, 0.0])})
    refused(path, "NaN or infinity in '0.bias'")
    rewrite(path, **{"2.bias": torch.zeros(4)})
    refused(path, "weights that do not fit, such as '2.bias'")


def test_a_file_cannot_ask_for_more_memory_than_it_has(path: Path):
    rewrite(path, {"about": {"width": 1 << 40}})  # 16 TB of weights, were they built
    refused(path, "weights that do not fit")
