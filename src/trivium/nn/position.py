"""Fixed embeddings of place and time, always computed in float32 (bfloat16 cannot hold an integer above 256)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sincos_2d(width: int, grid: tuple[int, int]) -> Float[Tensor, "p d"]:
    """Return sine-cosine embeddings of a grid of patches, row-major, as MAE lays them out.

    The first half of the width encodes the COLUMN and the second the row, each as [sin, cos]: the order of the MAE
    code (its meshgrid puts w first); transformers has the halves the other way round. Paper: https://arxiv.org/abs/2111.06377.
    """
    assert width % 4 == 0, f"sin-cos width {width} is not a multiple of 4"
    rows, columns = grid
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    parts = [wave(place[:, None] * frequency) for place in (column, row) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()


def embed_time(
    time: Float[Tensor, " m"], width: int, min_period: float = 4e-3, max_period: float = 4.0
) -> Float[Tensor, "m d"]:
    """Return sine-cosine features of a flow time in 0..1, periods spaced geometrically (pi0's range by default).

    Paper: https://arxiv.org/abs/2410.24164. float32 whatever the input: at bfloat16 the shortest period is noise.
    """
    assert width % 2 == 0, f"time embedding width {width} is odd"
    fraction = torch.linspace(0.0, 1.0, width // 2, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = 2 * math.pi * time.float()[:, None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=1)
