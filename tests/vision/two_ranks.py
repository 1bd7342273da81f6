"""A contrastive step alone, then as one of two ranks: `python two_ranks.py FOLDER RANK` leaves gradients in FOLDER."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from trivium.core.sample import Image, Sample, Text
from trivium.data.row import collate
from trivium.train import parallel
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.vit import VitConfig

CAPTIONS = ("a cup", "a red block", "a cup", "door", "a red block", "door", "a cup, and much more")
"""Five of the first rank, two of the second; equal ones within a rank and across."""
SHARES = (slice(0, 5), slice(5, 7))
STAGE = StageConfig(name="see", steps=1, learn=("*",), lr=1e-3)


class Reader(nn.Module):
    """A text tower that learns."""

    def __init__(self):
        super().__init__()
        self.width = 12
        self.embedding = nn.Embedding(128, 12)

    def embed(self, tokens):
        return self.embedding(tokens)

    def forward(self, embeddings, documents, positions):
        return embeddings.cumsum(1) / (positions + 1).unsqueeze(-1)


def learner(loss, chunk):
    torch.manual_seed(0)
    vision = VitConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2).build()
    config = VisionObjectiveConfig(mae=0.0, loss=loss, projection_width=8, chunk=chunk)
    return config.build(SimpleNamespace(vision=vision, language=Reader())), config


def batch_of(config, share):
    layout = config.layout(4, lambda text: list(text.encode()))
    rows = []
    for i, caption in list(enumerate(CAPTIONS))[share]:
        pixels = np.random.default_rng(i).integers(256, size=(16, 16, 3), dtype=np.uint8)
        segments = (Image(pixels=pixels), Text(text=caption, role="caption"))
        sample = Sample(id=str(i), segments=segments, source="", license="")
        rows.append([("web", layout.build(sample))])
    return collate(rows, 32)


def step(folder, rank, size, loss, chunk):
    objective, config = learner(loss, chunk)
    optimizer, _ = STAGE.build(objective)
    optimizer.begin_step()
    share = SHARES[rank] if size > 1 else slice(0, 7)
    seen = differentiate(objective, [batch_of(config, share)], optimizer)
    parallel.sum_gradients(objective.parameters())
    name = f"{loss}-{size}-{rank}"
    save_file({name: weight.grad for name, weight in objective.named_parameters()}, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"total": seen.total, "loss": seen.loss["contrastive"]}))


def main(folder, rank):
    for loss in ("clip", "siglip"):  # alone, before there are ranks
        step(folder, rank, 1, loss, 1024)
    soon = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=soon)
    for loss in ("clip", "siglip"):
        step(folder, rank, 2, loss, 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
