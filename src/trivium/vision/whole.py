"""Pretrained encoders that need whole pictures: rotary positions (DINOv3), and convolutions (ResNet)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trivium.vision.encoder import Encoder, cut, normalise
from trivium.vision.family import Family, Parts


class RotaryEncoder(Encoder):
    """The first blocks of a ViT whose layers turn queries and keys by the place of a patch (DINOv3).

    The layers must know which patches they see, so none can be left out, and MAE is not for it. The places are those
    of a finished model: DINOv3's own training shifts and stretches them at random, which would tell a robot wrong.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, parts: Parts, family: Family, num_layers: int, image_size: int, drop_path: float) -> None:
        """Keep the first blocks and compute the places for the size of the pictures."""
        super().__init__()
        assert parts.turn is not None, "a model with rotary positions"
        self.patch_size, self.drop_path = parts.patch.kernel_size[0], drop_path
        side = image_size // self.patch_size
        self.grid, self.image_size, self.width = (side, side), image_size, parts.patch.out_channels
        self.mean, self.std = family.mean, family.std
        self.patch = as_linear(parts.patch)
        self.prefix = nn.Parameter(parts.prefix.detach().clone())
        cosine, sine = parts.turn.eval()(torch.zeros(1, 3, image_size, image_size))
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.blocks = parts.blocks[:num_layers]
        self.norm = parts.last_norm
        self.train()

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Encode whole pictures; class and register tokens go along and are left behind."""
        self.check(images)
        pixels = normalise(images, self.mean, self.std).to(self.patch.weight.dtype)
        tokens = self.patch(cut(pixels, self.patch_size).flatten(2))
        hidden = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        hidden = self.through(hidden, position_embeddings=(self.cosine, self.sine))
        return self.norm(hidden[:, len(self.prefix) :])


class PretrainedResnet(Encoder):
    """The first residual blocks of transformers' ResNet; the cells of the last map are the patches."""

    def __init__(self, model: Any, num_layers: int, image_size: int) -> None:
        """Keep `num_layers` residual blocks, counted through all stages."""
        super().__init__()
        self.stem = model.embedder
        blocks = [block for stage in model.encoder.stages for block in stage.layers]
        self.width = blocks[num_layers - 1].layer[-1].convolution.out_channels
        self.blocks = nn.ModuleList(blocks[:num_layers])
        self.image_size = image_size
        side = self.side(model.config, num_layers, image_size)
        self.grid = (side, side)
        self.train()

    @staticmethod
    def side(config: Any, num_layers: int, image_size: int) -> int:
        """Return the side of the last map: the stem halves twice, the first block of a stage once."""
        starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
        halvings = 2 + sum(num_layers > start for start in starts[0 if config.downsample_in_first_stage else 1 :])
        for _ in range(halvings):
            image_size = -(-image_size // 2)
        return image_size

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Return the cells of the last map, row-major."""
        self.check(images)
        x = self.stem(normalise(images).to(self.stem.embedder.convolution.weight.dtype))
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)


def as_linear(conv: nn.Conv2d) -> nn.Linear:
    """Turn a patch convolution (stride = kernel) into the linear layer that equals it: one GEMM on every device."""
    linear = nn.Linear(conv.weight[0].numel(), conv.out_channels)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.zero_() if conv.bias is None else linear.bias.copy_(conv.bias)
    return linear


def interpolate(
    positions: Float[Tensor, "p d"], grid: tuple[int, int], resample: Mapping[str, Any]
) -> Float[Tensor, "q d"]:
    """Resample the positions of a square grid to another, by the filter that transformers takes for the family."""
    side = round(len(positions) ** 0.5)
    assert side * side == len(positions), f"{len(positions)} positions are not a square grid"
    if (side, side) == grid:
        return positions.clone()
    square = positions.float().T.reshape(1, -1, side, side)
    return F.interpolate(square, size=grid, align_corners=False, **resample)[0].flatten(1).T.contiguous()
