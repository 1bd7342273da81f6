"""What every quantizer offers: vectors as whole numbers, a gradient past the rounding, and how codes are used."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantised(NamedTuple):
    """Vectors after rounding."""

    vectors: Float[Tensor, "*rest d"]
    """What `lookup` makes of `ids`, to the bit, in the type that came in; their gradient goes to the vectors that came
    in, unchanged."""
    ids: Int[Tensor, "*rest q"]
    commitment: Float[Tensor, "*rest"]
    """How far each vector that came in lies from its code (mean square over dimensions, sum over levels), in float32;
    its gradient draws the vectors to their codes. 0 where codes do not move."""


class Quantizer(nn.Module, ABC):
    """Vectors of `width` numbers as `num_levels` ids each, every id in 0..`size` - 1."""

    width: int
    size: int
    num_levels: int

    @property
    def ready(self) -> bool:
        """Whether there are codes: a codebook has none before its first batch."""
        return True

    @abstractmethod
    def forward(self, x: Float[Tensor, "*rest d"]) -> Quantised:
        """Round vectors; in training mode the codes may move after them."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*rest d"]) -> Int[Tensor, "*rest q"]:
        """Return the ids alone; nothing moves, whatever the mode."""

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "*rest q"]) -> Float[Tensor, "*rest d"]:
        """Return the vectors of ids, in float32; an id of -1 adds nothing (a coarser vector)."""


def straight_through(x: Float[Tensor, "*rest d"], rounded: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
    """Return `rounded`, bit for bit, with the gradient of `x`.

    Not x + (rounded - x), the usual form: in bfloat16 that is another number than the code.
    """
    return rounded.detach().to(x.dtype) + (x - x.detach())


class Usage(NamedTuple):
    """How well the codes are used."""

    perplexity: float
    """exp of the entropy of the ids: how many codes do the work, 1..size."""
    dead: float
    """Share of codes that no vector has."""


def usage(ids: Int[Tensor, "*rest"], size: int) -> Usage:
    """Measure the use of `size` codes over many ids of one level."""
    counts = torch.bincount(ids.flatten(), minlength=size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return Usage(float(entropy.exp()), float((counts == 0).double().mean()))
