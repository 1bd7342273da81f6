"""A set as the simulator would record it, for policies that are shown where object and goal are."""

from pathlib import Path

import numpy as np

from trivium.core.files import publish_folder
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.lerobot_write import Episode, LeRobotWriter, SetSpec
from trivium.eval.sim.metaworld import EMBODIMENT, STATE_NAMES, task_text

TASKS = ("reach-v3", "push-v3")
NUM_EPISODES, LENGTH = 6, 12


def write(root: Path, truths: tuple[str, ...] = ("object", "goal"), rate_hz: int = 40) -> LeRobotConfig:
    """Write a set whose actions lead from the gripper to the goal, which the state does not tell."""
    xyz = ("x", "y", "z")
    columns = {"observation.state": STATE_NAMES, "action": (*xyz, "grip")}
    columns |= {f"truth.{name}": xyz for name in truths}
    writer = LeRobotWriter(root / "staging", SetSpec(rate_hz, EMBODIMENT, {}, columns, "CC0-1.0"))
    rng = np.random.default_rng(0)
    for task in TASKS:
        for number in range(NUM_EPISODES):
            goal = np.repeat(rng.uniform(-0.2, 0.2, (1, 3)), LENGTH, 0)
            state = np.concatenate([rng.uniform(-0.2, 0.2, (LENGTH, 3)), np.ones((LENGTH, 1))], 1)
            action = np.concatenate([goal - state[:, :3], np.zeros((LENGTH, 1))], 1)
            found = {"observation.state": state, "action": action, "truth.object": -goal, "truth.goal": goal}
            numbers = {name: found[name].astype(np.float32) for name in columns}
            writer.add(f"{task}-{number}", Episode(task_text(task).instruction, numbers, {}))
    publish_folder(root / "set", lambda folder: writer.fill(folder, writer.keys()))
    return LeRobotConfig(path=str(root / "set"), views=(), horizon=4)
