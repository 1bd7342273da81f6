"""What every image encoder offers: patches in, one vector a patch out."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trivium.core.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module, ABC):
    """An image encoder: whole pictures in, one vector a patch out, row-major.

    `width` is the length of a vector, `grid` the (rows, columns) of patches, `image_size` the side in pixels of the
    square pictures it takes; `blocks` are the layers that freezing, sharding and compiling address. A patch of a
    convolutional network is a cell of its last feature map.
    """

    width: int
    grid: tuple[int, int]
    image_size: int
    blocks: nn.ModuleList
    drop_path: float = 0.0

    @abstractmethod
    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Encode whole pictures."""

    @property
    def num_patches(self) -> int:
        """Patches of one picture."""
        return self.grid[0] * self.grid[1]

    def check(self, images: UInt8[Tensor, "n 3 h w"]) -> None:
        """Refuse pictures of another size: resizing is the transform's business, and guessing would hide a mistake.

        Raises:
            ConfigError: the pictures are not `image_size` square with three channels.
        """
        if tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise ConfigError(
                "vision.image_size",
                f"images of shape {tuple(images.shape[1:])}",
                f"(3, {self.image_size}, {self.image_size})",
                f"Set the Resize step of the data transform to {self.image_size}, or image_size to the data's.",
            )

    def through(self, hidden: Float[Tensor, "n q d"], **options: Any) -> Float[Tensor, "n q d"]:
        """Run all blocks; in training each is left out at random, the later the more often (stochastic depth).

        The rate rises in a straight line from 0 to `drop_path`, as in timm and InternVL. Where we differ: one draw for
        a whole block and not one for each of its two branches, so that every family of blocks can have it.
        Paper: https://arxiv.org/abs/1603.09382.
        """
        last = max(len(self.blocks) - 1, 1)
        for place, block in enumerate(self.blocks):
            after = block(hidden, **options)
            rate = self.drop_path * place / last
            hidden = leave_out(hidden, after, rate) if self.training and rate else after
        return hidden


class PatchEncoder(Encoder):
    """An encoder in two halves, so that patches can be left out in between (MAE) or come from several frames.

    Only a transformer whose positions are added to its patches can do that: a convolution needs the neighbours.
    """

    patch_size: int

    @abstractmethod
    def embed(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Cut pictures into patches, row-major, and give each its vector and its position."""

    @abstractmethod
    def encode(self, tokens: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """Run the layers over patches, all of them or any subset; a class token lives and dies in here."""

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Encode whole pictures."""
        return self.encode(self.embed(images))


def leave_out(before: Float[Tensor, "n q d"], after: Float[Tensor, "n q d"], rate: float) -> Float[Tensor, "n q d"]:
    """Undo what a residual block added, for a share of the pictures; the others take 1 / (1 - rate) times of it.

    The expectation over the draws is `after`, so that nothing has to be scaled when the model is used.
    """
    kept = torch.rand(len(before), 1, 1, device=before.device) >= rate
    return torch.where(kept, before + (after - before) / (1 - rate), before)


def normalise(
    images: UInt8[Tensor, "n 3 h w"], mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Float[Tensor, "n 3 h w"]:
    """Scale 0..255 to zero mean and unit deviation per channel, in float32 (a bfloat16 result blurs the last bits)."""
    shift = torch.tensor(mean, device=images.device).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(std, device=images.device).view(3, 1, 1) * 255)
    return (images.float() - shift) * scale


def cut(images: Float[Tensor, "n 3 h w"], size: int) -> Float[Tensor, "n p c size size"]:
    """Cut pictures into square patches, row-major; a view until something copies it.

    A linear layer on the flattened patch (channel, row, column) is the patch convolution of a ViT, as one GEMM.
    """
    rows, columns = images.shape[2] // size, images.shape[3] // size
    patches = images.unflatten(2, (rows, size)).unflatten(4, (columns, size))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
