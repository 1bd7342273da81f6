"""Behaviour cloning: one chunk for one context, by L1 or squared error."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trivium.action.density import OneAnswer
from trivium.action.expert import Expert, ExpertConfig
from trivium.action.model import Context, kept, shorter


class RegressConfig(ExpertConfig):
    """Behaviour cloning: all steps of the chunk at once, by regression (the L1 head of OpenVLA-OFT, for one)."""

    kind: Literal["regress"] = "regress"
    error: Literal["l1", "l2"] = "l1"
    """What is taken of the difference. "l1" gives the median and, of two ways round an obstacle, one; "l2" (squared)
    gives the mean, which of two ways is neither."""

    def build(self, action_dim: int, state_dim: int, context_width: int) -> "Regress":
        """Build the network for these dimensions; `context_width` is that of the tokens it will look at.

        Raises:
            ConfigError: the width does not divide into even heads, or a size is not positive.
        """
        self.check()
        return Regress(self, action_dim, state_dim, context_width)


class Regress(OneAnswer):
    """Answers with the one chunk that errs least; it cannot say that there are two.

    The mean is over valid steps: dividing by all of them, as ACT's own code does, makes the end of an episode count
    less the more of it is padding. Papers: https://arxiv.org/abs/2304.13705 (chunks), https://arxiv.org/abs/2502.19645
    (L1 head of a VLA).
    """

    error_name = "regress"

    def __init__(self, config: RegressConfig, action_dim: int, state_dim: int, context_width: int) -> None:
        """Build the network; see `RegressConfig`."""
        super().__init__(config.horizon, action_dim, state_dim)
        self.squared = config.error == "l2"
        self.expert = Expert(config, action_dim, state_dim, context_width, denoises=False)

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the error of every element.

        Raises:
            ConfigError: the chunks have another horizon or dimension than the head.
        """
        difference = shorter(self.expert(self.expert.look(context)) - self.clean(actions, valid), context)
        error = difference.square() if self.squared else difference.abs()
        return torch.where(valid[..., None], error, 0.0)

    def answer(self, context: Context) -> Float[Tensor, "m k a"]:
        """Return the chunks."""
        return kept(self.expert(self.expert.look(context)), context)
