"""A whole run in small: a synthetic LeRobot set, real parts, two stages; `python small_run.py` forks such runs."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trivium import curriculum
from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.action.prior import ActionPriorConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.errors import DataError
from trivium.core.files import publish_folder, write_json
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_write import Episode, LeRobotWriter
from trivium.data.transform import NormalizeConfig, RandomShiftConfig
from trivium.eval.rollout import RolloutConfig
from trivium.language.model import TinyLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.visible import ModalityDropoutConfig
from trivium.policy.vla import ModelConfig
from trivium.probe.check import HealthConfig
from trivium.run import CheckConfig, RobotConfig, Run, Stage
from trivium.synth.ground import GroundConfig
from trivium.train.stage import StageConfig
from trivium.vision.vit import VitConfig

SIZE, FPS, HORIZON = 32, 20, 4
TASKS = ("push the block", "open the drawer")
EPISODES, LENGTH = 16, 12
STEPS = (6, 8)


def write_set(folder: Path, episodes: int = EPISODES, robot: str = "toy") -> Path:
    """Write a set in which a hand goes to a white square: it can be learned, and every picture differs.

    A robot of another name than "toy" has a third dimension of its command.
    """
    truth = {"truth.object": ("x", "y", "z"), "truth.object_image": ("u", "v")}
    axes = ("dx", "dy") if robot == "toy" else ("dx", "dy", "dz")
    columns = {"observation.state": ("x", "y", "grip"), "action": axes, **truth}
    spec = SetSpec(fps=FPS, robot_type=robot, views={"top": (SIZE, SIZE)}, columns=columns, license="MIT")
    writer = LeRobotWriter(folder.with_name(f"{folder.name}.staging"), spec)
    for number in range(episodes):
        rng = np.random.default_rng(number)
        hand, block = rng.uniform(0.2, 0.8, (2, 2))
        states, actions, frames = [], [], []
        for step in range(LENGTH):
            move = np.clip(block - hand, -0.1, 0.1)
            picture = np.full((SIZE, SIZE, 3), 40, np.uint8)
            for place, colour in ((block, (255, 255, 255)), (hand, (200, 30, 30))):
                u, v = (place * SIZE).astype(int)
                picture[max(0, v - 3) : v + 3, max(0, u - 3) : u + 3] = colour
            states.append([*hand, step / LENGTH])
            actions.append([*move, 0.1 * np.sin(step)][: len(axes)])
            frames.append(picture)
            hand = hand + move + rng.normal(0, 0.01, 2)
        at = np.tile(block, (LENGTH, 1)).astype(np.float32)
        values = {
            "observation.state": np.array(states, np.float32),
            "action": np.array(actions, np.float32),
            "truth.object": np.pad(at, ((0, 0), (0, 1))),
            "truth.object_image": at,
        }
        writer.add(f"{number:03d}", Episode(TASKS[number % 2], values, {"top": np.stack(frames)}))
    publish_folder(folder, lambda partial: writer.fill(partial, writer.keys()))
    return folder


def small_run(data: Path, workers: int = 1, save_every: int = 3) -> Run:
    """A motion prior, then alignment: augmentation, dropout, flow noise, packing and loader workers all take part."""
    source = LeRobotConfig(path=str(data), views=("top",), horizon=HORIZON)

    def mixture(name: str, source: LeRobotConfig, row_length: int, rows: int) -> MixtureConfig:
        bucket = BucketConfig(name=name, source=source, weight=1.0, max_epochs=20, val_share=0.5)
        return MixtureConfig(
            buckets=(bucket,), row_length=row_length, rows_per_batch=rows, max_images_per_row=8, workers=workers
        )

    common = {"lr": 1e-2, "warmup_steps": 2, "save_every": save_every}
    prior = Stage(
        name="prior",
        steps=STEPS[0],
        learn=("action",),
        objective=ActionPriorConfig(),
        mixture=mixture("motion", source.replace(views=()), 32, 1),
        **common,
    )
    align = Stage(
        name="vla",
        steps=STEPS[1],
        learn=("*", "!language.layers.0"),
        lr_groups={"vision": 1e-3},
        accumulate=2,
        objective=VlaConfig(dropout=ModalityDropoutConfig(state=0.4, image=0.4, ramp=0.8)),
        mixture=mixture("robot", source, 96, 1),
        **common,
    )
    return Run(
        name="small",
        precision="float32",
        device="cpu",
        robot=RobotConfig(source=source, val_share=0.5, state_dim=3, action_dim=2),
        transforms=(NormalizeConfig(), GroundConfig(), RandomShiftConfig(pixels=2)),
        model=ModelConfig(
            vision=VitConfig(image_size=SIZE, patch_size=8, width=32, depth=1, heads=2),
            connect=MlpConnectorConfig(shuffle=2),
            language=TinyLanguageConfig(width=32, num_layers=2, heads=2, num_extra_tokens=102),
            action=FlowConfig(horizon=HORIZON, width=32, depth=1, heads=2, num_draws=2),
            context=PatchContextConfig(),
            tokenizer=FastConfig(vocab_size=100),
        ),
        stages=(prior, align),
        health=CheckConfig(
            num_samples=100,
            probe=HealthConfig(num_folds=2, num_sizes=1, smallest_size=16, num_components=8, hidden=4, mlp_steps=8),
        ),
        rollout=RolloutConfig(tasks=("reach-v3",), views=("top",), control_hz=FPS, execute=HORIZON),
    )


def no_simulator(world: curriculum.World, label: str, episodes: int | None = None) -> None:
    """Stand in for the rollouts: the one thing here that needs a simulator."""
    task = {"task": "reach-v3", "successes": 0, "episodes": 1, "low": 0.0, "high": 0.8}
    write_json(world.folder / f"eval/{label}.json", {"tasks": [task], "mean": 0.0, "low": 0.0, "high": 0.8})


def no_health(world: curriculum.World, stage: str, step: int | None = None) -> None:
    """Stand in for the probes where only the training is looked at."""
    write_json(world.folder / f"health/{stage}.json", {})


def forget(what: str) -> None:
    """Break this process's resume: leave one part of the state out of what is restored."""
    whole, restore, share = curriculum.Checkpoints.find, curriculum.Saved.restore, StageConfig.lr_share

    def find(self: curriculum.Checkpoints) -> curriculum.Saved | None:
        saved = whole(self)
        if saved is not None and what == "rng":
            saved.state.rng.step = 0
        if saved is not None and what == "data_position":
            saved.state.data_position = 0
        if saved is not None and what == "schedule":
            begun = saved.state.step
            StageConfig.lr_share = lambda self, step: share(self, step - begun)
        return saved

    curriculum.Checkpoints.find = find
    if what == "optimizer":
        curriculum.Saved.restore = lambda self, module, optimizer=None: restore(self, module)


def spoil(episode: int, frame: int) -> None:
    """Break one picture of the set, for this process and its workers."""
    whole = LeRobot.picture

    def picture(self: LeRobot, view: str, place: int, at: int) -> np.ndarray:
        if (place, at) == (episode, frame):
            raise DataError(f"episode {place}, frame {at}", "a spoilt picture", "a whole one", "Record it again.")
        return whole(self, view, place, at)

    LeRobot.picture = picture


def alone(folder: str, data: str, omit: str = "", workers: int = 1, bad: tuple[int, int] | None = None) -> None:
    """Run, or go on with a run."""
    curriculum.roll_out, curriculum.check_health = no_simulator, no_health
    forget(omit)
    if bad is not None:
        spoil(*bad)
    curriculum.execute(small_run(Path(data), workers), Path(folder))


def serve() -> None:
    """Read one JSON request a line, answer with one: imports are paid once, and every run is a fork of its own."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _child(lambda request=request: alone(**request), request["folder"])
        print(json.dumps(answer), flush=True)


def _child(work: Callable[[], None], folder: str) -> None:
    code = 1
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports 800 modules at its first use: once here, not in every fork
    serve()
