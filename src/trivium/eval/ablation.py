"""What a policy does without one of its senses: observations with a camera, the state or the instruction taken away."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trivium.core.sample import Image, Sample, State, Text
from trivium.eval.statistics import change, wilson

STATE, INSTRUCTION = "state", "instruction"


def senses(views: Sequence[str]) -> tuple[str, ...]:
    """Name what can be taken away: every camera by its view, the state, the instruction."""
    return *views, STATE, INSTRUCTION


def blank(sample: Sample, sense: str) -> Sample:
    """Take one sense away as it fails on a robot.

    A camera that fails goes on sending frames, black ones; so does this. State and words are simply not there.
    """
    kept = []
    for segment in sample.segments:
        if isinstance(segment, Image) and segment.view == sense:
            pixels = np.zeros_like(segment.pixels)
            kept.append(Image(pixels=pixels, view=segment.view, time_s=segment.time_s))
        elif not (
            (sense == STATE and isinstance(segment, State))
            or (sense == INSTRUCTION and isinstance(segment, Text) and segment.role == "instruction")
        ):
            kept.append(segment)
    return Sample(**{**sample.__dict__, "segments": tuple(kept)})


def compare(sense: str, whole: Mapping[str, Sequence[bool]], without: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Set success by task without a sense beside that of the same episodes with all of them."""
    pairs = [pair for task in without for pair in zip(whole[task], without[task], strict=True)]
    before, after = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    low, high = wilson(after, len(pairs))
    lost, won = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    difference = change(before - lost, lost, won, len(pairs) - before - won)
    return {
        "without": sense,
        "tasks": [
            {"task": task, "successes": sum(without[task]), "whole": sum(whole[task]), "episodes": len(without[task])}
            for task in without
        ],
        "successes": after,
        "whole": before,
        "episodes": len(pairs),
        "low": low,
        "high": high,
        "change": difference[0],
        "change_low": difference[1],
        "change_high": difference[2],
    }
