"""Does a prior on motions without pictures help a policy that has five demonstrations?

Command     python bench/prior.py few|heads [FOLDER]     (recorded there once, states alone; default build/prior)
Question    closed-loop success on a task after 5 demonstrations: head from scratch against head from a prior
Arms        prior on the other tasks; prior on all tasks, this one's motions too; the same with the head's motion frozen
Reference   `heads`: every head with 20 demonstrations of reach and push (perceptrons on the whole simulator state, four
            times the steps and batch: 0.88 to 1.00)
Output      tables for a person, then one JSON line for a log

Object and goal are shown to the policy as the simulator knows them (src/trivium/policies.py): with 20 demonstrations
from the gripper, with 5 from the table, as a fixed camera shows them (from the gripper 5 are enough already). The prior
sees the gripper's state alone. All arms share normalisation, demonstrations, steps, seeds and episodes.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from trivium.action.cvae import CvaeConfig
from trivium.action.diffusion import DiffusionConfig, DiffusionUnetConfig
from trivium.action.flow import FlowConfig
from trivium.action.regress import RegressConfig
from trivium.core.files import publish_folder
from trivium.core.log import console
from trivium.core.rng import numpy_rng
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.source.lerobot_write import Episode, LeRobotWriter, SetSpec
from trivium.eval.demo_episode import SmoothNoise
from trivium.eval.rollout import RolloutConfig
from trivium.eval.sim.metaworld import ACTION_NAMES, EMBODIMENT, LICENSE, STATE_NAMES, MetaWorld, MetaWorldConfig
from trivium.eval.statistics import wilson
from trivium.policies import (
    HeadConfig,
    choose_episodes,
    compare_policies,
    fit_policy,
    fit_prior,
    normalise,
    read_demonstrations,
    try_policy,
)

HORIZON = 8
TARGETS = ("push-v3", "button-press-topdown-v3")
OTHERS = (
    "reach-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "door-unlock-v3",
    "plate-slide-v3",
    "window-open-v3",
    "handle-press-v3",
)
EPISODES, NOISE, MAX_STEPS = 60, 0.3, 100
FEW, STEPS, PRIOR_STEPS, SEEDS = 5, 400, 800, (0, 1, 2)
SIZE: dict[str, Any] = {"horizon": HORIZON, "width": 64, "depth": 2, "heads": 4}
SMALL: dict[str, Any] = {**SIZE, "width": 32}
HEADS: dict[str, HeadConfig] = {"l1": RegressConfig(**SIZE), "flow": FlowConfig(**SIZE, num_draws=2)}
ALL_HEADS: dict[str, HeadConfig] = HEADS | {
    "cvae": CvaeConfig(**SIZE),
    "diffusion": DiffusionConfig(**SIZE, num_draws=2),
    "unet": DiffusionUnetConfig(**SMALL, num_draws=2),
}
LOOKING = ("eyes", "place", "action.expert.context", "action.expert.blocks.*.cross", "action.expert.fall")
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "scratch": ("", ("*",)),
    "other tasks": ("others", ("*",)),
    "all tasks": ("all", ("*",)),
    "all tasks, motion frozen": ("all", LOOKING),
}
ROLLOUT = RolloutConfig(tasks=TARGETS, episodes=25, execute=5, max_steps=MAX_STEPS, parallel=8, clips=0, views=())


def record(folder: Path, tasks: tuple[str, ...]) -> LeRobot:
    """Play the experts and keep what succeeded, states and truths alone; nothing is drawn."""
    world, root = MetaWorldConfig(views=()), folder / "motion"
    three = ("x", "y", "z")
    columns = {"observation.state": STATE_NAMES, "action": ACTION_NAMES, "truth.object": three, "truth.goal": three}
    if not root.exists():
        with tempfile.TemporaryDirectory() as staging:
            writer = LeRobotWriter(Path(staging), SetSpec(world.control_hz, EMBODIMENT, {}, columns, LICENSE))
            for task in tasks:
                _record(task, world, writer)
            keys = writer.keys()
            publish_folder(root, lambda place: writer.fill(place, keys))
    return LeRobotConfig(path=str(root), views=(), horizon=HORIZON).build()


def _record(task: str, config: MetaWorldConfig, writer: LeRobotWriter) -> None:
    env, kept, seed = MetaWorld(task, config), 0, 0
    while kept < EPISODES:
        assert seed < 3 * EPISODES, f"{task}: the expert fails too often"
        env.reset(seed)
        noise, rows, left = SmoothNoise(NOISE, numpy_rng(0, "prior", task, seed)), [], -1
        for _ in range(MAX_STEPS):
            truth, action = env.truth(), env.expert()
            rows.append((env.state(), action, truth["object"], truth["goal"]))
            done = env.step(action + noise.draw())
            left = left - 1 if left > 0 else 5 if done else left
            if left == 0:
                break
        if env.success:
            names = ("observation.state", "action", "truth.object", "truth.goal")
            columns = {name: np.stack(part) for name, part in zip(names, zip(*rows, strict=True), strict=True)}
            writer.add(f"{task}-{seed:04d}", Episode(env.text.instruction, columns, {}))
            kept += 1
        seed += 1


def few_shot(source: LeRobot, folder: Path) -> list[dict]:
    """Fit and try every arm; return one row for each head, task, seed and arm."""
    rows = []
    everything = np.arange(len(source))
    chain = normalise(source, everything)
    for head, config in HEADS.items():
        whole = read_demonstrations(source, everything, chain)
        shared = fit_prior(config, whole, PRIOR_STEPS)
        for task in TARGETS:
            others = choose_episodes(source, tuple(name for name in (*TARGETS, *OTHERS) if name != task), EPISODES, 0)
            priors = {
                "": None,
                "all": shared,
                "others": fit_prior(config, read_demonstrations(source, others, chain), PRIOR_STEPS),
            }
            for seed in SEEDS:
                demos = read_demonstrations(source, choose_episodes(source, (task,), FEW, seed), chain, False)
                for arm, (prior, learn) in ARMS.items():
                    policy, seconds = fit_policy(config, demos, STEPS, seed, priors[prior], learn)
                    rollout = ROLLOUT.replace(seed=seed)
                    successes, episodes, _, _ = try_policy(policy, rollout, task, folder, f"{head}-{arm}-{seed}")
                    rows.append({"head": head, "task": task, "seed": seed, "arm": arm, "fit_s": seconds})
                    rows[-1] |= {"successes": successes, "episodes": episodes}
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def paired(rows: list[dict], head: str, arm: str) -> tuple[float, float, float]:
    """Return the mean difference to scratch over (task, seed), and its 95 % bootstrap interval."""
    rate = {
        (row["arm"], row["task"], row["seed"]): row["successes"] / row["episodes"]
        for row in rows
        if row["head"] == head
    }
    found = np.array([rate[arm, task, seed] - rate["scratch", task, seed] for task in TARGETS for seed in SEEDS])
    draws = np.random.default_rng(0).choice(found, (10_000, len(found))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(found.mean()), float(low), float(high)


def compare_heads(source: LeRobot, folder: Path) -> list[dict]:
    """Fit and try every head with 20 demonstrations, and print the table."""
    rollout = ROLLOUT.replace(tasks=("reach-v3", "push-v3"))
    scores = compare_policies(source, ALL_HEADS, rollout, folder, num_demos=20, steps=1500)
    table = Table("head", "task", "weights", "fit s", "success", "95 %", title="20 demonstrations")
    for score in scores:
        success, interval = f"{score.successes}/{score.episodes}", f"{score.low:.2f} to {score.high:.2f}"
        table.add_row(score.head, score.task, f"{score.parameters:,}", f"{score.fit_s:.0f}", success, interval)
    console.print(table)
    return [score.__dict__ for score in scores]


def compare_arms(source: LeRobot, folder: Path) -> dict[str, dict]:
    """Fit and try every arm with few demonstrations, and print the table."""
    rows = few_shot(source, folder)
    table = Table("head", "arm", *TARGETS, "all", "95 %", "minus scratch", title=f"{FEW} demonstrations")
    result: dict[str, dict] = {}
    for head in HEADS:
        for arm in ARMS:
            mine = [row for row in rows if (row["head"], row["arm"]) == (head, arm)]
            by_task = [sum(row["successes"] for row in mine if row["task"] == task) for task in TARGETS]
            total, tried = sum(by_task), sum(row["episodes"] for row in mine)
            low, high = wilson(total, tried)
            mean, least, most = paired(rows, head, arm)
            gain = "" if arm == "scratch" else f"{mean:+.2f} ({least:+.2f} to {most:+.2f})"
            table.add_row(head, arm, *map(str, by_task), f"{total}/{tried}", f"{low:.2f} to {high:.2f}", gain)
            result[f"{head}, {arm}"] = {"successes": by_task, "of": tried, "gain": [mean, least, most]}
    console.print(table)
    return result


def main(part: str, folder: Path) -> None:
    """Record, run one part, and print."""
    torch.set_num_threads(1)
    start = time.process_time()
    source = record(folder, (*TARGETS, *OTHERS))
    found = (compare_heads if part == "heads" else compare_arms)(source, folder / "eval")
    print(json.dumps({part: found, "cpu_s": round(time.process_time() - start)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path("build/prior"))
