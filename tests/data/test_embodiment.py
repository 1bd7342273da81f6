from typing import get_args

import pytest

from trivium.core.errors import DataError
from trivium.data.embodiment import REGISTRY, Kind, dimensions, held_states
from trivium.eval.sim import metaworld

BRIDGE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def kinds(robot: str, names: tuple[str, ...]) -> list[str]:
    return [about.kind for about in dimensions(robot, len(names), names, {}, "set s")]


def test_published_robots():
    assert kinds("widowx", BRIDGE) == ["delta"] * 3 + ["turn"] * 3 + ["gripper"]
    assert kinds("google_robot", BRIDGE) == kinds("widowx", BRIDGE)
    assert kinds("Franka", (*(f"joint_{j}" for j in range(7)), "gripper")) == ["position"] * 7 + ["gripper"]
    assert kinds(metaworld.EMBODIMENT, metaworld.ACTION_NAMES) == ["delta"] * 3 + ["gripper"]
    [aloha] = [entry for entry in REGISTRY if "aloha" in entry.robots]
    assert len(aloha.action) == 14
    assert [j for j, about in enumerate(aloha.action) if about.kind == "gripper"] == [6, 13]
    assert held_states("google_robot") == {"rx", "ry", "rz", "rw"}


def test_every_entry_is_whole():
    for entry in REGISTRY:
        assert "https://" in entry.citation
        names = [about.name for about in entry.action]
        assert len(set(names)) == len(names)
        assert all(about.state and about.kind in get_args(Kind) for about in entry.action)
    robots = [robot for entry in REGISTRY for robot in entry.robots]
    assert len(set(robots)) == len(robots)


def test_the_states_of_our_own_robot_are_named_as_registered():
    about = dimensions(metaworld.EMBODIMENT, 4, metaworld.ACTION_NAMES, {}, "set s")
    assert [one.state for one in about] == list(metaworld.STATE_NAMES)


@pytest.mark.parametrize("form", ["{}", "main_{}", "{}.pos"])
def test_one_robot_under_the_names_of_several_recorders(form):
    names = tuple(
        map(form.format, ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"))
    )
    assert kinds("so100", names) == ["position"] * 5 + ["gripper"]


def test_a_set_that_contradicts_its_robot_is_refused():
    with pytest.raises(DataError) as error:
        dimensions("widowx", 3, ("x", "y", "grip"), {}, "set bridge")
    assert str(error.value) == (
        "set bridge: found 3 dimensions of action (x, y, grip); expected 7 (x, y, z, roll, pitch, yaw, gripper), as "
        "robot 'widowx' in the registry. If the set is right, say what each dimension is in `kinds`, by name."
    )
    with pytest.raises(DataError, match=r"found 7 dimensions of action \(y, x, "):
        dimensions("widowx", 7, ("y", "x", *BRIDGE[2:]), {}, "set bridge")


def test_a_set_without_names_is_not_taken_on_trust():
    names = tuple(f"action.{j}" for j in range(8))
    with pytest.raises(DataError, match=r"found 8 dimensions of action \(action.0, "):
        dimensions("Franka", 8, names, {}, "set droid")
    assert dimensions("Franka", 8, None, {}, "a policy's answer")[7].kind == "gripper"


def test_an_unknown_robot_needs_kinds():
    with pytest.raises(DataError, match=r"found robot 'toy'; expected a registered one \(Franka, aloha, .* `kinds`"):
        dimensions("toy", 2, ("a", "b"), {}, "set toy")
    about = dimensions("toy", 2, ("a", "b"), {"a": "angle", "b": "gripper"}, "set toy")
    assert [(one.name, one.kind, one.state) for one in about] == [("a", "angle", "a"), ("b", "gripper", "b")]
    with pytest.raises(DataError, match=r"expected 2 \(b, a\), as the kinds in the config. List every dimension"):
        dimensions("toy", 2, ("a", "b"), {"b": "angle", "a": "gripper"}, "set toy")
