"""Graphs that torch.compile makes over 20 packed training steps whose numbers of pictures differ.

Command     python bench/recompile.py [backend] [mlp|perceiver|gate]
            `eager` (default): counts alone, half a minute, no C++ compiler; `inductor`: step times too, some minutes
Output      a table for a person, then one JSON line for a log
Peer        the same encoder and language model compiled whole (torch.compile on the forward pass of each)
Model       a random VLA of four layers on each side, rows of 512 tokens with 1 to 8 pictures, AdamW
Limit       no new graph after the first two batches, one of several pictures and one of a single picture
"""

import json
import sys
import time
from statistics import median

import numpy as np
import torch
from rich.table import Table
from torch._dynamo.utils import counters

from trivium.action.flow import FlowConfig
from trivium.connect.gate import GateConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.batch import Batch
from trivium.core.log import console
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.data.row import collate
from trivium.language.model import TinyLanguageConfig
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.sequence import VlaLayout
from trivium.policy.vla import ModelConfig
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig
from trivium.vision.vit import VitConfig

SIDE, HORIZON, ACTION, STATE, ROW, STEPS = 32, 4, 2, 3, 512, 20
COUNTS = [3, 1, *(1 + (7 * i) % 8 for i in range(STEPS))]
"""Pictures a batch: two batches to begin with, then twenty that differ."""
CONNECTORS = {
    "mlp": MlpConnectorConfig(),
    "perceiver": PerceiverConfig(latents=8, depth=2, heads=4, groups=2),
    "gate": GateConfig(latents=8, depth=2, heads=4, groups=2, every=2),
}


def objective(connect: str) -> VlaObjective:
    """Build the same random model every time."""
    torch.manual_seed(0)
    config = ModelConfig(
        vision=VitConfig(image_size=SIDE, patch_size=8, width=64, depth=4, heads=4),
        connect=CONNECTORS[connect],
        language=TinyLanguageConfig(width=64, num_layers=4),
        action=FlowConfig(horizon=HORIZON, width=32, depth=1, heads=2),
    )
    return VlaConfig().build(config.build(ACTION, STATE)).train()


def batch(layout: VlaLayout, pictures: int) -> Batch:
    """Pack robot samples of one picture each, the last of them a caption."""
    rng = np.random.default_rng(pictures)
    rows = []
    for number in range(pictures):
        image = Image(pixels=rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        parts: list = [image, Text(text="a red cup " * (1 + number % 3), role="caption")]
        if number + 1 < pictures:
            valid = np.ones(HORIZON, bool)
            parts = [image, Text(text="push it", role="instruction")]
            parts.append(State(values=np.zeros(STATE, np.float32), names=("a", "b", "c")))
            parts.append(Action(values=np.zeros((HORIZON, ACTION), np.float32), valid=valid, names=("x", "y")))
        rows.append(layout.build(Sample(id=str(number), segments=tuple(parts), source="bench", license="MIT")))
    return collate([[("bench", row) for row in rows]], ROW)


def train(how: str, backend: str, connect: str) -> tuple[list[int], list[float]]:
    """Take all steps; return the graphs made after each, and the seconds each took."""
    torch._dynamo.reset()
    counters.clear()
    learner = objective(connect)
    (model,) = learner._model
    if how == "blocks":
        model.compile_blocks(backend)
    elif how == "whole":
        model.language._takes_chunks = False
        for part in (model.vision, model.language):
            part.compile(backend=backend)
    optimizer, _ = StageConfig(name="bench", steps=len(COUNTS), learn=("*",), lr=1e-3).build(learner)
    layout = VlaLayout(model.language.vocab, model.connect.num_tokens, None)
    graphs, seconds = [], []
    for pictures in COUNTS:
        made = batch(layout, pictures)
        start = time.perf_counter()
        optimizer.begin_step()
        optimizer.step(differentiate(learner, [made], optimizer).total, 1.0)
        seconds.append(time.perf_counter() - start)
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs, seconds


def main(backend: str = "eager", connect: str = "mlp") -> None:
    """Count, compare, print."""
    torch.set_num_threads(1)
    found = {how: train(how, backend, connect) for how in ("plain", "blocks", "whole")}
    table = Table(title=f"{connect}, backend {backend}, pictures a batch: {', '.join(map(str, COUNTS))}")
    for header in ("compiled", "graphs after 2 batches", f"after {STEPS} more", "breaks the limit", "median step, s"):
        table.add_column(header, justify="right")
    line: dict = {"bench": "recompile", "backend": backend, "connect": connect, "torch": torch.__version__}
    for how, (graphs, seconds) in found.items():
        step = median(seconds[2:])
        new = graphs[-1] - graphs[1]
        table.add_row(how, str(graphs[1]), str(graphs[-1]), "yes" if new else "no", f"{step:.4f}")
        line[how] = {"first": graphs[1], "last": graphs[-1], "median_step_s": round(step, 5)}
    console.print(table)
    print(json.dumps(line))


if __name__ == "__main__":
    main(*sys.argv[1:3])
