"""Who may see whom inside a pack."""

from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(documents: Int[Tensor, "b t"], positions: Int[Tensor, "b t"]) -> Bool[Tensor, "b t t"]:
    """Return the block-diagonal causal mask: True where key is of the query's document and not later than it.

    Tokens that share a number see each other both ways, so numbers of blocks make a prefix mask of it (pi0,
    https://arxiv.org/abs/2410.24164).
    Padding (document -1) sees padding, itself at least, so no row of the mask is empty and softmax stays finite.
    """
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return same & (positions.unsqueeze(2) >= positions.unsqueeze(1))
