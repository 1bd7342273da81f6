"""The perceptrons of a transformer block: plain, and gated."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; keeps the width unless `width_out` says otherwise."""

    def __init__(self, width: int, hidden: int, width_out: int | None = None) -> None:
        """Build the layers; `hidden` is usually 4 * `width`."""
        super().__init__()
        self.rise = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fall = nn.Linear(hidden, width if width_out is None else width_out)

    def forward(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest e"]:
        """Map every vector by itself."""
        return self.fall(self.act(self.rise(x)))


class GatedMlp(nn.Module):
    """SwiGLU without biases, as in Llama. Paper: https://arxiv.org/abs/2002.05202."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build the layers; at equal size `hidden` is two thirds of a plain perceptron's."""
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.rise = nn.Linear(width, hidden, bias=False)
        self.fall = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        """Map every vector by itself."""
        return self.fall(F.silu(self.gate(x)) * self.rise(x))
