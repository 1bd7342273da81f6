"""Does an encoder that learned through a small language model save steps with a bigger one (progressive scaling)?

Command     python bench/progressive.py DATA [--scale N] [--language] [--seeds N ...]     (N times as many steps)
Data        as bench/staged.py
Models      two layers of DINOv2-S at 112 px; small: two layers of SmolLM2-135M, big: four. Both first learn the robot's
            manual, once for all arms and seeds, since a model that was cut knows no language
Arms        small: encoder and connector learn through the frozen small model, on captions, spatial answers and answers
            where the object is. Then, with the big model, whose connector is new and all that learns (the expensive
            stage is skipped): "handed" has the encoder of the small run, "untouched" has DINOv2's own. With --language
            the big model's layers learn as well, as in InternVL's last stage
Measured    held-out loss of these answers, in bits a token, every EVERY steps. The level is fixed beforehand: what
            the untouched arm has reached at its end, seed by seed; the answer is when the handed arm is there
Output      a table for a person, then one JSON line for a log; differences are paired by seed, 95 % by Student's t

Rates and steps are those of bench/staged.py; `--scale 4` without `--language` was chosen after a look at seeds 0 to 2.
"""

import argparse
import json
import math
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from safetensors.torch import save_file

from staged import CHOICE, SHARES, WORDS, held_out, mixture, paired, run, settle, stage, train
from trivium.assemble import World
from trivium.core.log import console, note
from trivium.run import Run
from trivium.start import take_over

SEEDS, SMALL, BIG = (0, 1, 2), 2, 4
STEPS_SMALL, STEPS_BIG, EVERY, BATCHES = 40, 24, 6, 6
"""Steps through the small model, with the big one, between measurements; and batches of a measurement."""

CONNECTOR = ("connect", "state")
LANGUAGE = (*CONNECTOR, "language.layers", "language.norm")


def scaled(folder: Path, seed: int, layers: int, steps: int, learn: tuple[str, ...]) -> Run:
    """Return a run of one stage on words, with so many layers of the language model."""
    base = run(folder, seed, "staged")
    rates = (1e-3, {part: 1e-4 for part in ("vision", "language") if any(name.startswith(part) for name in learn)})
    language = base.model.language.replace(num_layers=layers)
    one = stage(folder, "words", steps, learn, rates)
    return base.replace(model=base.model.replace(language=language), stages=(one,))


def measure(world: World, folder: Path) -> float:
    """Return the held-out loss of all answers, in bits a token."""
    probe = mixture(folder, SHARES["words"], "val")
    return held_out(world, probe, WORDS, BATCHES)["text"] / math.log(2)


def learn_small(folder: Path, base: dict[str, torch.Tensor], seed: int, place: Path, scale: int) -> tuple[float, float]:
    """Teach an encoder through the small model and write its weights; return the loss before and after."""
    config = scaled(folder, seed, SMALL, scale * STEPS_SMALL, ("vision", "connect", "state"))
    world = World(config, place)
    world.model.language.load_state_dict(base)
    before = measure(world, folder)
    train(world)
    vision = {f"vision.{name}": weight.contiguous() for name, weight in world.model.vision.state_dict().items()}
    save_file(vision, place / "model.safetensors")
    return before, measure(world, folder)


def learn_big(
    folder: Path, base: dict[str, torch.Tensor], seed: int, start: dict[str, str], scale: int, learn: tuple[str, ...]
) -> list[float]:
    """Teach a new connector of the big model; return the held-out loss at the start and every few steps."""
    with tempfile.TemporaryDirectory() as place:
        world = World(scaled(folder, seed, BIG, scale * STEPS_BIG, learn), Path(place))
        world.model.language.load_state_dict(base)
        take_over(world.model, start)
        curve = [measure(world, folder)]
        train(world, scale * EVERY, lambda: curve.append(measure(world, folder)))
    return curve


def steps_to(curve: list[float], level: float) -> float:
    """Return the step at which a curve first reaches a level, between two measurements in a straight line."""
    for place, (before, after) in enumerate(pairwise(curve)):
        if after <= level:
            return EVERY * (place + (before - level) / (before - after) if before > level else place)
    return math.inf


def main(folder: Path, scale: int, learn: tuple[str, ...], seeds: list[int]) -> None:
    """Compare, print the table and the line."""
    torch.set_num_threads(1)
    small, big = (settle(folder, scaled(folder, CHOICE, layers, 1, ("connect",))) for layers in (SMALL, BIG))
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            before, after = learn_small(folder, small, seed, Path(place), scale)
            handed = learn_big(folder, big, seed, {"vision": place}, scale, learn)
        untouched = learn_big(folder, big, seed, {}, scale, learn)
        steps = scale * steps_to(handed, untouched[-1])
        row = {"seed": seed, "small": [before, after], "handed": handed, "untouched": untouched}
        rows.append(row | {"reached": math.isfinite(steps), "steps": min(steps, float(scale * STEPS_BIG))})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table = Table(
        "seed", "small, before", "after", "untouched, end = level", "handed, end", "handed at the level after"
    )
    for row in rows:
        when = f"{row['steps']:.1f} of {scale * STEPS_BIG} steps" if row["reached"] else "never"
        ends = (*row["small"], row["untouched"][-1], row["handed"][-1])
        table.add_row(str(row["seed"]), *(f"{value:.3f}" for value in ends), when)
    gap = paired([row["handed"][-1] for row in rows], [row["untouched"][-1] for row in rows])
    saved = paired([row["steps"] for row in rows], [float(scale * STEPS_BIG)] * len(rows))
    console.print(table)
    note("handed - untouched at the end, bits: {:+.3f} ({:+.3f} to {:+.3f})".format(*gap))
    note(
        "steps to the level, handed - untouched, never counted as 0 saved: {:+.1f} ({:+.1f} to {:+.1f})".format(*saved)
    )
    line = {"gap": np.round(gap, 4).tolist(), "steps": np.round(saved, 2).tolist(), "rows": rows}
    print(json.dumps({"bench": "progressive", "scale": scale, "learn": learn, **line, "torch": torch.__version__}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--language", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    said = parser.parse_args()
    main(said.folder, said.scale, LANGUAGE if said.language else CONNECTOR, said.seeds)
