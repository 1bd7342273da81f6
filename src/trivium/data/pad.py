"""Robots of different shapes in one model: states and actions padded to common dimensions."""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.sample import LINE, Action, Sample, Segment, State
from trivium.data.chain import Transform
from trivium.data.column import Stats
from trivium.data.motion import Motion


class PadConfig(Config):
    """Give every robot's state and action the model's dimensions; what a robot lacks is hidden from all losses."""

    kind: Literal["pad"] = "pad"
    state_dim: int = Field(ge=1)
    """Dimensions of the model's state, at least those of every robot."""
    action_dim: int = Field(ge=1)
    """Dimensions of the model's action, at least those of every robot: 20 to 32 for arms with one or two hands."""

    def build(self, stats: Stats) -> "Pad":
        """Make the step for the robots in `stats`.

        Raises:
            ConfigError: a robot has more dimensions than the model.
        """
        for robot, columns in stats.items():
            for column, found in columns.items():
                size, width = getattr(self, f"{column}_dim"), len(found.names)
                if width > size:
                    raise ConfigError(
                        f"pad.{column}_dim",
                        str(size),
                        f"at least {width}, as robot {robot!r} has",
                        f"Raise it to {width}.",
                    )
        return Pad(self, stats)


class Pad(Transform):
    """Zeros behind a robot's own dimensions, which keep their order; `Sample.dims` says which of them are its own.

    pi0 pads alike (https://arxiv.org/abs/2410.24164) and learns the zeros; here a dimension that a robot lacks enters
    no input of a head and no loss. Stands behind the normalisation.
    """

    numeric = False

    def __init__(self, config: PadConfig, stats: Stats) -> None:
        self.config = config
        self._widths = {robot: len(columns["action"].names) for robot, columns in stats.items() if "action" in columns}

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Pad states and actions, and say which dimensions there are."""

        def padded(segment: Segment) -> Segment:
            if isinstance(segment, State):
                values = _wide(segment.values, self.config.state_dim)
            elif isinstance(segment, Action):
                values = _wide(segment.values, self.config.action_dim)
            else:
                return segment
            more = values.shape[-1] - len(segment.names)
            return replace(segment, values=values, names=(*segment.names, *[""] * more))

        width = self._widths.get(sample.embodiment)
        dims = sample.dims
        if width is not None:
            # ABSENT is 0, what padding adds.
            dims = _wide(np.full(width, LINE, np.int8) if dims is None else dims, self.config.action_dim)
        return replace(sample, segments=tuple(map(padded, sample.segments)), dims=dims)

    def motion(self, motion: Motion) -> Motion:
        """Pad many states and actions."""
        action = _wide(motion.action, self.config.action_dim)
        return replace(motion, action=action, state=_wide(motion.state, self.config.state_dim))

    def inverse(self, action: Float[np.ndarray, "k a"], observation: Sample) -> Float[np.ndarray, "k _"]:
        """Keep the robot's own dimensions."""
        return action[:, : self._widths.get(observation.embodiment, action.shape[1])]


def _wide(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])
