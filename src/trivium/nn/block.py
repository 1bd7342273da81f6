"""The pre-norm transformer block: self-attention, cross-attention where there is a context, perceptron."""

from jaxtyping import Bool, Float
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
    """Self-attention, optional cross-attention, perceptron; all pre-norm, optionally conditioned (adaLN-Zero)."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        context_width: int | None = None,
        condition_width: int | None = None,
    ) -> None:
        """Build the branches.

        Args:
            width: of the tokens.
            heads: number of heads.
            mlp_ratio: hidden width of the perceptron over `width`.
            context_width: width of the context tokens; None leaves cross-attention out.
            condition_width: width of the condition (such as an embedded flow time); None makes the norms plain.
        """
        super().__init__()
        self.attention = Branch(Attention(width, heads), width, condition_width)
        self.cross = (
            None if context_width is None else Branch(Attention(width, heads, context_width), width, condition_width)
        )
        self.mlp = Branch(Mlp(width, int(width * mlp_ratio)), width, condition_width)

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        *,
        mask: Bool[Tensor, "b #q q"] | None = None,
        context: Float[Tensor, "b x e"] | None = None,
        context_mask: Bool[Tensor, "b #q x"] | None = None,
        condition: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Run the block; with `context` None the cross branch is skipped even where it exists (a prior without one)."""
        x = self.attention(x, condition, None, mask)
        if self.cross is not None and context is not None:
            x = self.cross(x, condition, context, context_mask)
        return self.mlp(x, condition)
