"""Our own small ViT: no download, no class token, fixed positions."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.block import Block
from trivium.nn.position import sincos_2d
from trivium.vision.encoder import PatchEncoder, cut, normalise


class VitConfig(Config):
    """A ViT that starts from random weights."""

    kind: Literal["vit"] = "vit"
    image_size: int = 112
    """Side of the square pictures in pixels; a multiple of `patch_size`. Cost grows with its square."""
    patch_size: int = 14
    """Side of a patch in pixels; 8..16 is usual. Smaller sees finer and costs more."""
    width: int = 192
    """Length of a patch vector; a multiple of `heads` and of 4."""
    depth: int = 6
    """Number of transformer blocks."""
    heads: int = 3
    """Attention heads; `width / heads` of 64 is usual."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a picture skips the last block in training, less in earlier ones; 0 to 0.3. A frozen encoder never
    skips. Too high: the loss falls slowly and never as far."""

    def grid(self) -> tuple[int, int]:
        """Return rows and columns of patches, without building.

        Raises:
            ConfigError: sizes that do not divide.
        """
        self._check()
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    def build(self) -> "Vit":
        """Build the encoder.

        Raises:
            ConfigError: sizes that do not divide.
        """
        self._check()
        return Vit(self)

    def _check(self) -> None:
        for name, value, divisor, by in (
            ("image_size", self.image_size, self.patch_size, "patch_size"),
            ("width", self.width, self.heads, "heads"),
            ("width", self.width, 4, "sin-cos positions"),
        ):
            if value % divisor:
                raise ConfigError(
                    f"vision.{name}", str(value), f"a multiple of {divisor} ({by})", f"Change {name} or {by}."
                )


class Vit(PatchEncoder):
    """Pre-norm ViT with fixed sine-cosine positions, initialised as MAE's (xavier). Paper: arxiv.org/abs/2010.11929.

    No class token: the patches are what a connector eats, and their mean is what a probe or CLIP reads.
    """

    positions: Tensor

    def __init__(self, config: VitConfig) -> None:
        """Build with random weights."""
        super().__init__()
        side = config.image_size // config.patch_size
        self.width, self.grid, self.image_size = config.width, (side, side), config.image_size
        self.patch_size, self.drop_path = config.patch_size, config.drop_path
        self.patch = nn.Linear(3 * config.patch_size**2, config.width)
        self.register_buffer("positions", sincos_2d(config.width, self.grid), persistent=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.apply(_init)

    def embed(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Project patches and add positions."""
        self.check(images)
        patches = cut(normalise(images).to(self.patch.weight.dtype), self.patch_size)
        return self.patch(patches.flatten(2)) + self.positions

    def encode(self, tokens: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """Run the blocks and the last norm."""
        return self.norm(self.through(tokens))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        torch.nn.init.xavier_uniform_(module.weight)
        torch.nn.init.zeros_(module.bias)
