"""Pictures as whole numbers: a small convolutional network with a quantizer in its middle."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor, nn

from trivium.core.config import Config, parse
from trivium.core.errors import CheckpointError, ConfigError, DataError
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.nn.quantizer import Quantised
from trivium.nn.stored import load_module, save_module

FORMAT = "trivium-image-tokenizer"
CODE_WIDTH = 32
"""Length of the vectors that a codebook compares: few dimensions keep more codes alive (arxiv.org/abs/2110.04627)."""
STEM = 4
"""Side of the squares of pixels that the first layer takes in; every further halving has a layer of its own."""
AT_ONCE = 64
"""Pictures encoded or decoded in one go."""


class ImageNetConfig(Config):
    """The network of an image tokenizer."""

    quantizer: Annotated[VqConfig | FsqConfig, Field(discriminator="kind")] = VqConfig()
    """How vectors become ids: a learned codebook (vq) or a fixed grid (fsq)."""
    patch_size: Literal[4, 8, 16, 32] = 8
    """Side in pixels of what one vector stands for. 8 shows small things, 16 makes four times fewer tokens."""
    width: int = Field(default=128, ge=16, le=4096, multiple_of=16)
    """Channels at the coarse scale, half of them at the finer ones; 64-256. Wider paints better and costs more."""

    def grid(self, image_size: int) -> tuple[int, int]:
        """Return rows and columns of vectors in a square picture.

        Raises:
            ConfigError: the patch does not divide the picture.
        """
        if image_size % self.patch_size or image_size < self.patch_size:
            raise ConfigError(
                "objective.network.patch_size",
                str(self.patch_size),
                f"a divisor of {image_size}, the pictures' side in pixels",
                "Change patch_size, or image_size of model.vision.",
            )
        return image_size // self.patch_size, image_size // self.patch_size

    def num_tokens(self, image_size: int) -> int:
        """Return the ids that a picture becomes.

        Raises:
            ConfigError: the patch does not divide the picture.
        """
        rows, columns = self.grid(image_size)
        levels = self.quantizer.num_levels if isinstance(self.quantizer, VqConfig) else 1
        return rows * columns * levels

    def build(self, image_size: int) -> "ImageTokenizer":
        """Build with fresh weights for square pictures of this side.

        Raises:
            ConfigError: sizes that do not fit.
        """
        return ImageTokenizer(self, image_size)


class Residual(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, width: int) -> None:
        """Build; the width stays."""
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.rise = nn.Conv2d(width, width, 3, padding=1)
        self.fall = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Add the branch."""
        return x + self.fall(F.gelu(self.rise(self.norm(x))))


