"""Which tokenizers a model can take, and how a saved one is opened again."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from trivium.action.bins import BinsConfig, BinsTokenizer
from trivium.action.fast import FastConfig, FastTokenizer
from trivium.action.fast_reader import PublishedFast, PublishedFastConfig
from trivium.action.mulaw import MulawConfig, MulawTokenizer
from trivium.action.tokenizer import VERSION, ActionTokenizer, Robot
from trivium.core.config import Config
from trivium.core.errors import CheckpointError

TokenizerConfig = Annotated[FastConfig | BinsConfig | MulawConfig | PublishedFastConfig, Field(discriminator="kind")]

CLASSES = (FastTokenizer, BinsTokenizer, MulawTokenizer, PublishedFast)
"""In the order of the union."""
MAX_BYTES = 64 << 20
"""A tokenizer file is a few hundred kB; more is no tokenizer, and is not read."""


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
    todo = "Delete it: it is fitted again from the training chunks in seconds."
    wanted = f"trivium-{getattr(config, 'kind', '')}"
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size:,} bytes")
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        about = data["format"], data["version"]
        made = {cls.FORMAT: cls for cls in CLASSES}
        if about != (wanted, VERSION):
            raise ValueError(f"format {about[0]!r} version {about[1]!r}")
        tokenizer = made[wanted].from_json(data)
        theirs = _robot(data["robot"])
    except Exception as error:  # tokenizers raises bare Exception
        found = f"{type(error).__name__}: {error}"
        raise CheckpointError(str(path), found, f"an action tokenizer, {wanted} version {VERSION}", todo) from error
    for what, found, expected in (
        ("robot", repr(theirs.embodiment), repr(robot.embodiment)),
        ("dimensions", ", ".join(theirs.names), ", ".join(robot.names)),
        ("dimensions", str(tokenizer.action_dim), str(len(robot.names))),
        ("horizon", str(tokenizer.horizon), str(horizon)),
        ("normalisation", _span(theirs), _span(robot)),
    ):
        if found != expected:
            raise CheckpointError(
                f"{path}: {what}", found, f"{expected}: the file belongs to another robot, set or horizon", todo
            )
    return tokenizer


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
