"""What each dimension of a robot's action is: a registry of published robots, and what a config says of others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trivium.core.errors import DataError

Kind = Literal["position", "angle", "delta", "turn", "velocity", "gripper"]
"""position: where to be, of a joint too. angle: the same on a circle, in radians within (-pi, pi]. delta: how far to
move in one step. turn: the same for an angle. velocity: per second. gripper: open or closed, or anything that must not
be mixed."""

CONTROLLER = "controller"
"""Unit of commands that a controller scales before it moves the robot: they cannot be added to a state."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of an action."""

    name: str
    kind: Kind
    unit: str = ""
    """"m", "rad", "controller"; "" where nobody said: taken as the state's."""
    state: str = ""
    """The dimension of the state that it moves."""


@dataclass(frozen=True)
class Embodiment:
    """A published robot as its published sets describe it."""

    robots: tuple[str, ...]
    """What sets call it (LeRobot's robot_type)."""
    action: tuple[Dimension, ...]
    citation: str
    held: tuple[str, ...] = ()
    """Dimensions of the state that must not be interpolated: parts of a quaternion, which may flip its sign."""


def _move(unit: str, angle: str) -> tuple[Dimension, ...]:
    """Return steps of an end effector's place and orientation, and its gripper."""
    place = tuple(Dimension(name, "delta", unit, name) for name in ("x", "y", "z"))
    turn = tuple(Dimension(name, "turn", angle, name) for name in ("roll", "pitch", "yaw"))
    return (*place, *turn, Dimension("gripper", "gripper", "", "gripper"))


def _joints(*names: str, unit: str = "rad") -> tuple[Dimension, ...]:
    """Return joints, which have stops and so are no circles, and what grips among them."""
    return tuple(Dimension(name, "gripper" if "gripper" in name else "position", unit, name) for name in names)


_SO = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")

REGISTRY = (
    Embodiment(
        ("widowx",),
        _move("m", "rad"),
        "BridgeData V2, https://arxiv.org/abs/2308.12952, 5 Hz, gripper 1 open",
    ),
    Embodiment(
        ("google_robot",),
        _move("m", "rad"),
        "RT-1, https://arxiv.org/abs/2212.06817, 3 Hz, the state's orientation is a quaternion",
        held=("rx", "ry", "rz", "rw"),
    ),
    Embodiment(
        ("Franka", "franka"),
        _joints(*(f"joint_{j}" for j in range(7)), "gripper"),
        "DROID, https://arxiv.org/abs/2403.12945, 15 Hz, joint positions",
    ),
    Embodiment(
        ("panda", "libero"),
        _move(CONTROLLER, CONTROLLER),
        "LIBERO, https://arxiv.org/abs/2306.03310, 20 Hz, robosuite's OSC_POSE in -1 to 1, gripper 1 closed",
    ),
    Embodiment(
        ("aloha",),
        _joints(*(f"{side}_{name}" for side in ("left", "right") for name in _ARM)),
        "ALOHA, https://arxiv.org/abs/2304.13705, 50 Hz",
    ),
    Embodiment(
        ("so100", "so101", "so100_follower", "so101_follower"),
        _joints(*_SO, unit=""),
        "https://github.com/TheRobotStudio/SO-ARM100, 30 Hz; degrees, or -100 to 100, by the recorder's version",
    ),
    Embodiment(
        ("metaworld_sawyer",),
        (
            *(Dimension(f"d{name}", "delta", CONTROLLER, name) for name in ("x", "y", "z")),
            Dimension("grip", "gripper", CONTROLLER, "opening"),
        ),
        "Meta-World, https://arxiv.org/abs/1910.10897, hundredths of a metre a step",
    ),
)
"""Robots by what their sets say. A set that contradicts its entry is refused where a kind is asked for; one without
names too: the same arm is published with joint positions and with joint velocities."""


def dimensions(
    robot: str, width: int, names: tuple[str, ...] | None, kinds: Mapping[str, Kind], where: str
) -> tuple[Dimension, ...]:
    """Return what each dimension of an action is: as `kinds` says, or as the registry says of a known robot.

    Args:
        robot: what the set calls it.
        width: dimensions of the action.
        names: of them; None for a policy's answer, which has the dimensions that it was taught.
        kinds: by name, in the set's order; {} for the registry.
        where: the set or the sample, for errors.

    Raises:
        DataError: an unknown robot without `kinds`, or dimensions that contradict them.
    """
    if kinds:
        choices = [tuple(Dimension(name, kind, "", name) for name, kind in kinds.items())]
        known, todo = "the kinds in the config", "List every dimension of the action in `kinds`, in the set's order."
    else:
        choices = [entry.action for entry in REGISTRY if robot in entry.robots]
        known = f"robot {robot!r} in the registry"
        todo = "If the set is right, say what each dimension is in `kinds`, by name."
    if not choices:
        robots = ", ".join(sorted({name for entry in REGISTRY for name in entry.robots}))
        raise DataError(where, f"robot {robot!r}", f"a registered one ({robots})", todo)
    for choice in choices:
        said = names is None or tuple(map(plain, names)) == tuple(plain(about.name) for about in choice)
        if len(choice) == width and said:
            return choice
    expected = " or ".join(f"{len(choice)} ({', '.join(about.name for about in choice)})" for choice in choices)
    found = f"{width} dimensions of action" + ("" if names is None else f" ({', '.join(names)})")
    raise DataError(where, found, f"{expected}, as {known}", todo)


def plain(name: str) -> str:
    """Return a dimension's name without what versions of one recorder add: main_shoulder_pan, shoulder_pan.pos."""
    return name.removeprefix("main_").removesuffix(".pos")


def held_states(robot: str) -> frozenset[str]:
    """Return the dimensions of a robot's state that must not be interpolated."""
    return frozenset(name for entry in REGISTRY if robot in entry.robots for name in entry.held)
