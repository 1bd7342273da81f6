"""The learning-rate schedule: linear warm-up, then a cosine, as a function of the step alone."""

import math


def lr_share(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    """Return the share of the peak rate at which the step counted from 0 is taken.

    A closed form needs no state of its own: who knows the step resumes the schedule. The first step runs at
    1 / (warmup_steps + 1), as in openpi, where the usual warm-up from 0 wastes it; and since the cosine would reach
    `final_share` at `steps`, one past the last, a share of 0 wastes no step at the end either.
    A stage shorter than its warm-up never leaves the ramp.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
