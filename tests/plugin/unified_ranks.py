"""Two processes that take one step of a unified stage, each with its own rows; `python unified_ranks.py FOLDER`."""

import json
from pathlib import Path

import torch
from both_ranks import both
from safetensors.torch import save_file
from unified_parts import SAMPLES, build

from trivium.data.row import collate
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig

SHARES = ((0, 1, 2), (3,))
"""Rows by rank: the second one has a document alone, without a robot."""


def step(*micro_batches: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], dict]:
    """Take one step on rows by number; return the weights after it, and what was seen."""
    objective, layout = build()
    optimizer, _ = StageConfig(name="all", steps=1, learn=("*",), lr=1e-3).build(objective)
    optimizer.begin_step()
    batches = [collate([[("x", layout.build(SAMPLES[i]))] for i in rows], 64) for rows in micro_batches]
    seen = differentiate(objective, batches, optimizer)
    update = optimizer.step(seen.total, 1.0)
    weights = {name: value.detach().clone() for name, value in objective.named_parameters()}
    return weights, {"total": seen.total, "loss": seen.loss, "norm": update.norm, "tokens": seen.tokens}


def work(folder: Path, rank: int) -> None:
    weights, seen = step(SHARES[rank])
    save_file(weights, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    both(work)
