"""Many action chunks with the states they start from: what steps on actions work on, one sample or a whole set."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False, kw_only=True)
class Motion:
    """The numbers of n samples of one robot, without their pictures and words."""

    embodiment: str
    action: Float[np.ndarray, "n k a"]
    """Row (i, j) is the command of step t + j of sample i."""
    valid: Bool[np.ndarray, "n k"]
    """False where a chunk ran past the end of its episode."""
    action_names: tuple[str, ...]
    state: Float[np.ndarray, "n s"]
    """The state at t, whatever j."""
    state_names: tuple[str, ...]
