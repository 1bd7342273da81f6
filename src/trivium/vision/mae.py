"""Masked autoencoding: see a quarter of the patches, paint the rest; of pictures or of clips."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.block import Block
from trivium.nn.position import sincos_2d
from trivium.vision.encoder import Encoder, PatchEncoder, cut, normalise


class MaeConfig(Config):
    """The decoder that paints, and how much is hidden from the encoder."""

    mask_ratio: float = 0.75
    """Share of patches hidden, 0..1; 0.75 is the paper's. Low makes the task copying, high makes it guessing."""
    width: int = 128
    """Length of a decoder vector; a multiple of 4 and of `heads`. The paper has 512 for a ViT-L."""
    depth: int = 2
    """Decoder blocks; 8 in the paper, 1-2 do for features that are read by a probe or a policy."""
    heads: int = 4
    """Attention heads of the decoder."""

    def build(self, encoder: Encoder, steps: int = 1, tubelet: int = 1) -> "MaeDecoder":
        """Build the decoder for an encoder (which stays where it is).

        Args:
            encoder: what it paints from.
            steps: moments of a clip; 1 for a picture.
            tubelet: frames in a moment, all of them painted.

        Raises:
            ConfigError: an encoder that cannot leave patches out, sizes that do not divide, or a ratio that hides
                nothing or everything.
        """
        if not isinstance(encoder, PatchEncoder):
            raise ConfigError(
                "objective.mae",
                f"a weight for MAE beside the encoder {type(encoder).__name__}, which needs whole pictures",
                "an encoder that can leave patches out",
                "Set mae=0.0, or choose a ViT for model.vision (not a ResNet, not DINOv3).",
            )
        if self.width % 4 or self.width % self.heads:
            raise ConfigError(
                "mae.width", str(self.width), f"a multiple of 4 and of heads ({self.heads})", "Change mae.width."
            )
        if not 1 <= num_kept(encoder.num_patches, self.mask_ratio) < encoder.num_patches:
            raise ConfigError(
                "mae.mask_ratio",
                f"{self.mask_ratio} of {encoder.num_patches} patches",
                "a share that hides some patches and leaves some",
                "Use 0.75.",
            )
        return MaeDecoder(self, encoder, steps, tubelet)


class MaeDecoder(nn.Module):
    """The light half of MAE; works with any `PatchEncoder`. Paper: https://arxiv.org/abs/2111.06377.

    A clip is hidden in tubes: the same patches in all its frames, or a patch that stands still could be copied from
    the frame before (VideoMAE, https://arxiv.org/abs/2203.12602). The decoder sees all moments of a clip at once.

    Where we differ: an encoder's class token does not reach the decoder, because `PatchEncoder` keeps it to itself.
    A patch of several frames is normalised over its frames and colours together, where VideoMAE has each colour apart.
    """

    positions: Tensor

    def __init__(self, config: MaeConfig, encoder: PatchEncoder, steps: int = 1, tubelet: int = 1) -> None:
        """Build with random weights."""
        super().__init__()
        self.mask_ratio = config.mask_ratio
        self.steps, self.tubelet = steps, tubelet
        self.patch_size = encoder.patch_size
        self.enter = nn.Linear(encoder.width, config.width)
        self.hidden = nn.Parameter(torch.randn(config.width) * 0.02)
        self.register_buffer("positions", _places(config.width, encoder.grid, steps), persistent=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.paint = nn.Linear(config.width, 3 * tubelet * self.patch_size**2)

    def forward(
        self,
        encode: Callable[[Float[Tensor, "m q d"]], Float[Tensor, "m q d"]],
        images: UInt8[Tensor, "n 3 h w"],
        tokens: Float[Tensor, "m p d"],
        noise: Float[Tensor, "c p"],
    ) -> tuple[Float[Tensor, "m p"], Bool[Tensor, "m p"]]:
        """Hide patches, encode the others, paint all.

        Args:
            encode: the layers of the encoder that learns.
            images: what is to be painted: all frames of a clip, then all of the next.
            tokens: the embedded patches of every moment, handed in so that they are computed once for several losses.
            noise: random numbers, one row a clip; the patches with the least stay visible at all its moments.

        Returns:
            The squared error of every patch and the mask of hidden ones, on which alone the loss is taken.
        """
        kept, restore, hidden = draw_mask(noise, num_kept(tokens.shape[1], self.mask_ratio))
        if self.steps > 1:
            kept, restore, hidden = (part.repeat_interleave(self.steps, 0) for part in (kept, restore, hidden))
        painted = self.decode(encode(pick(tokens, kept)), restore)
        return patch_errors(painted, patch_targets(images, self.patch_size, self.tubelet)), hidden

    def decode(self, seen: Float[Tensor, "m q d"], restore: Int[Tensor, "m p"]) -> Float[Tensor, "m p e"]:
        """Put hidden tokens in the gaps, patches back in their places, and predict pixels."""
        seen = self.enter(seen)
        gaps = self.hidden.expand(len(seen), restore.shape[1] - seen.shape[1], -1)
        x = pick(torch.cat([seen, gaps], dim=1), restore)
        x = x.unflatten(0, (-1, self.steps)).flatten(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x)).unflatten(1, (self.steps, -1)).flatten(0, 1)


def _places(width: int, grid: tuple[int, int], steps: int) -> Float[Tensor, "q d"]:
    """Return the embeddings of place, and of time where there is more than one moment, moment by moment."""
    places = sincos_2d(width, grid)
    if steps == 1:
        return places
    times = sincos_2d(width, (1, steps))
    return (times[:, None] + places).flatten(0, 1)


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """Return how many patches stay visible, rounded down as the MAE code does."""
    return int(num_patches * (1 - mask_ratio))


def draw_mask(
    noise: Float[Tensor, "n p"], num_visible: int
) -> tuple[Int[Tensor, "n q"], Int[Tensor, "n p"], Bool[Tensor, "n p"]]:
    """Return, for each picture by itself, the kept patches (least noise), the inverse order, and the hidden mask."""
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return order[:, :num_visible], restore, restore >= num_visible


def pick(tokens: Float[Tensor, "n p d"], places: Int[Tensor, "n q"]) -> Float[Tensor, "n q d"]:
    """Take tokens by place, for each picture its own."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def patch_targets(images: UInt8[Tensor, "n 3 h w"], size: int, tubelet: int = 1) -> Float[Tensor, "m p e"]:
    """Return what is to be painted: pixels of each patch (frame, row, column, channel), normalised patch by patch."""
    patches = cut(normalise(images), size).permute(0, 1, 3, 4, 2).flatten(2)
    if tubelet > 1:
        patches = patches.unflatten(0, (-1, tubelet)).transpose(1, 2).flatten(2)
    # The unbiased variance is the paper's code's; with the biased one every loss is a little off.
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=1)
    return (patches - mean) / (variance + 1e-6).sqrt()


def patch_errors(predicted: Float[Tensor, "n p e"], target: Float[Tensor, "n p e"]) -> Float[Tensor, "n p"]:
    """Return the mean squared error of each patch, in float32."""
    return (predicted.float() - target).square().mean(dim=-1)
