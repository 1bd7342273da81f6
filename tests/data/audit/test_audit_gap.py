"""Frames and pictures lost amid an episode: found where the robot moves, and not where nothing does."""

from dataclasses import replace

import numpy as np
import pytest
from point_robot import late, point_robot, without

from trivium.data.audit.audit import audit
from trivium.data.audit.recording import Recording


@pytest.fixture(scope="module")
def clean() -> Recording:
    return point_robot(40, seed=4)


def fast(seen: Recording, e: int) -> int:
    """Return a frame about which the robot moves fast."""
    speed = np.linalg.norm(np.diff(seen.state[seen.spans()[e]], axis=0), axis=1)
    return 15 + int(np.argmax(np.convolve(speed[15:45], np.ones(3), "same")))


def test_quiet(clean: Recording):
    assert audit([clean])[0].faults == ()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_lost_amid_motion(clean: Recording, rows: int):
    at = fast(clean, 6)
    audited = audit([without(clean, 6, at, rows)])[0]
    found = audited.faults
    assert [(it.kind, it.episode) for it in found] == [("dropped", 106)]
    assert abs((found[0].frame or 0) - at) <= 3


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_pictures_lost_amid_motion(clean: Recording, frames: int):
    at = fast(clean, 8)
    found = audit([late(clean, 8, "pictures", -frames, start=at)])[0].findings
    surest = max((it for it in found if it.kind == "dropped"), key=lambda it: it.confidence)
    assert (surest.episode, surest.stream) == (108, "pictures")
    assert abs((surest.frame or 0) - at) <= 4


def test_rows_lost_while_nothing_moves_leave_no_trace(clean: Recording):
    rest = clean.spans()[9]
    state, action = clean.state.copy(), clean.action.copy()
    state[rest], action[rest] = state[rest.start], 0
    looks = {view: values.copy() for view, values in clean.looks.items()}
    for values in looks.values():
        values[rest] = values[rest.start]
    still = replace(clean, state=state, action=action, looks=looks)
    assert audit([without(still, 9, 30, 2)])[0].faults == ()
