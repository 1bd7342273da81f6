"""Band-limited action chunks: sums of a few slow waves, as arms move."""

import math

import numpy as np


def waves(count: int, horizon: int, dim: int, rate_hz: int = 10, seed: int = 0) -> np.ndarray:
    """Make chunks of motion below 2 Hz within -1..1."""
    rng, time = np.random.default_rng(seed), np.arange(horizon)[:, None, None] / rate_hz
    shape = (count, 1, 6, dim)
    frequency, phase = rng.uniform(0, 2, shape), rng.uniform(0, 2 * math.pi, shape)
    moves = rng.normal(0, 0.25, shape) * np.sin(2 * math.pi * frequency * time + phase)
    return moves.sum(2).clip(-1, 1).astype(np.float32)
