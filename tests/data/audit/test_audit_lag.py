"""Streams out of step: found with their size, in one episode and in a whole set; quiet where all is well."""

from dataclasses import replace

import numpy as np
import pytest
from point_robot import VIEWS, late, point_robot, without

from trivium.data.audit.audit import audit
from trivium.data.audit.finding import Audit, Finding
from trivium.data.audit.recording import Recording


@pytest.fixture(scope="module")
def clean() -> Recording:
    return point_robot()


def faults(seen: Recording, delay: int = 1) -> tuple[Finding, ...]:
    return audit([seen], delay)[0].faults


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_set_in_step_has_no_fault(seed: int):
    (found,) = audit([point_robot(seed=seed)])
    assert found.faults == ()
    assert found.measures["lag of action"]["frames"] == 1
    assert found.measures["lag of front"]["frames"] == 0
    assert found.measures["lag of front"]["confidence"] > 0.95


@pytest.mark.parametrize("frames", [-3, -1, 1, 2])
@pytest.mark.parametrize("stream", ["action", "pictures", "state"])
def test_one_episode_out_of_step(clean: Recording, stream: str, frames: int):
    (found,) = faults(late(clean, 7, stream, frames))
    assert (found.kind, found.episode, found.stream, found.measure) == ("lag", 107, stream, frames)
    assert found.confidence > 0.8


def test_one_camera_out_of_step(clean: Recording):
    (found,) = faults(late(clean, 3, "side", 2))
    assert (found.kind, found.episode, found.stream, found.measure) == ("lag", 103, "side", 2)


def test_without_pictures_actions_are_still_judged():
    seen = point_robot(views=())
    (found,) = faults(late(seen, 7, "action", 1))
    assert (found.episode, found.stream, found.measure) == (107, "action", 1)


@pytest.mark.parametrize("frames", [-2, 1])
@pytest.mark.parametrize("stream", ["action", "pictures"])
def test_a_whole_set_out_of_step(clean: Recording, stream: str, frames: int):
    seen = clean
    for e in range(len(seen)):
        seen = late(seen, e, stream, frames)
    found = faults(seen)
    assert {it.stream for it in found} == ({"action"} if stream == "action" else set(VIEWS))
    assert {(it.kind, it.episode, it.measure) for it in found} == {("lag", None, frames)}


def test_a_controller_that_waits_is_no_fault_when_it_is_told(clean: Recording):
    seen = clean
    for e in range(len(seen)):
        seen = late(seen, e, "action", -1)
    assert [it.stream for it in faults(seen)] == ["action"]
    assert faults(seen, delay=2) == ()


def test_pictures_lost_in_the_middle_are_named_with_their_frame(clean: Recording):
    found = [it for it in faults(late(clean, 5, "pictures", -3, start=30)) if it.kind == "dropped"]
    assert [it.episode for it in found] == [105]
    assert found[0].measure == 3
    assert abs((found[0].frame or 0) - 30) <= 3


def cannot(found: Audit) -> str:
    return " / ".join(it.reason for it in found.unknown)


def test_episodes_of_one_frame_are_not_judged(clean: Recording):
    rows = clean.begin.astype(int)
    n = np.arange(len(rows))
    looks = {view: values[rows] for view, values in clean.looks.items()}
    seen = replace(clean, begin=n, end=n + 1, state=clean.state[rows], action=clean.action[rows], looks=looks)
    (found,) = audit([seen])
    assert found.faults == ()
    assert "too few or too short episodes" in cannot(found)
    assert "too few frames in too few episodes" in cannot(found)


def test_one_short_episode_among_long_ones_is_named(clean: Recording):
    seen = without(clean, 4, 5, 54)
    (found,) = audit([seen])
    assert found.faults == ()
    assert [it.episode for it in found.unknown] == [104]
    assert "6 frames that say too little" in cannot(found)


@pytest.mark.parametrize("stream", ["action", "state"])
def test_what_never_changes_says_nothing(clean: Recording, stream: str):
    seen = replace(clean, **{stream: np.ones_like(getattr(clean, stream))})
    (found,) = audit([seen])
    assert found.faults == ()
    assert "never changes" in cannot(found)
    assert {it.kind for it in found.findings} == {"constant"}


def test_actions_that_have_nothing_to_do_with_the_state(clean: Recording):
    noise = np.random.default_rng(0).standard_normal(clean.action.shape).astype(np.float32)
    (found,) = audit([replace(clean, action=noise, looks={})])
    assert found.faults == ()
    assert "says too little" in cannot(found) or "equally likely" in cannot(found)


def test_a_black_camera_says_nothing(clean: Recording):
    black = {view: np.zeros_like(values) for view, values in clean.looks.items()}
    (found,) = audit([replace(clean, looks=black)])
    assert found.faults == ()
    assert "lag of front in the whole set" in {it.question for it in found.unknown}
