"""Layer norm whose scale, shift and gate come from a condition."""

from jaxtyping import Float
from torch import Tensor, nn


class AdaptiveNorm(nn.Module):
    """Normalise, then scale and shift by a condition, and hand out a gate for the branch that follows (adaLN-Zero).

    The linear map starts at zero, so a new block is the identity and a flow expert starts from the plain residual
    stream. Paper: https://arxiv.org/abs/2212.09748. pi0.5 does the same on an RMS norm (adaRMS); we keep the mean
    subtraction because torch has a fused layer norm on every device and a fused RMS norm only on some.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        """Build the norm and the map from condition to (scale, shift, gate)."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulate = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, x: Float[Tensor, "b q d"], condition: Float[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b 1 d"]]:
        """Return the normalised tokens and the gate, one condition for all tokens of a row."""
        scale, shift, gate = self.modulate(condition).unsqueeze(1).chunk(3, dim=-1)
        return self.norm(x) * (1 + scale) + shift, gate
