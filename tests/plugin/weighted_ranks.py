"""Two processes that share a batch of all modalities; `python weighted_ranks.py FOLDER` runs both.

FOLDER holds model.json (a ModelConfig), weights.safetensors, and for each rank batch-RANK.safetensors.
"""

import json
from pathlib import Path

import torch
from both_ranks import both
from safetensors.torch import load_file, save_file

from trivium.core.batch import Batch
from trivium.core.config import parse
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import ModelConfig
from trivium.train import parallel
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig

WEIGHTS = VlaConfig(text_weight=1.0, action_token_weight=0.5, flow_weight=3.0, z_loss=0.01)


def work(folder: Path, rank: int) -> None:
    """Take the gradient of one step together with the other rank, and leave what came of it."""
    model = parse(ModelConfig, json.loads((folder / "model.json").read_text())).build(2, 3)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    objective = WEIGHTS.build(model)
    optimizer, _ = StageConfig(name="all", steps=1, learn=("*",), lr=1e-3).build(objective)
    about = json.loads((folder / f"batch-{rank}.json").read_text())
    batch = Batch(**load_file(folder / f"batch-{rank}.safetensors"), ids=tuple(about))
    optimizer.begin_step()
    seen = differentiate(objective, [batch], optimizer)
    parallel.sum_gradients(objective.parameters())
    found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    save_file({**found, "total": torch.tensor(seen.total, dtype=torch.float64)}, folder / f"found-{rank}.safetensors")


if __name__ == "__main__":
    both(work)
