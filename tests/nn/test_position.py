import math

import torch
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from trivium.nn.position import embed_time, sincos_2d


def test_sincos_equals_vit_mae_with_its_halves_swapped():
    # transformers puts the row first; the MAE code (and we) the column.
    row, column = build_2d_sinusoidal_position_embedding(3, 5, 32).chunk(2, dim=1)
    torch.testing.assert_close(sincos_2d(32, (3, 5)), torch.cat([column, row], dim=1), atol=1e-6, rtol=0)


def test_time_embedding_has_the_asked_periods():
    width = 8
    periods = 4e-3 * 1000 ** (torch.arange(4) / 3)
    time = torch.tensor([0.0, 0.25, 0.9])
    found = embed_time(time, width)
    expected = [[f(2 * math.pi * t / p) for f in (math.sin, math.cos) for p in periods.tolist()] for t in time.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=0)


def test_time_embedding_is_float32_whatever_comes_in():
    assert embed_time(torch.tensor([0.5], dtype=torch.bfloat16), 8).dtype == torch.float32
