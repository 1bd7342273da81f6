"""What shows within one episode, swapped cameras and twins: each seen to fire and to stay quiet."""

from dataclasses import replace

import numpy as np
import pytest
from point_robot import point_robot, without

from trivium.data.audit.audit import audit
from trivium.data.audit.camera import find_swapped
from trivium.data.audit.finding import Finding
from trivium.data.audit.motion import find_clock_faults, find_motion_faults
from trivium.data.audit.recording import Recording
from trivium.data.audit.twin import find_twins


@pytest.fixture(scope="module")
def clean() -> Recording:
    return point_robot(8)


@pytest.fixture
def circle() -> Recording:
    """Steady motion, so that what is missing is plain."""
    seen = point_robot(3)
    t = np.arange(len(seen.state)) / 20
    return replace(seen, state=np.stack([np.cos(t), np.sin(t)], 1).astype(np.float32))


def named(findings: list[Finding]) -> list[tuple]:
    return [(it.kind, it.episode, it.frame, it.stream) for it in findings]


def test_quiet(clean: Recording, circle: Recording):
    assert find_motion_faults(clean) == []
    assert [it for it in find_motion_faults(circle) if it.stream == "state"] == []
    assert find_clock_faults(clean) == []
    assert find_swapped(clean) == []
    assert find_twins([clean]) == {0: []}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_missing_rows(circle: Recording, rows: int):
    found = [it for it in find_motion_faults(without(circle, 1, 25, rows)) if it.stream == "state"]
    assert named(found) == [("dropped", 101, 25, "state")]
    assert found[0].measure == rows


def test_a_picture_that_repeats(clean: Recording):
    looks = {view: values.copy() for view, values in clean.looks.items()}
    speed = np.linalg.norm(np.diff(clean.state[clean.spans()[2]], axis=0), axis=1)
    at = int(np.argmax([speed[t : t + 6].min() for t in range(5, 48)])) + 5
    begin = int(clean.begin[2]) + at
    looks["front"][begin : begin + 5] = looks["front"][begin]
    found = find_motion_faults(replace(clean, looks=looks))
    assert named(found) == [("frozen", 102, at + 1, "front")]
    assert found[0].measure == 4


def test_a_state_that_repeats(circle: Recording):
    state = circle.state.copy()
    state[70:74] = state[70]
    found = [it for it in find_motion_faults(replace(circle, state=state)) if it.kind == "frozen"]
    assert ("frozen", 101, 11, "state") in named(found)


def test_a_leap(circle: Recording):
    state = circle.state.copy()
    state[90] += 9
    kinds = [it for it in named(find_motion_faults(replace(circle, state=state))) if it[0] == "jump"]
    assert kinds[0] == ("jump", 101, 30, "state")


def test_an_idle_stretch_is_a_note_and_no_fault(clean: Recording):
    state = clean.state.copy()
    looks = {view: values.copy() for view, values in clean.looks.items()}
    state[:45], looks["front"][:45], looks["side"][:45] = state[44], looks["front"][44], looks["side"][44]
    found = find_motion_faults(replace(clean, state=state, looks=looks))
    assert named(found) == [("idle", 100, 0, "state")]
    assert found[0].measure == pytest.approx(44 / 20)
    assert not found[0].fault


def test_dead_and_saturated_dimensions(clean: Recording):
    action = clean.action.copy()
    action[:, 0] = 3
    action[:, 1] = np.clip(action[:, 1], -5, -0.2)
    found = find_motion_faults(replace(clean, action=action))
    assert [(it.kind, it.fault) for it in found] == [("constant", False), ("saturated", False)]
    assert "dx is 3 in every frame" in found[0].text
    assert "dy is at -0.2" in found[1].text


def test_a_gripper_that_is_open_or_closed_is_not_saturated(clean: Recording):
    action = clean.action.copy()
    action[:, 1] = action[:, 1] > -5
    action[3, 1] = 0
    assert find_motion_faults(replace(clean, action=action)) == []


def test_a_clock_that_runs_away(clean: Recording):
    clock = np.concatenate([np.arange(s.stop - s.start) / clean.fps for s in clean.spans()]).astype(np.float32)
    assert find_clock_faults(replace(clean, clock=clock)) == []
    clock[clean.begin[3] + 10 : clean.end[3]] += 0.05
    (found,) = find_clock_faults(replace(clean, clock=clock))
    assert named([found]) == [("clock", 103, 10, "clock")]


def test_swapped_cameras(clean: Recording):
    looks = {view: values.copy() for view, values in clean.looks.items()}
    span = clean.spans()[6]
    looks["front"][span], looks["side"][span] = clean.looks["side"][span], clean.looks["front"][span]
    assert named(find_swapped(replace(clean, looks=looks))) == [("swapped", 106, None, "front,side")]
    (found,) = audit([replace(clean, looks=looks)])
    assert [it.kind for it in found.faults] == ["swapped"], "a swapped episode is not called late as well"


def test_twins_within_and_across_sets_survive_rounding_and_coding(clean: Recording):
    other = point_robot(8, seed=5)
    rng = np.random.default_rng(0)
    state, action, looks = other.state.copy(), other.action.copy(), dict(other.looks)
    own, its = other.spans()[4], clean.spans()[2]
    state[own] = clean.state[its].round(6)
    action[own] = clean.action[its].round(6)
    coded = clean.looks["front"][its] + rng.normal(0, 2, clean.looks["front"][its].shape)
    looks["front"] = looks["front"].copy()
    looks["front"][own] = np.clip(coded, 0, 255).astype(np.uint8)
    copy = replace(other, name="copy", state=state, action=action, looks={"front": looks["front"]})
    found = find_twins([clean, copy])
    assert named(found[1]) == [("leakage", 104, None, "all")]
    assert "episode 102 of points" in found[1][0].text
    assert found[0] == []
    doubled = clean.state.copy(), clean.action.copy()
    for values, source in zip(doubled, (clean.state, clean.action), strict=True):
        values[clean.spans()[5]] = source[clean.spans()[1]]
    pictures = {view: values.copy() for view, values in clean.looks.items()}
    for view in pictures:
        pictures[view][clean.spans()[5]] = clean.looks[view][clean.spans()[1]]
    same = find_twins([replace(clean, state=doubled[0], action=doubled[1], looks=pictures)])
    assert named(same[0]) == [("duplicate", 105, None, "all")]


def test_one_path_driven_twice_before_other_scenes_is_no_twin(clean: Recording):
    dark = {view: (values * 0.6).astype(np.uint8) for view, values in clean.looks.items()}
    assert find_twins([clean, replace(clean, looks=dark)]) == {0: [], 1: []}
