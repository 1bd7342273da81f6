"""Statistics of columns and pictures as LeRobot keeps them: by episode and over the whole set."""

from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def column_stats(values: Shaped[np.ndarray, "n d"]) -> dict[str, list[Any]]:
    """Return min, max, mean, std, count and quantiles by dimension, exact over the rows."""
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    stats = {"min": values.min(0), "max": values.max(0)}
    stats |= {"mean": values.mean(0, dtype=np.float64), "std": values.std(0, dtype=np.float64)}
    stats |= {"count": np.array([len(values)])} | dict(zip(QUANTILES, quantiles.astype(np.float64), strict=True))
    return {name: value.tolist() for name, value in stats.items()}


def histogram(frames: UInt8[np.ndarray, "n h w 3"]) -> Int[np.ndarray, "4 256"]:
    """Count pixel values by channel in up to 63 frames (counts join exactly, quantiles do not); row 3 is the frames."""
    some = frames[:: max(1, len(frames) // 32)]
    counts = np.stack([np.bincount(some[..., channel].reshape(-1), minlength=256) for channel in range(3)])
    return np.concatenate([counts, np.full((1, 256), len(some))])


def picture_stats(counted: Int[np.ndarray, "4 256"]) -> dict[str, list[Any]]:
    """Return statistics by channel in the shape [3][1][1], pixels as 0..1, as LeRobot writes them."""
    counts, num_frames = counted[:3].astype(np.float64), int(counted[3, 0])
    levels = np.arange(256) / 255
    share = counts.cumsum(1) / counts.sum(1, keepdims=True)
    mean = (counts * levels).sum(1) / counts.sum(1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    seen = [np.flatnonzero(row) for row in counts]
    values = {"min": [levels[row[0]] for row in seen], "max": [levels[row[-1]] for row in seen]}
    values |= {"mean": mean, "std": np.sqrt(variance), "count": None}
    values |= {name: levels[(share < at).sum(1)] for name, at in QUANTILES.items()}
    return {
        name: [num_frames] if value is None else [[[float(channel)]] for channel in value]
        for name, value in values.items()
    }
