"""Two processes that take one step of a unified stage, each with its own rows; `python unified_ranks.py FOLDER`."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
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
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    weights, seen = step(SHARES[rank])
    save_file(weights, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    child = os.fork()
    work(Path(sys.argv[1]), int(child == 0))
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
