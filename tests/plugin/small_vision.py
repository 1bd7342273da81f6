"""A small encoder with a reader of captions, and samples for it."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from trivium.core.sample import Image, Sample, Text
from trivium.vision.encoder import Encoder
from trivium.vision.mae import MaeConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.vit import VitConfig

CONFIG = VisionObjectiveConfig(projection_width=32, max_caption_tokens=6, decoder=MaeConfig(width=64, depth=1))
VIT = VitConfig(image_size=32, patch_size=8, width=64, depth=2, heads=2)


class Reader(nn.Module):
    """A text tower: every token looks at the tokens of its document up to itself, by a running mean."""

    def __init__(self):
        super().__init__()
        self.width = 24
        self.embedding = nn.Embedding(128, 24)

    def embed(self, tokens):
        return self.embedding(tokens)

    def forward(self, embeddings, documents, positions):
        assert (documents.amax(1) == torch.arange(len(documents))).all(), "one document a row"
        return embeddings.cumsum(1) / (positions + 1).unsqueeze(-1)


def model(vision: Encoder | None = None) -> SimpleNamespace:
    torch.manual_seed(0)
    return SimpleNamespace(vision=vision or VIT.build(), language=Reader().requires_grad_(False))


def encode(text):
    return list(text.encode())


def sample(caption="a cup", views=("front",), role="caption"):
    images = [Image(pixels=np.zeros((32, 32, 3), np.uint8), view=view) for view in views]
    return Sample(id="s", segments=(*images, Text(text=caption, role=role)), source="test", license="none")


def train(learner, batch, steps, lr):
    """Train on one batch and return the last losses by name."""
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20, (steps - step) / steps * 2)
        losses = learner(batch)
        optimizer.zero_grad()
        losses.total(losses.counts()).backward()
        optimizer.step()
    return {name: loss.sum.item() / loss.count for name, loss in losses.items()}
