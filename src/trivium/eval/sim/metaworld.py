"""Meta-World as Trivium sees it: seeded episodes that repeat bit for bit, fast pictures, truth kept apart."""

import ctypes
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, SetupError
from trivium.core.sample import Image, Sample, State, Text
from trivium.eval.sim.task import TASKS, TaskText

SIMULATOR_HZ = 80
EMBODIMENT = "metaworld_sawyer"
LICENSE = "MIT"
STATE_NAMES = ("x", "y", "z", "opening")
ACTION_NAMES = ("dx", "dy", "dz", "grip")


# A third of the model's triangles, all outside the close top view: hidden there, pictures draw 1.7 times as fast.
BASE = ("right_l0", "head", "right_arm_base_link", "pedestal", "controller_box", "pedestal_feet", "torso", "base")


@dataclass(frozen=True)
class View:
    """A camera of the model, moved to `position` (metres) where that is given, with its own field of view (degrees)."""

    camera: str
    position: tuple[float, float, float] | None = None
    fovy: float | None = None
    upside_down: bool = False
    """Whether the model's camera stands on its head; its pictures are turned."""
    unseen: tuple[str, ...] = ()
    """Bodies that cannot appear in this view."""


VIEWS = {
    # Close and straight down: 1 cm on the table is 1.5 pixels at 112 px, everywhere alike, and the arm hides little.
    "top": View("topview", position=(0.0, 0.67, 1.5), fovy=28.0, unseen=BASE),
    # Moved closer: at 112 px the stock corner2 spends two thirds of its pixels on the table's far side and the wall.
    "corner2": View("corner2", position=(0.75, 0.075, 0.7), upside_down=True),
    "corner": View("corner", upside_down=True),
    "corner3": View("corner3", upside_down=True),
    "wrist": View("gripperPOV"),
}


class MetaWorldConfig(Config):
    """How Meta-World is set up: what recordings and rollouts share.

    A policy is tried in the set-up that its demonstrations were recorded in.
    """

    views: tuple[str, ...] = ("top",)
    """Cameras: top (close, straight down), corner2 (close, from the front), corner, corner3, wrist. Each takes as much
    time as the first."""
    image_size: int = Field(default=112, ge=32, le=1024, multiple_of=2)
    """Width and height of the pictures in pixels; drawing 224 takes 1.5 times as long as 112."""
    control_hz: Literal[80, 40, 20] = 40
    """Commands a second; the simulator holds each for 80 / control_hz of its own steps. 80 doubles what 40 costs in
    pictures and in steps of a chunk, and shows hardly more; at 20 some experts overshoot."""
    spread: float = Field(default=1.0, ge=0.1, le=3)
    """Width of the range in which objects are placed, left to right, as a multiple of Meta-World's own. At 1 an arm
    that ignores the picture succeeds in up to half of the episodes; beyond 2 some objects leave the top view."""


@cache
def load_simulator() -> tuple[ModuleType, ModuleType]:
    """Import mujoco and metaworld after choosing an off-screen GL, because mujoco reads MUJOCO_GL at import.

    Raises:
        SetupError: the packages or every off-screen GL library are missing.
    """
    os.environ.setdefault("MUJOCO_GL", _offscreen_gl())
    try:
        import metaworld
        import mujoco
    except ImportError as error:
        raise SetupError(
            "simulator", f"no module named {error.name}", "the `sim` extra", "Type: pip install 'trivium[sim]'"
        ) from error
    return mujoco, metaworld


def _offscreen_gl() -> str:
    # Both software renderers draw about 130 pictures a second here; egl also finds a GPU where there is one.
    for name, libraries in (("egl", ("libEGL.so.1",)), ("osmesa", ("libOSMesa.so.8", "libOSMesa.so.6"))):
        for library in libraries:
            try:
                ctypes.CDLL(library)
            except OSError:
                continue
            return name
    raise SetupError(
        "simulator",
        "neither libEGL.so.1 nor libOSMesa.so.8",
        "one library that draws pictures without a screen",
        "Type: sudo apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri libosmesa6",
    )


