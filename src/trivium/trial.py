"""A comparison of policies, checked before the first one is fitted.

`trivium action compare --policies` fits every kind of action head to tasks of a set and tries it in the simulator.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.action.cvae import CvaeConfig
from trivium.action.diffusion import DiffusionConfig, DiffusionUnetConfig
from trivium.action.flow import FlowConfig
from trivium.action.regress import RegressConfig
from trivium.core.errors import ConfigError, DataError
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.lerobot import LeRobot
from trivium.eval.rollout import RolloutConfig
from trivium.eval.sim.metaworld import load_simulator, task_text
from trivium.eval.sim.task import TASKS
from trivium.policies import (
    EYES_WIDTH,
    HeadConfig,
    PolicyScore,
    choose_episodes,
    compare_policies,
    normalise,
    read_demonstrations,
)

RATES = (20, 40, 80)
"""Commands a second that the simulator takes."""


def heads_of(horizon: int) -> dict[str, HeadConfig]:
    """Return every kind of head in a small size, by the name that tables show."""
    size: dict[str, Any] = {"horizon": horizon, "width": 64, "depth": 2, "heads": 4}
    narrow: dict[str, Any] = size | {"width": 32}
    return {
        "BC MSE": RegressConfig(**size, error="l2"),
        "BC L1": RegressConfig(**size),
        "ACT": CvaeConfig(**size),
        "diffusion": DiffusionConfig(**size, num_draws=2),
        "diffusion U-Net": DiffusionUnetConfig(**narrow, num_draws=2),
        "flow": FlowConfig(**size, num_draws=2),
    }


@dataclass(frozen=True, eq=False)
class Trial:
    """What `plan_trial` found to fit together: minutes of fitting can begin."""

    source: LeRobot
    heads: Mapping[str, HeadConfig]
    rollout: RolloutConfig
    num_demos: int
    steps: int

    def run(self, folder: Path) -> list[PolicyScore]:
        """Fit and try every head; `folder` gets the results of the single evaluations."""
        return compare_policies(self.source, self.heads, self.rollout, folder, self.num_demos, self.steps)


def plan_trial(source: EpisodeSource, tasks: str, episodes: int, num_demos: int, steps: int) -> Trial:
    """Check everything that a comparison of policies needs, before anything is fitted.

    Args:
        source: a set that was recorded in the simulator.
        tasks: Meta-World names with commas between, or "all" for those that the set holds.
        episodes: fresh ones that every policy is tried on, a task.
        num_demos: demonstrations it learns from, a task.
        steps: of the optimizer.

    Raises:
        ConfigError: an unknown task, or a horizon that a head cannot have.
        DataError: the set was not recorded in the simulator, or lacks episodes of a task.
        SetupError: the simulator or diffusers is not installed.
    """
    if not isinstance(source, LeRobot) or source.fps not in RATES:
        found = f"{source.fps:g} commands a second" if isinstance(source, LeRobot) else "no LeRobot set"
        expected = f"a LeRobot set from the simulator, at {', '.join(map(str, RATES))} commands a second"
        raise DataError(f"set {source.config.path}", found, expected, "Record one: trivium demo-data FOLDER.")
    names = [name for name, text in TASKS.items() if text.instruction in source.found.tasks]
    if tasks.strip() != "all":
        names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise DataError(
            f"set {source.config.path}",
            f"no task for policies ({', '.join(source.found.tasks)})",
            "tasks of Meta-World",
            "Name some with --policies, or record them: trivium demo-data FOLDER.",
        )
    for name in names:
        task_text(name)
    load_simulator()
    heads, horizon = heads_of(source.config.horizon), source.config.horizon
    if horizon % 2:
        raise ConfigError(
            "horizon", str(horizon), "an even one for the diffusion U-Net", f"Type --horizon {horizon + 1}."
        )
    for head in heads.values():
        head.build(source.columns()["action"].shape[1], source.columns()["state"].shape[1], EYES_WIDTH)
    for name in names:
        samples = choose_episodes(source, (name,), num_demos, 0)
        read_demonstrations(source, samples[:1], normalise(source, samples))
    rollout = RolloutConfig(
        tasks=tuple(names),
        episodes=episodes,
        execute=min(8, horizon),
        control_hz=int(source.fps),  # type: ignore[arg-type]
        spread=_spread(source),
        views=(),
        clips=0,
    )
    return Trial(source, heads, rollout, num_demos, steps)


def _spread(source: LeRobot) -> float:
    """Return how widely objects were placed when the set was recorded; Meta-World's own range where nothing says it."""
    about = Path(source.config.path).parent / "demo.json"
    if not about.is_file():
        return 1.0
    try:
        return float(json.loads(about.read_text())["settings"]["spread"])
    except (ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(str(about), found, "what trivium demo-data wrote", "Restore it, or delete it.") from error
