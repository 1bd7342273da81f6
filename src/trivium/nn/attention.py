"""Multi-head attention: over the tokens themselves, or over a context."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

_PLAIN_KEYS = 1024


def attend(
    query: Float[Tensor, "b heads q e"],
    key: Float[Tensor, "b groups x e"],
    value: Float[Tensor, "b groups x e"],
    mask: Float[Tensor, "b 1 #q x"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads q e"]:
    """Attend with heads in groups that share keys and values; `mask` is added to the scores, `scale` is 1/sqrt(e).

    torch's fused kernel, except for bfloat16 on a CPU: there two plain matrix products and a softmax are faster
    forward and backward, 5 times at 65 tokens, 2 at 280, 1.25 at 1024, and no longer worth their memory beyond.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or key.shape[2] > _PLAIN_KEYS:
        # Repeated by hand: with a mask, `enable_gqa` falls back to torch's slowest kernel.
        times = query.shape[1] // key.shape[1]
        key, value = (part if times == 1 else part.repeat_interleave(times, dim=1) for part in (key, value))
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    # The heads of a group stack along the queries: one product for all of them, and keys are never repeated.
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = (grouped.flatten(2, 3) * factor) @ key.transpose(-2, -1)
    if mask is not None:
        scores = (scores.unflatten(2, grouped.shape[2:4]) + mask.unsqueeze(2)).flatten(2, 3)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return (weights @ value).unflatten(2, grouped.shape[2:4]).flatten(1, 2)


Chunks = list[list[tuple[int, int]]]
"""By row of a batch, the stretches that hold whole documents; what lies in none is padding."""


def attend_in_chunks(
    query: Float[Tensor, "b heads t e"],
    key: Float[Tensor, "b groups t e"],
    value: Float[Tensor, "b groups t e"],
    mask: Float[Tensor, "b 1 t t"],
    chunks: Chunks,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads t e"]:
    """Attend inside each chunk alone: what the mask hides between documents is not computed, padding gets zeros.

    At 2,048 tokens a row a document sees a fifth of its row, and dense attention would eat up what packing gains.
    """
    rows = []
    for row, spans in enumerate(chunks):
        parts, reached = [], 0
        for begin, end in spans:
            here, inside = slice(row, row + 1), slice(begin, end)
            seen = mask[here if len(mask) > 1 else slice(0, 1), :, inside, inside]
            q, k, v = (part[here, :, inside] for part in (query, key, value))
            parts.append(attend(q, k, v, seen, scale, dropout))
            assert begin == reached, "chunks lie side by side from the first token on"
            reached = end
        left = query.shape[2] - reached
        parts += [query.new_zeros(1, query.shape[1], left, value.shape[-1])] if left else []
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def additive(seen: Bool[Tensor, "*rest"], dtype: torch.dtype) -> Float[Tensor, "*rest"]:
    """Turn a mask of what may be seen into what is added to the scores: 0, or the lowest finite number."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)


class Attention(nn.Module):
    """Multi-head attention; keys and values come from the context where one is given, else from the tokens."""

    def __init__(
        self, width: int, heads: int, context_width: int | None = None, groups: int | None = None, bias: bool = True
    ) -> None:
        """Build the projections.

        Args:
            width: of the tokens that ask; must be a multiple of `heads`.
            heads: number of heads.
            context_width: of the tokens that answer; None builds self-attention.
            groups: heads of keys and values, a divisor of `heads`; each serves a group of heads. None is one a head.
            bias: whether the projections have one.
        """
        super().__init__()
        assert width % heads == 0, f"attention width {width} is not a multiple of {heads} heads"
        groups = heads if groups is None else groups
        assert heads % groups == 0, f"{heads} heads are not a multiple of {groups} groups"
        self.head_width = width // heads
        self.query = nn.Linear(width, width, bias)
        answering = width if context_width is None else context_width
        self.key_value = nn.Linear(answering, 2 * groups * self.head_width, bias)
        self.out = nn.Linear(width, width, bias)

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
            return self.out(attend(query, key, value).transpose(1, 2).flatten(2))
        # The mask is finite, so a row that hides everything is a mean over all keys, not NaN; it is zeroed afterwards.
        answer = attend(query, key, value, additive(mask.unsqueeze(1), query.dtype))
        seen = mask.any(-1, keepdim=True)
        return self.out((answer * seen.unsqueeze(1)).transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b heads q e"]:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
