"""Closed-loop evaluation: a policy drives fresh simulator episodes, several side by side in one batch."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from pydantic import Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trivium.core.files import write_atomic, write_json
from trivium.core.log import console
from trivium.eval.ablation import blank, compare, senses
from trivium.eval.demo_episode import FIRST_EVALUATION_SEED
from trivium.eval.policy import Policy
from trivium.eval.sim.metaworld import MetaWorld, MetaWorldConfig, check_views, task_text
from trivium.eval.statistics import wilson

FILM_HZ = 20
"""Frames a second of a clip; the slowest control rate, so that every rate is a multiple of it."""


class RolloutConfig(MetaWorldConfig):
    """Which episodes are tried, and how a chunk of commands is executed."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Meta-World v3 names."""
    episodes: int = Field(default=20, ge=1, le=100_000)
    """Fresh episodes a task; 20 give a 95 % interval of +-20 points in the middle, 100 of +-10."""
    execute: int = Field(default=8, ge=1)
    """Commands of a chunk that are executed before the policy looks again; at most its horizon."""
    max_steps: int = Field(default=150, ge=1)
    """Control steps (1 / `control_hz` seconds) after which an episode without success has failed."""
    parallel: int = Field(default=6, ge=1)
    """Environments a task that run side by side; the policy sees all of them as one batch."""
    clips: int = Field(default=2, ge=0)
    """Episodes a task that are filmed."""
    ablate: int = Field(default=10, ge=0, le=100_000)
    """Of the episodes of a trained policy, so many a task are played again without each of its senses: every camera
    black in turn, no state, no instruction. Costs (views + 2) x this many episodes a task; 0 leaves it out."""
    seed: int = Field(default=0, ge=0)
    """Another seed tries other episodes; recordings never use any of them."""


@dataclass
class _Slot:
    """One environment and the episode it is playing."""

    world: MetaWorld
    episode: int = -1
    film: list[np.ndarray] | None = None


@dataclass
class _Result:
    """What came of a task so far, by episode."""

    success: dict[int, bool] = field(default_factory=dict)
    length: dict[int, int] = field(default_factory=dict)
    clips: list[str] = field(default_factory=list)


def evaluate(policy: Policy, config: RolloutConfig, folder: Path, label: str) -> dict[str, Any]:
    """Play all episodes, some of them again without each sense; write `folder/label.json`, clips in `folder/videos`.

    The file appears when all episodes are done; an interrupted evaluation leaves no result behind.

    Raises:
        ConfigError: unknown task or view.
        SetupError: the simulator cannot be loaded.
    """
    check_views(config.views)
    for task in config.tasks:
        task_text(task)
    start = time.monotonic()
    slots = [
        _Slot(MetaWorld(task, config)) for task in config.tasks for _ in range(min(config.parallel, config.episodes))
    ]
    number = min(config.ablate, config.episodes)
    try:
        results = _play_all(policy, config, slots, folder, label)
        without = {
            sense: _play_all(policy, config.replace(episodes=number, clips=0), slots, folder, label, sense)
            for sense in (senses(config.views) if number else ())
        }
    finally:
        for slot in slots:
            slot.world.close()
    whole = _successes(results, number)
    report = _report(label, config, results)
    report["ablations"] = [compare(sense, whole, _successes(found, number)) for sense, found in without.items()]
    report["seconds"] = round(time.monotonic() - start, 1)
    write_json(folder / f"{label}.json", report)
    return report


def _play_all(
    policy: Policy, config: RolloutConfig, slots: Sequence[_Slot], folder: Path, label: str, sense: str | None = None
) -> dict[str, _Result]:
    """Play every episode of every task, without one sense if it is named."""
    results = {task: _Result() for task in config.tasks}
    waiting = {task: list(range(config.episodes)) for task in config.tasks}
    what = f"rollouts: {label}" + (f", no {sense}" if sense else "")
    with _progress() as bar:
        line = bar.add_task(what, total=config.episodes * len(config.tasks))
        while active := [slot for slot in slots if _busy(slot, waiting[slot.world.task], config)]:
            seen = [slot.world.observation() for slot in active]
            chunks = policy.act([blank(sample, sense) for sample in seen] if sense else seen)
            for slot, chunk in zip(active, chunks, strict=True):
                if _play(slot, chunk, config):
                    _finish(slot, results[slot.world.task], folder, label)
                    bar.advance(line)
    return results


def _successes(results: dict[str, _Result], episodes: int) -> dict[str, list[bool]]:
    return {task: [result.success[episode] for episode in range(episodes)] for task, result in results.items()}


def _busy(slot: _Slot, waiting: list[int], config: RolloutConfig) -> bool:
    """Give an idle environment the next episode of its task; False when there is none left."""
    if slot.episode < 0 and waiting:
        slot.episode = waiting.pop(0)
        slot.world.reset(FIRST_EVALUATION_SEED + 100_000 * config.seed + slot.episode)
        slot.film = [] if slot.episode < config.clips else None
    return slot.episode >= 0


def _play(slot: _Slot, chunk: np.ndarray, config: RolloutConfig) -> bool:
    """Execute the first commands of a chunk; return whether the episode is over."""
    world = slot.world
    assert len(chunk), f"{world.task}: the policy answered with an empty chunk, the episode would never end"
    for command in chunk[: config.execute]:
        if slot.film is not None and world.num_steps % (config.control_hz // FILM_HZ) == 0:
            slot.film.append(world.picture(config.views[0]))
        world.step(command)
        if world.success or world.num_steps >= config.max_steps:
            return True
    return False


def _finish(slot: _Slot, result: _Result, folder: Path, label: str) -> None:
    result.success[slot.episode] = slot.world.success
    result.length[slot.episode] = slot.world.num_steps
    if slot.film is not None:
        slot.film.append(slot.world.picture(slot.world.views[0]))
        name = f"videos/{label}-{slot.world.task}-{slot.episode}.gif"
        write_atomic(folder / name, gif(slot.film, FILM_HZ))
        result.clips.append(name)
    slot.episode, slot.film = -1, None


def gif(frames: Sequence[np.ndarray], rate_hz: float) -> bytes:
    """Return an animated GIF that loops and rests on its last frame for a second."""
    pictures = [Pillow.fromarray(frame).quantize(64, dither=Pillow.Dither.NONE) for frame in frames]
    times_ms = [round(1000 / rate_hz)] * (len(frames) - 1) + [1000]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=times_ms, loop=0)
    return file.getvalue()


def _report(label: str, config: RolloutConfig, results: dict[str, _Result]) -> dict[str, Any]:
    tasks = []
    for task, result in results.items():
        successes = sum(result.success.values())
        low, high = wilson(successes, config.episodes)
        tasks.append(
            {
                "task": task,
                "successes": successes,
                "episodes": config.episodes,
                "low": low,
                "high": high,
                "outcomes": [result.success[episode] for episode in range(config.episodes)],
                "mean_length": float(np.mean(list(result.length.values()))),
                "videos": sorted(result.clips),
            }
        )
    # Every task has as many episodes: the mean of the rates is the pooled rate, and so is its interval.
    total = sum(task["successes"] for task in tasks)
    low, high = wilson(total, config.episodes * len(tasks))
    return {
        "label": label,
        "tasks": tasks,
        "mean": total / (config.episodes * len(tasks)),
        "low": low,
        "high": high,
        "execute": config.execute,
        "max_steps": config.max_steps,
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
