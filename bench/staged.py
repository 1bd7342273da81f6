"""Does a staged curriculum beat mixing everything end to end from the start, at equal tokens?

Command     python bench/staged.py DATA [SEED ...] [--arms staged,mixed,late] [--scale N] [--choose]
Data        a folder of `trivium demo-data` with view "top" at 112 px: robot/ captions/ spatial_qa/ (and build/weights)
Model       two layers of DINOv2-S, pixel shuffle, two layers of SmolLM2-135M, a flow head; bfloat16, one thread.
            A model cut to two layers knows no language: they first learn the robot's manual, once for all arms
Arms        staged: connector, then encoder and connector through the frozen language model, then everything.
            mixed: everything learns from the first step, on the same buckets in the shares that the stages add up
            to, for as many tokens. The rates of the staged arm are the quickstart's; the mixed arm may choose among
            RATES by `--choose`, on a seed that is not reported.
            late: the last stage alone, so fewer tokens: what the first two stages are good for
Measured    on held-out episodes, in bits a token: answers where the object is, captions, spatial answers, action
            tokens; the flow head's squared error; and the bits of the manual, which no arm trains on
Output      a table for a person, then one JSON line for a log; differences are paired by seed, 95 % by Student's t
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy import stats

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.assemble import World, build_objective
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.log import console, note
from trivium.core.rng import Rng, key, seed_all
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.loader import Loader
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.source.text import TextConfig
from trivium.data.transform import NormalizeConfig, RandomShiftConfig
from trivium.language.continual import ContinualConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import ModelConfig
from trivium.run import RobotConfig, Run, Stage
from trivium.synth.ground import GroundConfig
from trivium.train.loop import run_stage
from trivium.train.stage import undisturbed
from trivium.train.state import State
from trivium.vision.pretrained import PretrainedVisionConfig

SEEDS, CHOICE = (0, 1, 2), 100
"""Seeds that are reported, and the one that rates were chosen on."""
READ, CONNECT, ENCODE, JOINT = 40, 12, 24, 48
"""Steps of the manual, and of the three stages; the mixed arm gets as many tokens as those three."""
ROW, ROWS, HORIZON, HELD_OUT = 384, 1, 8, 10
"""Tokens in a row, rows a step, commands in a chunk, and batches that a held-out loss is taken on."""
WORDS = VlaConfig(action_token_weight=0.0, flow_weight=0.0)
ALL = VlaConfig(action_token_weight=0.5, flow_weight=5.0)
EVERYTHING = (
    "vision",
    "connect",
    "language.layers",
    "language.norm",
    "language.embedding",
    "action",
    "state",
    "context",
)
RATES: dict[str, tuple[float, dict[str, float]]] = {
    "quickstart": (1e-3, {"vision": 2e-4, "language": 1e-4, "connect": 5e-4, "state": 5e-4}),
    "half": (1e-3, {"vision": 1e-4, "language": 5e-5, "connect": 5e-4, "state": 5e-4}),
}
MIXED_RATE = "quickstart"
"""What `--choose` found."""
SHARES = {
    "words": {"robot": 0.7, "captions": 0.15, "questions": 0.15},
    "joint": {"robot": 0.8, "captions": 0.1, "questions": 0.1},
}


def buckets(folder: Path, shares: dict[str, float], split: str = "train") -> tuple[BucketConfig, ...]:
    """Give the sources of the demo their shares; held-out sides may be read as often as needed."""
    sources: dict[str, Any] = {
        "robot": robot(folder),
        "captions": ImageTextConfig(path=f"{folder}/captions", words=CaptionColumns(), group_column="episode"),
        "questions": ImageTextConfig(path=f"{folder}/spatial_qa", words=QuestionColumns(), group_column="episode"),
        "manual": TextConfig(path=f"{folder}/text/corpus.jsonl", max_chars=600),
    }
    options: dict[str, Any] = {"max_epochs": 50, "split": split}
    return tuple(
        BucketConfig(name=name, source=sources[name], weight=share, **options) for name, share in shares.items()
    )


def robot(folder: Path) -> LeRobotConfig:
    """Return the demonstrations."""
    return LeRobotConfig(path=f"{folder}/robot", views=("top",), horizon=HORIZON)


def mixture(folder: Path, shares: dict[str, float], split: str = "train") -> MixtureConfig:
    """Pack buckets as every arm does."""
    return MixtureConfig(
        buckets=buckets(folder, shares, split), row_length=ROW, rows_per_batch=ROWS, max_images_per_row=12, workers=0
    )


def stage(folder: Path, name: str, steps: int, learn: tuple[str, ...], rates: tuple[float, dict[str, float]]) -> Stage:
    """Make a stage: words alone where the action head does not learn."""
    acts = "action" in learn
    return Stage(
        name=name,
        steps=steps,
        learn=learn,
        lr=rates[0],
        lr_groups=rates[1],
        warmup_steps=20 if acts else 5,
        final_lr_share=0.02 if acts else 0.1,
        weight_decay=0.01 if acts else 0.1,
        objective=ALL if acts else WORDS,
        mixture=mixture(folder, SHARES["joint" if acts else "words"]),
    )


def run(folder: Path, seed: int, arm: str, rate: str = MIXED_RATE, scale: int = 1) -> Run:
    """Return one arm as a run, its stages `scale` times as long."""
    first, second, last = (scale * steps for steps in (CONNECT, ENCODE, JOINT))
    if arm == "staged":
        stages = (
            stage(folder, "connector", first, ("connect", "state"), (1e-3, {})),
            stage(folder, "encoder", second, ("vision", "connect", "state"), (1e-3, {"vision": 1e-4})),
            stage(folder, "joint", last, EVERYTHING, RATES["quickstart"]),
        )
    elif arm == "late":
        stages = (stage(folder, "joint", last, EVERYTHING, RATES["quickstart"]),)
    else:
        total = first + second + last
        early = (first + second) / total
        shares = {name: early * SHARES["words"][name] + (1 - early) * SHARES["joint"][name] for name in SHARES["words"]}
        one = stage(folder, "mixed", total, EVERYTHING, RATES[rate])
        stages = (one.replace(mixture=mixture(folder, shares)),)
    return Run(
        name=arm,
        seed=seed,
        device="cpu",
        robot=RobotConfig(source=robot(folder), state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(), GroundConfig(), RandomShiftConfig(pixels=4)),
        model=ModelConfig(
            vision=PretrainedVisionConfig(path="build/weights/dinov2-small", num_layers=2, image_size=112),
            connect=MlpConnectorConfig(shuffle=2),
            language=PretrainedLanguageConfig(path="build/weights/smollm2-135m", num_layers=2, num_extra_tokens=258),
            action=FlowConfig(horizon=HORIZON, width=192, depth=2, heads=3, start_noise=0.0),
            context=PatchContextConfig(),
            tokenizer=FastConfig(vocab_size=256),
        ),
        stages=stages,
        rollout=None,
    )


def train(world: World, period: int = 1000, watch: Callable[[], object] = lambda: None) -> int:
    """Train all stages in memory and return the tokens; `watch` is called every `period` steps of a stage."""
    state, tokens = State(Rng(world.config.seed)), 0
    for index, one in enumerate(world.config.stages):
        seed_all(key(world.config.seed, "heads", one.name))
        work = world.stage(index)
        optimizer, _ = one.build(work.objective)
        state.begin_stage(one.name, index, work.plan.fingerprint)
        tokens += work.plan.tokens
        batches = work.loader.batches(0, one.steps, one.accumulate)
        every = ((period, lambda _: watch()),)
        run_stage(work.objective, batches, optimizer, state, one, lambda _: None, lambda *_: None, every=every)
    return tokens


@torch.no_grad()
def held_out(world: World, samples: MixtureConfig, objective: VlaConfig, batches: int = HELD_OUT) -> dict[str, float]:
    """Return the mean loss by name on held-out samples; an arm and a seed meet the same ones throughout."""
    probe = world.config.stages[-1].replace(
        name="probe", steps=batches, accumulate=1, objective=objective, mixture=samples
    )
    plan = world.plan(probe)
    layout = world.layout(objective)
    sources = {one.name: world.source(one.source) for one in plan.mixture.buckets}
    loader = Loader(plan, sources, world.chain, layout, 0)
    sums: dict[str, list[float]] = {}
    with undisturbed(world.model, 0):
        learner = build_objective(objective, world.model, world.config).eval()
        for (batch,) in loader.batches(0, batches, 1):
            for name, loss in learner(batch).items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += loss.sum.item()
                total[1] += loss.count
    return {name: total / count for name, (total, count) in sums.items() if count}


def measure(world: World, folder: Path) -> dict[str, float]:
    """Return all held-out numbers of a trained arm; token losses in bits."""
    sides = {name: mixture(folder, {name: 1.0}, "val") for name in ("robot", "captions", "questions", "manual")}
    acted = held_out(world, sides["robot"], ALL)
    found = {
        "where (bits)": acted["text"] / math.log(2),
        "action tokens (bits)": acted["action_token"] / math.log(2),
        "flow (error)": acted["flow"],
    }
    for bucket in ("captions", "questions", "manual"):
        found[f"{bucket} (bits)"] = held_out(world, sides[bucket], WORDS)["text"] / math.log(2)
    return found


def settle(folder: Path, config: Run) -> dict[str, torch.Tensor]:
    """Return the weights of a run's language model after it has read the manual."""
    read = stage(folder, "read", READ, ("language.layers", "language.norm"), (3e-4, {}))
    read = read.replace(objective=ContinualConfig(), mixture=mixture(folder, {"manual": 1.0}))
    with tempfile.TemporaryDirectory() as place:
        world = World(config.replace(stages=(read,)), Path(place))
        train(world)
        loss = held_out(world, mixture(folder, {"manual": 1.0}, "val"), WORDS)["text"]
        note(f"the manual: {loss / math.log(2):.2f} bits a token")
        return {name: weight.clone() for name, weight in world.model.language.state_dict().items()}


