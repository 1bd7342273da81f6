"""One demonstration: play the expert under noise, keep it when it succeeds, and describe its pictures."""

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trivium.core.files import write_json
from trivium.core.rng import numpy_rng
from trivium.data.source.lerobot_write import Episode, LeRobotWriter, SetSpec
from trivium.eval.demo_settings import EpisodeSettings
from trivium.eval.demo_text import stage_texts
from trivium.eval.sim.metaworld import (
    ACTION_NAMES,
    EMBODIMENT,
    LICENSE,
    STATE_NAMES,
    MetaWorld,
    MetaWorldConfig,
)
from trivium.eval.sim.task import TASKS, TaskText
from trivium.synth.scene import Place, Scene

SEEDS_PER_SET = 1_000_000
FIRST_EVALUATION_SEED = 2_000_000_000
"""Recordings use the seeds below, evaluations those from here on: no episode is ever in both."""


def open_staging(settings: EpisodeSettings, texts: Mapping[str, TaskText]) -> LeRobotWriter:
    """Return the writer whose staging folder the workers fill."""
    size = (settings.world.image_size, settings.world.image_size)
    spec = SetSpec(
        fps=settings.control_hz,
        robot_type=EMBODIMENT,
        views=dict.fromkeys(settings.world.views, size),
        columns={
            "observation.state": STATE_NAMES,
            "action": ACTION_NAMES,
            "truth.object": ("x", "y", "z"),
            "truth.goal": ("x", "y", "z"),
            "truth.object_image": ("u", "v"),
            "truth.gripper_image": ("u", "v"),
        },
        license=LICENSE,
        paraphrases={instruction: text.paraphrases for instruction, text in texts.items()},
    )
    return LeRobotWriter(settings.folder, spec)


def start_worker() -> None:
    """Prepare a worker: Ctrl-C is the parent's business, and no worker outlives the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    os.environ.setdefault("OMP_NUM_THREADS", "1")


_world: list[MetaWorld] = []  # the environment this process used last; building one takes half a second


def world(task: str, config: MetaWorldConfig) -> MetaWorld:
    """Return this process's environment of a task, made when it is not the one used last."""
    if not _world or (_world[0].task, _world[0].config) != (task, config):
        _close()
        _world.append(MetaWorld(task, config))
        # After mujoco's import, whose own exit handler shuts GL down: the last one registered runs first.
        atexit.register(_close)
    return _world[0]


def _close() -> None:
    while _world:
        _world.pop().close()


def record_episode(settings: EpisodeSettings, task: str, seed: int) -> bool:
    """Play one seed and stage the episode when the expert succeeds; return whether it did.

    A failure leaves a mark, so that a continued recording does not play it again.
    """
    env = world(task, settings.world)
    env.reset(SEEDS_PER_SET * settings.seed + seed)
    key = f"{task}-{seed:06d}"
    noise = SmoothNoise(settings.action_noise, numpy_rng(settings.seed, "demo", task, seed))
    frames: dict[str, list[np.ndarray]] = {view: [] for view in env.views}
    rows: list[dict[str, np.ndarray]] = []
    scenes: list[Scene] = []
    left = None
    for _ in range(settings.max_steps):
        action = env.expert()
        for view in env.views:
            frames[view].append(env.picture(view))
        scenes.append(scene_of(env, env.views[0]))
        rows.append(_row(env, action, scenes[-1]))
        if left == 0:
            break
        done = env.step(action + noise.draw())
        left = settings.steps_after_success if left is None and done else left if left is None else left - 1
    if not env.success:
        write_json(settings.folder / f".failed-{key}.json", {"task": task, "seed": seed})
        return False
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    episode = Episode(env.text.instruction, columns, {view: np.stack(taken) for view, taken in frames.items()})

    def also(folder: Path) -> None:
        rng = numpy_rng(settings.seed, "texts", task, seed)
        stage_texts(folder, key, scenes, episode.frames[env.views[0]], settings, rng)

    open_staging(settings, {}).add(key, episode, also)
    return True


class SmoothNoise:
    """Noise on executed moves, correlated over about three steps; a third of the episodes has none.

    The gripper's own dimension is left alone: a hand that lets go teaches nothing about coming back.
    """

    def __init__(self, largest: float, rng: np.random.Generator) -> None:
        """Draw the episode's spread: none, 40 % of the largest, or the largest."""
        self.rng, self.spread, self.now = rng, largest * rng.choice([0.0, 0.4, 1.0]), np.zeros(len(ACTION_NAMES))

    def draw(self) -> np.ndarray:
        """Return the noise of the next step."""
        self.now = 0.7 * self.now + 0.7 * self.spread * self.rng.standard_normal(len(ACTION_NAMES))
        return self.now * np.array([1.0, 1.0, 1.0, 0.0])


def scene_of(env: MetaWorld, view: str) -> Scene:
    """Return the present state as text generators want it."""
    truth, state = env.truth(), env.state()

    def place(name: str, point: Any) -> Place:
        u, v = env.project(point, view)
        x, y, z = (float(value) for value in point)
        return Place(name, (x, y, z), u, v)

    return Scene(
        instruction=env.text.instruction,
        gripper=place("gripper", state[:3]),
        object=place(TASKS[env.task].object, truth["object"]),
        opening=float(state[3]),
        done=env.success,
    )


def _row(env: MetaWorld, action: np.ndarray, scene: Scene) -> dict[str, np.ndarray]:
    truth = env.truth()
    return {
        "observation.state": env.state(),
        "action": action,
        "truth.object": truth["object"],
        "truth.goal": truth["goal"],
        "truth.object_image": np.array([scene.object.u, scene.object.v], np.float32),
        "truth.gripper_image": np.array([scene.gripper.u, scene.gripper.v], np.float32),
    }
