"""Where the object is, as words: simulator truth becomes an answer that a robot sample learns to give."""

from dataclasses import replace
from typing import Literal

from numpy.random import Generator

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.sample import Action, Sample, Text
from trivium.data.column import Stats
from trivium.data.transform import Transform

BINS = 100
"""Parts of the picture's width and height that the answer can tell apart: two digits each."""


class GroundConfig(Config):
    """Let every demonstration frame answer where the object is in the picture, as a training target.

    Localisation limits a small policy more than control does, and the encoder hears of it with every frame. The answer
    stands behind everything that the action head sees, and an observation without an action never gets one: the policy
    is not told.
    """

    kind: Literal["ground"] = "ground"
    truth: str = "object_image"
    """Name of the simulator truth (column truth.NAME): place in the picture as shares of width and height."""

    def build(self, stats: Stats) -> "Ground":
        """Make the step."""
        return Ground(self)


class Ground(Transform):
    """Appends an answer such as "x41y63" to samples that carry an action and the truth; others pass unchanged."""

    def __init__(self, config: GroundConfig) -> None:
        """Hold the name of the truth."""
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Return the sample with its answer; an object outside the picture has none.

        Raises:
            ConfigError: the robot's samples have truth, but not this one.
        """
        if not sample.of(Action) or not sample.truth:
            return sample
        if self.config.truth not in sample.truth:
            raise ConfigError(
                "transforms: ground.truth",
                repr(self.config.truth),
                f"one of {', '.join(sorted(sample.truth))} (sample {sample.id})",
                "Name a truth of the source, or leave the step out.",
            )
        u, v = sample.truth[self.config.truth][:2].tolist()
        if not (0 <= u < 1 and 0 <= v < 1):
            return sample
        text = f"x{int(BINS * u):02d}y{int(BINS * v):02d}"
        return replace(sample, segments=(*sample.segments, Text(text=text, role="answer")))
