"""What the model would lose without one of its senses: held-out losses with a camera, the state or the words gone."""

import math
import time
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch

from trivium.assemble import World, build_objective
from trivium.assess import readable
from trivium.core.files import write_json
from trivium.core.log import note
from trivium.core.objective import Objective
from trivium.core.rng import key, numpy_rng, seed_all
from trivium.core.sample import Sample
from trivium.data.bucket import select
from trivium.data.row import Layout, collate
from trivium.eval.ablation import blank, senses
from trivium.policy.objective import VlaConfig
from trivium.probe.curve import estimate, resample
from trivium.run import Run
from trivium.train.stage import undisturbed

Sums = dict[str, np.ndarray]
"""Sum and count of a loss by episode, "e 2", by the name of the loss."""

_episodes: WeakKeyDictionary[World, list[list[Sample]]] = WeakKeyDictionary()


def joins(config: Run, stage: str) -> bool:
    """Whether a stage joins modalities, so that one can be taken away, and this is asked for."""
    learned = next(found.objective for found in config.stages if found.name == stage)
    return bool(config.health.ablate) and isinstance(learned, VlaConfig)


def measure_ablation(world: World, stage: str, step: int | None = None) -> None:
    """Take the held-out losses of the model as it stands, whole and without each sense; write ablation/<stage>.json.

    The same held-out frames, noise and times of the flow in all of them, so that a change is the sense's alone. A
    stage that learns one modality by itself has nothing to take away, and nothing is measured. A measurement in the
    middle of a stage (`step`) is kept beside the one at its end, under <stage>-<step>.
    """
    config = world.config
    learned = next(found.objective for found in config.stages if found.name == stage)
    if not joins(config, stage) or not isinstance(learned, VlaConfig):
        return
    name, start = stage if step is None else f"{stage}-{step:06d}", time.perf_counter()
    if world not in _episodes:
        _episodes[world] = _read(world)
    objective = build_objective(learned, world.model, config).to(world.device)
    layout, episodes = world.layout(learned), _episodes[world]
    with undisturbed(objective, key(config.seed, "ablation")):
        whole, units = _losses(world, objective, layout, episodes, None)
        without = {s: _losses(world, objective, layout, episodes, s)[0] for s in senses(config.robot.source.views)}
    if not whole:
        return
    table = summarise(whole, without, numpy_rng(config.seed, "ablation"))
    write_json(
        world.folder / f"ablation/{name}.json",
        {
            "stage": stage,
            "step": step,
            "episodes": len(episodes),
            "samples": sum(map(len, episodes)),
            "units": units,
            **table,
            "by_episode": {loss: sums.tolist() for loss, sums in whole.items()},
            "seconds": round(time.perf_counter() - start, 2),
        },
    )
    for row in table["without"]:
        parts = [
            f"{loss} {change['change']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f}) {units[loss]}".strip()
            for loss, change in row["losses"].items()
        ]
        note(f"held-out loss without {row['sense']}: {', '.join(parts)}")


def summarise(whole: Sums, without: Mapping[str, Sums], rng: np.random.Generator) -> dict:
    """Turn sums by episode into means and paired changes, each with the 95 % interval over resampled episodes."""
    number = len(next(iter(whole.values())))
    weights = resample(np.zeros(number, int), 1000, rng)
    means = {loss: _means(sums, weights) for loss, sums in whole.items()}
    rows = []
    for sense, found in without.items():
        changes = {loss: estimate(_means(found[loss], weights) - means[loss]) for loss in whole}
        rows.append(
            {
                "sense": sense,
                "losses": {
                    loss: {"change": change.value, "low": change.low, "high": change.high}
                    for loss, change in changes.items()
                },
            }
        )
    return {
        "whole": {loss: estimate(mean).model_dump() for loss, mean in means.items()},
        "without": rows,
    }


def _means(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights @ sums
    return total[:, 0] / np.maximum(total[:, 1], 1e-300)


def _read(world: World) -> list[list[Sample]]:
    """Read the held-out frames, spread evenly, by episode."""
    source, config = world.robot, world.config
    found = select(source, "val", config.robot.val_share)
    chosen = found[np.linspace(0, len(found) - 1, min(len(found), config.health.ablate)).astype(int)]
    samples, chosen = readable(source, chosen)
    groups = source.groups()[chosen]
    return [[samples[i] for i in np.flatnonzero(groups == group)] for group in np.unique(groups)]


@torch.no_grad()
def _losses(
    world: World, objective: Objective, layout: Layout, episodes: Sequence[Sequence[Sample]], sense: str | None
) -> tuple[Sums, dict[str, str]]:
    """Sum every loss by episode, next-token losses in bits; return the unit of each, too."""
    sums: Sums = {}
    units: dict[str, str] = {}
    for number, samples in enumerate(episodes):
        left = [blank(sample, sense) if sense else sample for sample in samples]
        rows = [layout.build(world.chain.forward(sample, None)) for sample in left]
        batch = collate([[("", row)] for row in rows], max(row.length for row in rows)).to(world.device)
        seed_all(key(world.config.seed, "ablation", number))  # the same noise, whatever is missing
        for name, loss in objective(batch).items():
            units[name] = "bits" if loss.group == "tokens" else ""
            total = loss.sum.item() / (math.log(2) if units[name] else 1.0)
            sums.setdefault(name, np.zeros((len(episodes), 2)))[number] = total, loss.count
    return {name: found for name, found in sums.items() if found[:, 1].sum()}, units