class ImageTokenizer(nn.Module):
    """Encoder, quantizer and decoder. Papers: arxiv.org/abs/1711.00937 (VQ-VAE), 2012.09841 (VQGAN), 2309.15505 (FSQ).

    Where we differ from VQGAN: no adversary and no attention, and pixels enter and leave in squares of four, so that a
    CPU can train it. Ids run patch by patch, row-major, the levels of a patch side by side.
    """

    def __init__(self, config: ImageNetConfig, image_size: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.config, self.image_size, self.grid = config, image_size, config.grid(image_size)
        self.quantizer = config.quantizer.build(CODE_WIDTH)
        self.tokens_per_image = config.num_tokens(image_size)
        width, fine = config.width, config.width // 2
        halvings = (config.patch_size // STEM).bit_length() - 1
        down: list[nn.Module] = [nn.Conv2d(3, fine, STEM, stride=STEM), Residual(fine)]
        up: list[nn.Module] = [nn.Conv2d(self.quantizer.width, width, 3, padding=1), Residual(width), Residual(width)]
        here = fine
        for step in range(halvings):
            last = step == halvings - 1
            down += [nn.Conv2d(here, width if last else fine, 4, stride=2, padding=1)]
            here = width if last else fine
        down += [Residual(here), Residual(here), nn.GroupNorm(8, here), nn.Conv2d(here, self.quantizer.width, 1)]
        here = width
        for _ in range(halvings):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(here, fine, 3, padding=1), Residual(fine)]
            here = fine
        up += [nn.GroupNorm(8, here), nn.GELU(), nn.Conv2d(here, 3 * STEM**2, 3, padding=1), nn.PixelShuffle(STEM)]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return self.quantizer.size

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 h w"], Quantised]:
        """Return the pictures painted again, in -1..1, and what the quantizer made of them; codes move in training.

        Raises:
            DataError: pictures of another size than the tokenizer was built for.
        """
        quantised = self.quantizer(self._look(images))
        return self._paint(quantised.vectors), quantised

    @torch.no_grad()
    def encode(self, images: UInt8[Tensor, "n 3 h w"]) -> Int[Tensor, "n t"]:
        """Return the ids of pictures; nothing moves, whatever the mode.

        Raises:
            DataError: pictures of another size than the tokenizer was built for.
            CheckpointError: the codebook has never been trained.
        """
        self._check_ready()
        parts = [self.quantizer.encode(self._look(part)).flatten(1) for part in images.split(AT_ONCE)]
        return torch.cat(parts) if parts else images.new_zeros((0, self.tokens_per_image), dtype=torch.int64)

    @torch.no_grad()
    def decode(self, ids: Int[Tensor, "n t"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the pictures of ids; every sequence of ids in range is one.

        Raises:
            DataError: sequences of another length, or an id that is not in the vocabulary.
            CheckpointError: the codebook has never been trained.
        """
        self._check_ready()
        if ids.shape[1] != self.tokens_per_image:
            found, expected = f"{ids.shape[1]} ids a picture", f"{self.tokens_per_image}"
            raise DataError("image tokens", found, expected, "Cut the sequence where the picture begins and ends.")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if len(outside):
            expected = f"0..{self.vocab_size - 1}"
            raise DataError("image token", str(int(outside[0])), expected, "Subtract the first image id before it.")
        pictures = [self._paint(self._vectors(part)) for part in ids.split(AT_ONCE)]
        if not pictures:
            return torch.zeros((0, 3, self.image_size, self.image_size), dtype=torch.uint8, device=ids.device)
        return to_pixels(torch.cat(pictures)).round().to(torch.uint8)

    def save(self, path: Path) -> None:
        """Write one safetensors file with the config as JSON in its header, whole or not at all."""
        about = {"network": self.config.model_dump(mode="json"), "image_size": self.image_size}
        save_module(path, FORMAT, self, about)

    @classmethod
    def load(cls, path: Path) -> "ImageTokenizer":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or holds something else.
        """
        return load_module(path, FORMAT, _build, "Save it again from the run that trained it.")

    def _look(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        side = self.image_size
        if tuple(images.shape[1:]) != (3, side, side):
            raise DataError(
                "image tokenizer",
                f"pictures of shape {tuple(images.shape[1:])}",
                f"(3, {side}, {side})",
                f"Set the Resize step of the data transform to {side}, or build a tokenizer for the pictures' size.",
            )
        pixels = to_unit(images).to(next(self.parameters()).dtype)
        return self.down(pixels).flatten(2).transpose(1, 2)

    def _paint(self, vectors: Float[Tensor, "n p d"]) -> Float[Tensor, "n 3 h w"]:
        weight = next(self.parameters())
        return self.up(vectors.to(weight.dtype).transpose(1, 2).unflatten(2, self.grid)).float()

    def _vectors(self, ids: Int[Tensor, "n t"]) -> Float[Tensor, "n p d"]:
        return self.quantizer.lookup(ids.unflatten(1, (-1, self.quantizer.num_levels)))

    def _check_ready(self) -> None:
        if not self.quantizer.ready:
            expected = "one that has been trained"
            raise CheckpointError("image tokenizer", "a codebook without codes", expected, "Train it in a stage first.")


def to_unit(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Scale 0..255 to -1..1."""
    return images.float() / 127.5 - 1


def to_pixels(pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Scale -1..1 to 0..255 and clip what lies beyond."""
    return ((pictures + 1) * 127.5).clamp(0, 255)


def _build(about: dict[str, Any]) -> ImageTokenizer:
    network, side = parse(ImageNetConfig, about["network"], "network"), about["image_size"]
    if type(side) is not int or not 0 < side <= 4096:
        raise ValueError(f"image_size {side!r}")
    return network.build(side)
