"""Which frames belong to time t: the index arithmetic of action chunks and observation history, in one place.

Convention (LeRobot, RLDS, Octo): `action[t]` is commanded AFTER `observation[t]` was seen, so the chunk of
time t starts at t itself.
"""

import numpy as np
from jaxtyping import Bool, Int


def chunk(
    time: Int[np.ndarray, " n"], end: Int[np.ndarray, " n"], horizon: int
) -> tuple[Int[np.ndarray, "n k"], Bool[np.ndarray, "n k"]]:
    """Return the frames of the chunks t..t+k-1 and which of them are real.

    Past the end of its episode a chunk repeats the last frame and is marked invalid; it never reaches into the next
    episode.

    Args:
        time: frame t of each observation, counted over the whole set.
        end: first frame after the episode of each observation.
        horizon: number k of steps in a chunk.
    """
    index = time[:, None] + np.arange(horizon)
    valid = index < end[:, None]
    return np.where(valid, index, end[:, None] - 1), valid


def history(
    time: Int[np.ndarray, " n"], begin: Int[np.ndarray, " n"], steps: int
) -> tuple[Int[np.ndarray, "n f"], Bool[np.ndarray, "n f"]]:
    """Return the frames t-f+1..t, oldest first, and which of them are real.

    Before the start of its episode a history repeats the first frame and is marked invalid.

    Args:
        time: frame t of each observation, counted over the whole set.
        begin: first frame of the episode of each observation.
        steps: number f of frames, the present one included.
    """
    index = time[:, None] + np.arange(1 - steps, 1)
    valid = index >= begin[:, None]
    return np.where(valid, index, begin[:, None]), valid
