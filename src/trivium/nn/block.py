"""Residual branches, conditioned or not, and the pre-norm transformer block made of two of them."""

from jaxtyping import Float
from torch import Tensor, nn

from trivium.nn.attention import Attention
from trivium.nn.mlp import Mlp
from trivium.nn.norm import AdaptiveNorm


class Branch(nn.Module):
    """One residual branch: x + gate * f(norm(x)); without a condition the norm is plain and the gate is 1."""

    def __init__(self, inner: nn.Module, width: int, condition_width: int | None) -> None:
        """Wrap `inner`; a condition width makes the norm adaptive."""
        super().__init__()
        adaptive = condition_width is not None
        self.norm = AdaptiveNorm(width, condition_width) if adaptive else nn.LayerNorm(width, eps=1e-6)
        self.inner = inner

    def forward(
        self, x: Float[Tensor, "b q d"], condition: Float[Tensor, "b c"] | None, *args: Tensor | None
    ) -> Float[Tensor, "b q d"]:
        """Add the branch; `args` are passed on to the inner module."""
        if condition is None:
            return x + self.inner(self.norm(x), *args)
        normed, gate = self.norm(x, condition)
        return x + gate * self.inner(normed, *args)


class Block(nn.Module):
    """Self-attention over all tokens, then the perceptron: the block of a ViT."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        """Build the branches; `mlp_ratio` is the hidden width of the perceptron over `width`."""
        super().__init__()
        self.attention = Branch(Attention(width, heads), width, None)
        self.mlp = Branch(Mlp(width, int(width * mlp_ratio)), width, None)

    def forward(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        """Run the block."""
        return self.mlp(self.attention(x, None), None)
