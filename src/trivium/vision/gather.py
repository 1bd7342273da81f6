"""Rows of all ranks, seen by each of them; their gradients go home."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from trivium.train import parallel


def gather(rows: Shaped[Tensor, "n d"], filler: float = 0.0) -> tuple[Shaped[Tensor, "m e"], int]:
    """Return the rows of all ranks in their order, and the place of this rank's first row among them.

    Ranks may have different numbers of rows; rows of different lengths are filled up at their ends with `filler`.
    Backwards every rank gets the SUM of what all ranks say about its rows. A rank that takes the losses of its own
    rows alone, divided by the global count as everywhere in the house, then leaves exactly its part of the gradient
    of the whole: `parallel.sum_gradients` adds the parts up and needs no factor for the number of ranks.
    """
    if parallel.world_size() == 1:
        return rows, 0
    shapes = [torch.zeros(2, dtype=torch.int64, device=rows.device) for _ in range(parallel.world_size())]
    dist.all_gather(shapes, torch.tensor(rows.shape, device=rows.device))
    heights, widths = zip(*(shape.tolist() for shape in shapes), strict=True)
    padding = (0, max(widths) - rows.shape[1], 0, max(heights) - rows.shape[0])
    everyone = _Gather.apply(F.pad(rows, padding, value=filler))
    assert isinstance(everyone, Tensor), "autograd changed a tensor into something else"
    kept = [part[:height] for part, height in zip(everyone.unbind(0), heights, strict=True)]
    return torch.cat(kept), sum(heights[: parallel.rank()])


class _Gather(torch.autograd.Function):
    """`all_gather` with a gradient: equal shapes in, one of them a rank out."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(parallel.world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[parallel.rank()]
