"""A small trained module as one file: safetensors weights, and JSON that says how to build it, in the same header."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from trivium.core.errors import CheckpointError, TriviumError
from trivium.core.files import write_atomic

M = TypeVar("M", bound=nn.Module)
VERSION = 1
MOST_TEXT = 1 << 20
"""Characters of JSON; what describes a small module fits in a few hundred."""


def save_module(path: Path, kind: str, module: nn.Module, about: Mapping[str, Any]) -> None:
    """Write one file, whole or not at all.

    Args:
        path: of the file.
        kind: what it holds; `load_module` refuses another.
        module: whose weights and buffers are kept.
        about: JSON from which `build` of `load_module` makes the module again.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    # One entry: safetensors writes several in another order every time, and equal modules would be unequal files.
    head = json.dumps({"format": kind, "version": VERSION, "about": about}, allow_nan=False)
    write_atomic(path, save(tensors, {"trivium": head}))


def load_module(path: Path, kind: str, build: Callable[[dict[str, Any]], M], todo: str) -> M:
    """Read what `save_module` wrote.

    The module is built without memory first and compared with the header, so that a file cannot ask for more memory
    than it has bytes.

    Args:
        path: of the file.
        kind: what it should hold.
        build: makes the module from `about`.
        todo: what to do when the file is of no use.

    Raises:
        CheckpointError: the file is missing, cut short, of another kind or version, or its weights do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})["trivium"]
            if len(text) > MOST_TEXT:
                raise ValueError(f"{len(text):,} characters of description")
            head = json.loads(text)
            if (head["format"], head["version"]) != (kind, VERSION):
                raise ValueError(f"format {head['format']!r} version {head['version']!r}")
            about = head["about"]
            with torch.device("meta"):
                expected = {name: list(value.shape) for name, value in build(about).state_dict().items()}
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
            wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            if wrong:
                raise ValueError(f"weights that do not fit, such as {wrong[0]!r}")
            tensors = {name: file.get_tensor(name) for name in found}
        spoilt = sorted(name for name, value in tensors.items() if not value.float().isfinite().all())
        if spoilt:
            raise ValueError(f"NaN or infinity in {spoilt[0]!r}")
        module = build(about)
        module.load_state_dict(tensors)
        return module.eval()
    except (OSError, SafetensorError, TriviumError, ValueError, KeyError, TypeError, RuntimeError) as error:
        expected = f"a whole file of format {kind}, version {VERSION}"
        raise CheckpointError(str(path), f"{type(error).__name__}: {error}", expected, todo) from error