class MetaWorld:
    """One task of Meta-World (https://meta-world.github.io, MIT), with pictures, state and truth in Trivium's words.

    Where we differ from `gymnasium.make("Meta-World/MT1")`: an episode is a function of its seed alone (the stock
    environment keeps moved bodies and its random state from the episodes before), success ends nothing by itself,
    and pictures come from our own renderer without shadows, reflections and multisampling (10 times faster).
    """

    def __init__(self, task: str, config: MetaWorldConfig) -> None:
        """Build the task's model; nothing is drawn before the first picture is asked for.

        Args:
            task: a Meta-World v3 name such as "drawer-open-v3".
            config: cameras, rate and spread.

        Raises:
            ConfigError: there is no such task or view.
            SetupError: the simulator cannot be loaded.
        """
        self.task, self.text, self.config = task, task_text(task), config
        self.views = check_views(config.views)
        mujoco, _ = load_simulator()
        self._mujoco: Any = mujoco
        self._env, self._policy = _make(task, config.spread)
        self._renderer: Any = None
        self._place_cameras()
        self._pristine = {name: getattr(self._env.model, name).copy() for name in _MOVED}
        self.seed, self.num_steps, self.success = -1, 0, False
        self._observed: np.ndarray = np.zeros(0)

    def reset(self, seed: int) -> None:
        """Start the episode of this seed, in the same state whatever was played before."""
        env = self._env
        for name, values in self._pristine.items():
            getattr(env.model, name)[:] = values
        self._mujoco.mj_resetData(env.model, env.data)
        self._mujoco.mj_forward(env.model, env.data)
        env.seed(seed)
        env.curr_path_length = 0
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        observed = env.reset_model()
        self._mujoco.mj_forward(env.model, env.data)  # else the first picture shows the bodies where they were before
        current = env._get_curr_obs_combined_no_goal()
        env._prev_obs = current.copy()
        self._observed = np.concatenate([current, current, observed[36:39]])
        self.seed, self.num_steps, self.success = seed, 0, False

    def step(self, action: Float[np.ndarray, " a"]) -> bool:
        """Hold the action, clipped to [-1, 1], for one control step; return whether the task was done in it.

        `success` stays True from the first success on, as in Meta-World's own evaluation.
        """
        clipped = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        done = False
        for _ in range(SIMULATOR_HZ // self.config.control_hz):
            self._env.curr_path_length = 0  # the stock limit of 500 steps raises; callers count their own steps
            self._observed, _, _, _, info = self._env.step(clipped)
            done |= bool(info["success"])
        self.num_steps += 1
        self.success |= done
        return done

    def observation(self) -> Sample:
        """Return what a policy may see: pictures, gripper position and opening, and the instruction."""
        time_s = self.num_steps / self.config.control_hz
        pictures = [Image(pixels=self.picture(view), view=view, time_s=time_s) for view in self.views]
        state = State(values=self.state(), names=STATE_NAMES, time_s=time_s)
        return Sample(
            id=f"{self.task}/{self.seed}/{self.num_steps}",
            segments=(*pictures, Text(text=self.text.instruction, role="instruction", time_s=time_s), state),
            source="metaworld",
            license=LICENSE,
            embodiment=EMBODIMENT,
            truth=self.truth(),
        )

    def state(self) -> Float32[np.ndarray, " s"]:
        """Return the gripper's position in metres and its opening in [0, 1]."""
        return self._observed[:4].astype(np.float32)

    def truth(self) -> dict[str, Float32[np.ndarray, " 3"]]:
        """Return object and goal positions in metres: labels for probes and captions, never input of a policy."""
        return {
            "object": self._observed[4:7].astype(np.float32),
            "goal": np.asarray(self._env._target_pos, dtype=np.float32).reshape(3),
        }

    def simulator_state(self) -> Float[np.ndarray, " s"]:
        """Return what Meta-World's experts are given: gripper, objects and goal, now and one step before."""
        return self._observed

    def expert(self) -> Float32[np.ndarray, " a"]:
        """Return the scripted expert's action for the present state, clipped to [-1, 1]; it looks at the truth."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Constant(s) may be too high": the clip is meant
            return np.clip(self._policy.get_action(self._observed), -1.0, 1.0).astype(np.float32)

    def picture(self, view: str) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the present state as the camera of this view sees it."""
        if self._renderer is None:
            self._renderer = self._mujoco.Renderer(self._env.model, self.config.image_size, self.config.image_size)
        flags = self._mujoco.mjtRndFlag
        self._renderer.update_scene(self._env.data, camera=VIEWS[view].camera)
        # update_scene sets the flags back each time, so they are cleared after it.
        self._renderer.scene.flags[flags.mjRND_SHADOW] = 0
        self._renderer.scene.flags[flags.mjRND_REFLECTION] = 0
        pixels = self._renderer.render()
        return np.ascontiguousarray(pixels[::-1, ::-1] if VIEWS[view].upside_down else pixels)

    def project(self, point: Float[np.ndarray, " 3"], view: str) -> tuple[float, float]:
        """Return where a point appears in a picture, as shares of width (from the left) and height (from the top).

        A value outside [0, 1] lies beyond the frame; a point behind the camera gives (nan, nan).
        """
        camera = self._env.data.camera(VIEWS[view].camera)
        x, y, z = camera.xmat.reshape(3, 3).T @ (np.asarray(point, dtype=np.float64) - camera.xpos)
        if z > -1e-6:
            return float("nan"), float("nan")
        focal = 0.5 / np.tan(np.radians(self._env.model.camera(VIEWS[view].camera).fovy[0]) / 2)
        u, v = 0.5 + focal * x / -z, 0.5 - focal * y / -z
        if VIEWS[view].upside_down:
            u, v = 1 - u, 1 - v
        return float(u), float(v)

    def close(self) -> None:
        """Free the GL context (left to the interpreter's exit, EGL complains)."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _place_cameras(self) -> None:
        model = self._env.model
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 64
        model.vis.global_.offwidth = model.vis.global_.offheight = max(self.config.image_size, 64)
        unseen = set.intersection(*(set(VIEWS[name].unseen) for name in self.views)) if self.views else set()
        for geom in range(model.ngeom):
            if model.body(model.geom_bodyid[geom]).name in unseen and model.geom_type[geom] == _MESH:
                model.geom_group[geom] = _HIDDEN_GROUP
        for view in (VIEWS[name] for name in self.views):
            camera = model.camera(view.camera)
            if view.position is not None:
                camera.pos[:] = view.position
            if view.fovy is not None:
                camera.fovy[:] = view.fovy


_MESH, _HIDDEN_GROUP = 7, 5  # mjGEOM_MESH; groups 3 to 5 are not drawn
_MOVED = ("body_pos", "body_quat", "site_pos", "geom_pos")  # what Meta-World's reset_model functions write to


def _make(task: str, spread: float) -> tuple[Any, Any]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    env: Any = ALL_V3_ENVIRONMENTS[task]()
    # What Meta-World's set_task does, without its fixed list of 50 goals: every seed is its own episode.
    env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
    env._partially_observable = False  # the expert reads the goal
    env.__dict__.pop("sawyer_observation_space", None)
    _widen(env._random_reset_space, spread)
    policy: Callable[[], Any] = ENV_POLICY_MAP[task]
    return env, policy()


def _widen(space: Any, spread: float) -> None:
    """Scale the range of the first coordinate (left to right on the table) about its middle; Box is edited in place."""
    low, high = float(space.low[0]), float(space.high[0])
    middle, half = (low + high) / 2, (high - low) / 2
    space.low[0], space.high[0] = middle - spread * half, middle + spread * half


def task_text(task: str) -> TaskText:
    """Return the sentences and names of a task.

    Raises:
        ConfigError: there is no such task.
    """
    if task not in TASKS:
        import difflib

        near = difflib.get_close_matches(task, TASKS, n=3, cutoff=0.4)
        todo = f"Did you mean {', '.join(repr(name) for name in near)}?" if near else "Choose one of the 50 names."
        raise ConfigError("tasks", repr(task), "a Meta-World v3 task such as 'drawer-open-v3'", todo)
    return TASKS[task]


def check_views(views: tuple[str, ...]) -> tuple[str, ...]:
    """Return the views when all are known and none is asked for twice.

    Raises:
        ConfigError: an unknown view, or one twice.
    """
    if len(set(views)) != len(views) or any(view not in VIEWS for view in views):
        raise ConfigError("views", repr(views), f"different names out of {', '.join(VIEWS)}", "Change `views`.")
    return views
