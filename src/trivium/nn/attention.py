"""Multi-head attention on torch's fused kernel: over the tokens themselves, or over a context."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention; keys and values come from the context where one is given, else from the tokens."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        """Build the projections.

        Args:
            width: of the tokens that ask; must be a multiple of `heads`.
            heads: number of heads.
            context_width: of the tokens that answer; None builds self-attention.
        """
        super().__init__()
        assert width % heads == 0, f"attention width {width} is not a multiple of {heads} heads"
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width if context_width is None else context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        context: Float[Tensor, "b x c"] | None = None,
        mask: Bool[Tensor, "b #q x"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Attend; `mask` is True where a key may be seen.

        A query that may see no key at all gets a zero answer (plus the output bias), not NaN.
        """
        source = x if context is None else context
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, dim=-1))
        if mask is None:
            answer = F.scaled_dot_product_attention(query, key, value)
            return self.out(answer.transpose(1, 2).flatten(2))
        # A row of -inf makes softmax NaN, forward and backward; opening the first key there and zeroing the answer
        # keeps both finite.
        seen = mask.any(-1, keepdim=True)
        opened = mask.clone()
        opened[..., 0] |= ~seen[..., 0]
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=opened.unsqueeze(1))
        return self.out((answer * seen.unsqueeze(1)).transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b heads q e"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
