"""The numbers of a set of robot episodes, whatever the format they came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectories:
    """The numbers of a set: n frames in e episodes, one episode after the other, in physical units.

    `action[t]` is commanded after the observation of frame t was seen (LeRobot, RLDS, Octo).
    """

    fps: float
    """Frames a second."""
    number: Int[np.ndarray, " e"]
    """What the set calls each episode."""
    end: Int[np.ndarray, " e"]
    """The frame after each episode; the first one begins at 0."""
    state: Float32[np.ndarray, "n s"]
    action: Float32[np.ndarray, "n a"]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    tasks: tuple[str, ...]
    """Sentences that say what is done."""
    task: Int[np.ndarray, " n"]
    """Which of them holds at each frame."""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Simulator facts, n rows each; labels of probes, never shown to a policy."""
    embodiment: str = ""
    """Name of the robot."""
    place: Int[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where each episode stands in the set's own tables; empty where all stand in order."""
    shown: Int[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Stored frame of its episode whose picture each frame shows; empty where each shows its own."""
    clock: Float32[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Stored times in seconds, for the audit alone: frames follow each other at `fps`. Empty where the set has none,
    or where opening it has checked them."""

    @cached_property
    def begin(self) -> Int[np.ndarray, " e"]:
        """First frame of each episode."""
        return np.concatenate([np.zeros(1, self.end.dtype), self.end[:-1]])
