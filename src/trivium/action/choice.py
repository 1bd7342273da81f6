"""Which tokenizers a model can take, and how a saved one, or a VAE, is opened again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from trivium.action.bins import BinsConfig, BinsTokenizer
from trivium.action.fast import FastConfig, FastTokenizer
from trivium.action.fast_reader import PublishedFast, PublishedFastConfig
from trivium.action.mulaw import MulawConfig, MulawTokenizer
from trivium.action.tokenizer import VERSION, ActionTokenizer, Robot
from trivium.action.vae import ActionVae
from trivium.action.vqvae import VqVaeConfig, VqVaeTokenizer
from trivium.core.config import Config
from trivium.core.errors import CheckpointError

TokenizerConfig = Annotated[
    FastConfig | BinsConfig | MulawConfig | PublishedFastConfig | VqVaeConfig, Field(discriminator="kind")
]

CLASSES = (FastTokenizer, BinsTokenizer, MulawTokenizer, PublishedFast, VqVaeTokenizer)
"""In the order of the union."""
MAX_BYTES = 64 << 20
"""A tokenizer file is a few hundred kB, one of learned codes a few MB; more is no tokenizer, and is not read."""

C = TypeVar("C", ActionTokenizer, ActionVae)


def open_tokenizer(path: Path, config: Config, robot: Robot, horizon: int) -> ActionTokenizer:
    """Read what `ActionTokenizer.save` wrote, by the format that the file names.

    Args:
        path: the file.
        config: what the tokenizer was to be made from.
        robot: whose chunks it is to spell.
        horizon: their steps.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or version, or belongs to another robot, another
            normalisation or another horizon.
    """
    made = {cls.FORMAT: cls.from_json for cls in CLASSES}
    return _open(path, f"trivium-{getattr(config, 'kind', '')}", "an action tokenizer", made, robot, horizon)


def open_vae(path: Path, robot: Robot, horizon: int) -> ActionVae:
    """Read what `ActionVae.save` wrote, as `open_tokenizer` reads a tokenizer.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or version, or belongs to another robot, another
            normalisation or another horizon.
    """
    made = {ActionVae.FORMAT: ActionVae.from_json}
    return _open(path, ActionVae.FORMAT, "an action VAE", made, robot, horizon)


def _open(
    path: Path,
    wanted: str,
    what: str,
    made: Mapping[str, Callable[[Mapping[str, Any]], C]],
    robot: Robot,
    horizon: int,
) -> C:
    todo = "Delete it: it is fitted again from the training chunks in seconds."
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size:,} bytes")
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        about = data["format"], data["version"]
        if about != (wanted, VERSION):
            raise ValueError(f"format {about[0]!r} version {about[1]!r}")
        code = made[wanted](data)
        theirs = _robot(data["robot"])
    except Exception as error:  # tokenizers raises bare Exception
        found = f"{type(error).__name__}: {error}"
        raise CheckpointError(str(path), found, f"{what}, {wanted} version {VERSION}", todo) from error
    for part, found, expected in (
        ("robot", repr(theirs.embodiment), repr(robot.embodiment)),
        ("dimensions", ", ".join(theirs.names), ", ".join(robot.names)),
        ("dimensions", str(code.action_dim), str(len(robot.names))),
        ("horizon", str(code.horizon), str(horizon)),
        ("normalisation", _span(theirs), _span(robot)),
    ):
        if found != expected:
            raise CheckpointError(
                f"{path}: {part}", found, f"{expected}: the file belongs to another robot, set or horizon", todo
            )
    return code


def _robot(data: Any) -> Robot:
    low, high = (np.asarray(data[side], np.float64) for side in ("low", "high"))
    names = tuple(str(name) for name in data["names"])
    if not (low.shape == high.shape == (len(names),)):
        raise ValueError("a normalisation of another number of dimensions")
    return Robot(str(data["embodiment"]), names, low, high)


def _span(robot: Robot) -> str:
    """Say what a normalisation maps to -1..1, as exactly as float32 knows it."""
    ends = zip(robot.low.tolist(), robot.high.tolist(), strict=True)
    return "; ".join(f"{low:.6g} to {high:.6g}" for low, high in ends)
