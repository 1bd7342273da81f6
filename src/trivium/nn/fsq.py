"""Finite scalar quantisation: every dimension is rounded by itself to a few levels; nothing is learned."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.quantizer import Quantised, Quantizer, straight_through

MARGIN = 1e-3
"""How far beyond its outermost levels a dimension may reach, as a share: else they would never be rounded to."""
MOST_CODES = 1 << 20


class FsqConfig(Config):
    """A fixed grid of codes: nothing to keep alive, though not all need be used. Paper: arxiv.org/abs/2309.15505."""

    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels of each dimension; their product is the number of codes. The paper's: (8, 6, 5) for 2^8, (8, 5, 5, 5)
    for 2^10, (7, 5, 5, 5, 5) for 2^12; below 5 a dimension, quality falls."""

    def build(self, width: int) -> "Fsq":
        """Build; its width is the number of levels whatever `width` says, which is for codebooks.

        Raises:
            ConfigError: no levels, fewer than 3 in a dimension, or more than a million codes.
        """
        if not self.levels or min(self.levels) < 3 or math.prod(self.levels) > MOST_CODES:
            raise ConfigError(
                "quantizer.levels",
                str(self.levels),
                f"3 or more a dimension, {MOST_CODES:,} codes at most",
                "Use (8, 5, 5, 5), which are 1,000 codes.",
            )
        return Fsq(self.levels)


class Fsq(Quantizer):
    """Bounds every dimension by tanh and rounds it; codes lie in -1..1.

    As the paper's appendix: an even number of levels has no level in the middle, so its grid is moved by half a step
    and the tanh with it, which keeps 0 at 0. (openpi rounds (tanh + 1)(L - 1) / 2 without the move: other codes.)
    """

    levels: Tensor
    basis: Tensor
    num_levels = 1

    def __init__(self, levels: tuple[int, ...]) -> None:
        """Build the grid; the first dimension counts fastest in an id."""
        super().__init__()
        self.width, self.size = len(levels), math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, x: Float[Tensor, "*rest d"]) -> Quantised:
        """Bound and round; the gradient goes through the bound and past the rounding."""
        bounded = self.bound(x.float())
        steps, middle = bounded.round(), self.levels // 2
        vectors = straight_through(bounded / middle, steps / middle).to(x.dtype)
        return Quantised(vectors, self._number(steps), torch.zeros(x.shape[:-1], device=x.device))

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*rest d"]) -> Int[Tensor, "*rest 1"]:
        """Return the ids alone."""
        return self._number(self.bound(x.float()).round())

    def lookup(self, ids: Int[Tensor, "*rest 1"]) -> Float[Tensor, "*rest d"]:
        """Return the codes of ids; an id of -1 is the middle."""
        middle = self.levels // 2
        return torch.where(ids < 0, 0.0, (ids // self.basis % self.levels - middle) / middle)

    def _number(self, steps: Float[Tensor, "*rest d"]) -> Int[Tensor, "*rest 1"]:
        return ((steps.long() + self.levels // 2) * self.basis).sum(-1, keepdim=True)

    def bound(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        """Squeeze numbers between the outermost levels, in steps from the middle one."""
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset
