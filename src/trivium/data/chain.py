"""What every step between a source and a layout can do, and steps in a row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from trivium.core.sample import Image, Sample, Segment, Video
from trivium.data.blank import is_blank
from trivium.data.motion import Motion


class Transform(ABC):
    """A step with `forward` on samples and `inverse` on actions.

    `inverse` undoes what `forward` did to actions, so that what a policy emits comes out in physical units.
    """

    pixels: bool = False
    """Whether the step touches pictures; blank ones only change their shape."""
    numeric: bool = True
    """Whether the words or the pictures that come out may depend on numbers (state, action, truth). A step that says
    False lets samples that differ in numbers alone be counted together."""
    rewrites: bool = False
    """Whether the step makes other commands of the recorded ones, so that they must be measured behind it."""
    draws: bool = False
    """Whether a picture comes out different each time in training."""

    @abstractmethod
    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Return the changed sample; without `rng` nothing is drawn (evaluation, counting, serving)."""

    def motion(self, motion: Motion) -> Motion:
        """Do to many action chunks, and the states they start from, what `forward` does to those of one sample."""
        return motion

    def inverse(self, action: Float[np.ndarray, "k a"], observation: Sample) -> Float[np.ndarray, "k _"]:
        """Undo `forward` on an action chunk.

        Args:
            action: what a policy answered.
            observation: what it was asked about, as it was before this step: its robot and its state are known.
        """
        return action


class Chain(Transform):
    """Steps in order; the inverse runs them backwards."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = tuple(steps)
        self.pixels = any(step.pixels for step in self.steps)
        self.numeric = any(step.numeric for step in self.steps)
        self.rewrites = any(step.rewrites for step in self.steps)
        self.draws = any(step.draws for step in self.steps)

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Run every step."""
        for step in self.steps:
            sample = step.forward(sample, rng)
        return sample

    def motion(self, motion: Motion) -> Motion:
        """Run every step."""
        for step in self.steps:
            motion = step.motion(motion)
        return motion

    def inverse(self, action: Float[np.ndarray, "k a"], observation: Sample) -> Float[np.ndarray, "k _"]:
        """Run every inverse, last step first, each with the observation as that step met it."""
        met = [observation]
        for step in self.steps[:-1]:
            met.append(met[-1] if step.pixels else step.forward(met[-1], None))
        for step, seen in zip(reversed(self.steps), reversed(met), strict=False):
            action = step.inverse(action, seen)
        return action


def on_pixels(sample: Sample, change: Callable[[np.ndarray, str], np.ndarray]) -> Sample:
    """Return the sample with `change(pixels, view)` applied to every picture and every frame of a video."""

    def changed(segment: Segment) -> Segment:
        if isinstance(segment, Image):
            return replace(segment, pixels=change(segment.pixels, segment.view))
        if isinstance(segment, Video):
            frames = [change(frame, segment.view) for frame in segment.frames]
            stacked = np.broadcast_to(frames[0], (len(frames), *frames[0].shape))
            return replace(segment, frames=stacked if is_blank(segment.frames) else np.stack(frames))
        return segment

    return replace(sample, segments=tuple(map(changed, sample.segments)))
