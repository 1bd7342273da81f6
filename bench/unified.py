"""One stream of ids: does the small recipe foresee the next frame, and do the actions that it writes hold?

Command     python bench/unified.py [SEEDS] [FOLDER]     (3, build/bench/unified; from the folder of data/quickstart)
References  of a frame: its ids' own entropy (the histogram of training frames), the histogram at each place of the
            picture, the best mixture of that with copying the present frame, and ("alone") the model itself on
            frames that nothing precedes; of a chunk: standing still at the mean
Seconds     are of CPU time, on one thread, of a whole run with its checks: what stands beside does not matter
Output      a table for a person, then one JSON line for a log; the pictures are in FOLDER/SEED/unified
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from trivium.assemble import World
from trivium.core.files import write_json
from trivium.core.log import console
from trivium.core.sample import Action, Sample
from trivium.curriculum import execute
from trivium.data.bucket import select
from trivium.policy.unified import UnifiedObjective
from trivium.policy.unified_layout import UnifiedLayout
from trivium.policy.world import WorldModel
from trivium.run import Run, load
from trivium.train.checkpoint import Checkpoints, load_weights

RECIPE = Path(__file__).parents[1] / "recipes/unified.py"
ACTED = 128
"""Held-out observations that are acted on."""


def act(config: Run, folder: Path) -> dict[str, float]:
    """Write a chunk for held-out observations and hold it against the demonstration, in normalised units."""
    world = World(config, folder)
    saved = Checkpoints(folder / "checkpoints").find()
    assert saved is not None, "the run has ended"
    load_weights(world.model, saved.folder, "model.")
    work = world.stage(len(config.stages) - 1)
    objective, layout = work.objective, work.loader.layout
    assert isinstance(objective, UnifiedObjective)
    assert isinstance(layout, UnifiedLayout)
    assert layout.tokenizer is not None
    found = select(world.robot, "val", config.robot.val_share)
    samples = [world.robot.read(int(i)) for i in found[np.linspace(0, len(found) - 1, ACTED).astype(int)]]
    layout.tokenizer.num_repaired = 0
    chunks = WorldModel(objective, world.chain, layout).act([_with(sample) for sample in samples])
    true = np.stack([_scaled(world, sample) for sample in samples])
    pairs = zip(samples, chunks, strict=True)
    mine = [_with(sample, replace(sample.of(Action)[0], values=chunk)) for sample, chunk in pairs]
    errors = (np.stack([_scaled(world, sample) for sample in mine]) - true) ** 2
    still = (true - true.mean((0, 1))) ** 2
    return {
        "act_mse": float(errors.mean()),
        "still_mse": float(still.mean()),
        "repaired": layout.tokenizer.num_repaired / len(samples),
    }


def main(seeds: int, folder: Path) -> None:
    """Run the recipe under every seed and print what came of it."""
    torch.set_num_threads(1)
    table = Table(
        "seed", "model", "histogram", "by place", "copying", "right", "copied", "where moved", "chunk", "CPU s"
    )
    results = []
    for seed in range(seeds):
        config, place = load(RECIPE).replace(seed=seed), folder / str(seed)
        done = place / "bench.json"
        if not done.exists():
            begun = time.process_time()
            execute(config, place)
            write_json(done, {"seconds": time.process_time() - begun, **act(config, place)})
        found = json.loads((place / "unified/world.json").read_text())
        result = json.loads(done.read_text()) | {
            name: found[name]["value"] for name in found if isinstance(found[name], dict)
        }
        results.append(result)
        ends = found["bits"]
        table.add_row(
            str(seed),
            f"{ends['value']:.3f} [{ends['low']:.3f}, {ends['high']:.3f}]",
            *(f"{result[name]:.3f}" for name in ("alone_bits", "histogram_bits", "place_bits", "copy_bits")),
            *(f"{result[name]:.1%}" for name in ("right", "copied", "right_where_moved")),
            f"{result['act_mse']:.3f} of {result['still_mse']:.3f}",
            f"{result['seconds']:.0f}",
        )
    console.print(table)
    print(json.dumps([{name: round(value, 4) for name, value in result.items()} for result in results]))


def _with(sample: Sample, *action: Action) -> Sample:
    """Return the sample with other actions, or none."""
    kept = tuple(part for part in sample.segments if not isinstance(part, Action))
    return replace(sample, segments=(*kept, *action))


def _scaled(world: World, sample: Sample) -> np.ndarray:
    return world.chain.forward(sample, None).of(Action)[0].values


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        int(arguments[0]) if arguments else 3,
        Path(arguments[1]) if len(arguments) > 1 else Path("build/bench/unified"),
    )
