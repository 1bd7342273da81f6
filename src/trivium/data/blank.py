"""A picture of a certain shape that nothing was decoded for: what counting and planning look at."""

import numpy as np
from jaxtyping import UInt8


def blank(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture that takes one byte of memory: every stride is zero."""
    return np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3))


def is_blank(pixels: UInt8[np.ndarray, "..."]) -> bool:
    """Tell whether a picture came from `blank`, so that steps on pixels may skip their work."""
    return not any(pixels.strides)