def arm(
    folder: Path, base: dict[str, torch.Tensor], seed: int, name: str, rate: str = MIXED_RATE, scale: int = 1
) -> dict[str, float]:
    """Train and measure one arm."""
    with tempfile.TemporaryDirectory() as place:
        world = World(run(folder, seed, name, rate, scale), Path(place))
        world.model.language.load_state_dict(base)
        begin = time.process_time()
        tokens = train(world)
        cpu = time.process_time() - begin
        found = measure(world, folder)
    found |= {"tokens": float(tokens), "cpu_s": round(cpu, 1)}
    print(json.dumps({"arm": name, "rate": rate, "seed": seed} | found), file=sys.stderr, flush=True)
    return found


def paired(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Return the mean difference and its 95 % interval over seeds (Student's t)."""
    difference = np.array(one) - np.array(other)
    mean, error = float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))
    half = float(stats.t.ppf(0.975, len(difference) - 1)) * error
    return mean, mean - half, mean + half


def main(folder: Path, seeds: tuple[int, ...], arms: tuple[str, ...], scale: int, choose: bool) -> None:
    """Compare the first arm with the others, print the table and the line; or try the rates of the mixed arm."""
    torch.set_num_threads(1)
    base = settle(folder, run(folder, CHOICE, "staged"))
    if choose:
        for rate in RATES:
            arm(folder, base, CHOICE, "mixed", rate, scale)
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for seed in seeds:
        for name, found in rows.items():
            found.append(arm(folder, base, seed, name, scale=scale))
    first, *others = arms
    gaps = [f"{first} - {other}, 95 %" for other in others]
    table = Table("held out", *arms, *gaps, title=f"{len(seeds)} seeds")
    line: dict[str, Any] = {}
    for metric in rows[first][0]:
        values = {name: [row[metric] for row in rows[name]] for name in arms}
        line[metric] = {name: round(float(np.mean(found)), 4) for name, found in values.items()}
        for other, gap in zip(others, gaps, strict=True):
            line[metric][gap] = [round(value, 4) for value in paired(values[first], values[other])]
        cells = [
            f"{value:.3f}" if isinstance(value, float) else "{:+.3f} ({:+.3f} to {:+.3f})".format(*value)
            for value in line[metric].values()
        ]
        table.add_row(metric, *cells)
    console.print(table)
    note(f"a difference below 0 speaks for {first}")
    print(
        json.dumps({"bench": "staged", "scale": scale, "seeds": list(seeds), "rows": line, "torch": torch.__version__})
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--arms", default="staged,mixed,late")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--choose", action="store_true")
    said = parser.parse_args()
    main(said.folder, tuple(said.seeds), tuple(said.arms.split(",")), said.scale, said.choose)
