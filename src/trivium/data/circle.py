"""Angles in radians: differences by the shorter way round."""

import numpy as np
from jaxtyping import Float

HALF = float(np.float32(np.pi))
"""The largest angle: pi as float32 knows it, a little above pi, so that a recorded pi stays what it is."""
TURN = 2 * np.pi


def wrap(angle: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Bring angles into (-pi, pi] by whole turns; those that lie there are not touched."""
    return angle - TURN * np.ceil((angle - HALF) / TURN)
