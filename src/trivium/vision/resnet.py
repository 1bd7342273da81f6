"""Our own ResNet: no download; the vectors of its last feature map are its patches."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.vision.encoder import Encoder, normalise

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Blocks of each of the four stages, by depth."""
STRIDE = 32
CHANNELS_PER_GROUP = 16


class ResnetConfig(Config):
    """A ResNet that starts from random weights."""

    kind: Literal["resnet"] = "resnet"
    image_size: int = Field(default=112, gt=STRIDE)
    """Side of the square pictures in pixels; a cell of the last feature map covers 32 of them."""
    depth: Literal[18, 50] = 18
    """Layers: 18 has 11 M parameters and vectors of 512, 50 has 24 M and vectors of 2048."""
    norm: Literal["batch", "group"] = "batch"
    """batch: statistics of the micro-batch in training and running ones after (classification's classic); group: of
    every picture by itself, in groups of 16 channels. Take group for small batches, clips of one scene, averaged
    weights or a gradient cache."""

    def grid(self) -> tuple[int, int]:
        """Return rows and columns of the last feature map, without building."""
        side = -(-self.image_size // STRIDE)
        return side, side

    def build(self) -> "Resnet":
        """Build the encoder."""
        return Resnet(self)


class Resnet(Encoder):
    """ResNet 18 or 50 as torchvision has it: a block that shrinks does so in its 3 x 3 convolution.

    Paper: https://arxiv.org/abs/1512.03385. The last gain of every residual branch starts at zero, so that a new
    network is shallow (https://arxiv.org/abs/1706.02677).
    """

    def __init__(self, config: ResnetConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.grid, self.image_size = config.grid(), config.image_size
        make = BatchNorm if config.norm == "batch" else _group_norm
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm = make(64)
        bottleneck = config.depth == 50
        blocks: list[Residual] = []
        self.width = 64
        for stage, num_blocks in enumerate(BLOCKS[config.depth]):
            for place in range(num_blocks):
                stride = 2 if stage and not place else 1
                blocks.append(Residual(self.width, 64 * 2**stage, stride, bottleneck, make))
                self.width = blocks[-1].width
        self.blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for block in blocks:
            nn.init.zeros_(block.norms[-1].get_parameter("weight"))

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Return the cells of the last feature map, row-major."""
        self.check(images)
        x = F.relu(self.norm(self.stem(normalise(images).to(self.stem.weight.dtype))))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that stays in float32 when the network around it is cast.

    In bfloat16 the running mean never arrives: steps of a tenth of a per cent are rounded away.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BatchNorm":
        before = {name: value.detach().clone() for name, value in self.state_dict().items()}
        super()._apply(fn, recurse)
        for name, value in before.items():
            own = getattr(self, name)
            own.data = value.to(own.device)
        return self


class Residual(nn.Module):
    """Two convolutions, or three around a narrow middle, beside a way straight through."""

    def __init__(
        self, width_in: int, channels: int, stride: int, bottleneck: bool, make_norm: Callable[[int], nn.Module]
    ) -> None:
        """Build; `channels` are the narrow ones, a bottleneck gives four times as many."""
        super().__init__()
        self.width = channels * 4 if bottleneck else channels
        shapes = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            shapes = [(channels, 1, 1), (channels, 3, stride), (self.width, 1, 1)]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        width = width_in
        for width_out, kernel, step in shapes:
            self.convs.append(nn.Conv2d(width, width_out, kernel, step, kernel // 2, bias=False))
            self.norms.append(make_norm(width_out))
            width = width_out
        self.shortcut = None
        if stride > 1 or width_in != self.width:
            conv = nn.Conv2d(width_in, self.width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, make_norm(self.width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n e y x"]:
        """Add the branch to what goes straight through."""
        straight = x if self.shortcut is None else self.shortcut(x)
        last = len(self.convs) - 1
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = x if place == last else F.relu(x)
        return F.relu(x + straight)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)
