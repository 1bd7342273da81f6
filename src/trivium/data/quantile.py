"""Exact quantiles of float32 columns in bounded memory: two passes of counting, no sorting and no sketch."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, UInt32

HALF = 16
"""Bits counted in each pass: 65,536 counters a dimension."""
LOW = (1 << HALF) - 1

Rows = Callable[[], Iterator[Float32[np.ndarray, "_ d"]]]
"""Begins a pass over the same rows, block by block."""


def quantiles(rows: Rows, wanted: Sequence[float]) -> Float[np.ndarray, "q d"]:
    """Return quantiles by dimension, to the bit what `numpy.quantile` says of all rows at once as float64.

    A float32 is 32 bits whose order can be made that of integers. The first pass counts the upper 16 bits, and so finds
    the few bins that hold the wanted ranks; the second counts the lower 16 bits within those. Sketches need one pass
    but draw lots: the same data gave other numbers each time, and a run resumed would train on another scale.

    Args:
        rows: gives at least one row.
        wanted: shares, from 0 to 1.
    """
    upper = _count_upper(rows)
    total = int(upper[0].sum())
    place = (total - 1) * np.asarray(wanted, np.float64)
    low = np.floor(place).astype(np.int64)
    ranks = np.stack([low, np.minimum(low + 1, total - 1)])
    ordered = _at_ranks(rows, upper, ranks.reshape(-1)).reshape(2, len(wanted), -1)
    before, after = ordered.astype(np.float64)
    share = (place - low)[:, None]
    # NumPy's own two formulas: from below where that is nearer, from above otherwise.
    step = after - before
    return np.where(share >= 0.5, after - step * (1 - share), before + step * share)


def _count_upper(rows: Rows) -> Int[np.ndarray, "d bins"]:
    counts: np.ndarray | None = None
    for block in rows():
        keys = _keys(block) >> HALF
        found = np.stack([np.bincount(column, minlength=1 << HALF) for column in keys.T])
        counts = found if counts is None else counts + found
    assert counts is not None, "no rows"
    return counts


def _at_ranks(rows: Rows, upper: Int[np.ndarray, "d bins"], ranks: Int[np.ndarray, " r"]) -> Float32[np.ndarray, "r d"]:
    """Return the values at ranks (0 is the smallest), by dimension."""
    ends = upper.cumsum(1)
    bins = np.stack([np.searchsorted(end, ranks, side="right") for end in ends])
    lower = {(d, b): np.zeros(1 << HALF, np.int64) for d, row in enumerate(bins) for b in set(row.tolist())}
    for block in rows():
        keys = _keys(block)
        high = (keys >> HALF).T
        for (d, b), counts in lower.items():
            counts += np.bincount(keys[high[d] == b, d] & LOW, minlength=1 << HALF)
    ends_in = {place: counts.cumsum() for place, counts in lower.items()}
    out = np.zeros((len(ranks), len(upper)), np.uint32)
    for d, row in enumerate(bins):
        for r, b in enumerate(row.tolist()):
            rest = ranks[r] - (ends[d, b] - upper[d, b])
            out[r, d] = (b << HALF) | int(np.searchsorted(ends_in[d, b], rest, side="right"))
    return _values(out)


def _keys(values: Float32[np.ndarray, "n d"]) -> UInt32[np.ndarray, "n d"]:
    """Return integers in the order of the numbers: negative ones have all bits turned over, others the first."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _values(keys: UInt32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Undo `_keys`."""
    return (keys ^ np.where(keys >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))).view(np.float32)
