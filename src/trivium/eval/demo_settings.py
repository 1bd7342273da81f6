"""What the worker processes of a recording have to know."""

from dataclasses import dataclass
from pathlib import Path

from trivium.eval.sim.metaworld import MetaWorldConfig


@dataclass(frozen=True)
class EpisodeSettings:
    """The settings of every episode of a set; their meaning stands at `DemoDataConfig`."""

    folder: Path
    world: MetaWorldConfig
    action_noise: float
    steps_after_success: int
    max_steps: int
    caption_every: int
    questions: int
    seed: int

    @property
    def control_hz(self) -> int:
        """Frames a second."""
        return self.world.control_hz
