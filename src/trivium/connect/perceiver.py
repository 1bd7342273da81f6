"""Perceiver resampler: learned latents ask the patches, and a picture of any size becomes so many vectors."""

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trivium.connect.connector import Connector, ResamplerConfig
from trivium.nn.attention import Attention
from trivium.nn.mlp import GatedMlp

EPS = 1e-6
"""Of all norms, Idefics2's."""
MLP_RATIO = 4
"""Hidden width of a gated perceptron over its width, Idefics2's."""


class PerceiverConfig(ResamplerConfig):
    """Learned latents that attend to the patches; a picture costs `latents` tokens, whatever its grid."""

    kind: Literal["perceiver"] = "perceiver"

    def fresh(self, width_in: int, grid: tuple[int, int], width_out: int, num_layers: int) -> "Perceiver":
        """Build between an encoder and a language model; grid and number of layers do not matter here.

        Raises:
            ConfigError: heads that do not divide.
        """
        self.check(width_out)
        return Perceiver(width_in, width_out, self.latents, self.depth, self.heads, self.groups)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Return what one picture becomes."""
        return self.latents


class Perceiver(Connector):
    """Latents attend to patches and to one another, `depth` times. Papers: arxiv.org/abs/2204.14198, 2405.02246.

    The blocks are those of Idefics2 (RMS norms, grouped keys, SwiGLU), so that its weights fit. Where we differ: the
    patches reach the language model's width by one linear map, there by a SwiGLU. No time embeddings: a row's pictures
    are resampled one by one.
    """

    token_grid = None

    def __init__(self, width_in: int, width: int, latents: int, depth: int, heads: int, groups: int) -> None:
        """Build; everything behind the first linear map has the language model's width."""
        super().__init__()
        self.num_tokens = latents
        self.rise = nn.Linear(width_in, width)
        self.latent_tokens = nn.Parameter(torch.randn(latents, width))
        self.blocks = nn.ModuleList(PerceiverBlock(width, heads, groups) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=EPS)

    def forward(
        self, patches: Float[Tensor, "n p d"], mask: Bool[Tensor, "n p"] | None = None
    ) -> Float[Tensor, "n q e"]:
        """Return the latents of each picture; `mask` is True where a patch may be seen (everywhere, if not given)."""
        context = self.rise(patches)
        latents = self.latent_tokens.expand(len(patches), -1, -1)
        if mask is not None:
            # Latents see one another always, so that no picture is left without a key.
            mask = torch.cat([mask, mask.new_ones(len(mask), self.num_tokens)], 1).unsqueeze(1)
        for block in self.blocks:
            latents = cast(PerceiverBlock, block)(latents, context, mask)
        return self.norm(latents)


class PerceiverBlock(nn.Module):
    """One round: attention to patches and latents, then the perceptron, each added to the latents."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        """Build the two branches."""
        super().__init__()
        self.latent_norm, self.context_norm = nn.RMSNorm(width, eps=EPS), nn.RMSNorm(width, eps=EPS)
        self.attention = Attention(width, heads, width, groups, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=EPS)
        self.mlp = GatedMlp(width, MLP_RATIO * width)

    def forward(
        self,
        latents: Float[Tensor, "n q d"],
        context: Float[Tensor, "n p d"],
        mask: Bool[Tensor, "n 1 x"] | None,
    ) -> Float[Tensor, "n q d"]:
        """Run the block; `mask` covers the patches and behind them the latents."""
        asking = self.latent_norm(latents)
        seen = torch.cat([self.context_norm(context), asking], 1)
        latents = latents + self.attention(asking, seen, mask)
        return latents + self.mlp(self.mlp_norm(latents))
