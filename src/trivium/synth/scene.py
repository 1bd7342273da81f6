"""What text generators are told about one picture: named places, in metres and as seen."""

import math
from dataclasses import dataclass

BINS = 100
"""Positions in text are whole numbers 0..99 in each direction of the picture."""


@dataclass(frozen=True)
class Place:
    """A named thing: its position in metres, and where it appears as shares of the picture's width and height."""

    name: str
    xyz: tuple[float, float, float]
    u: float
    """From the left edge; outside [0, 1] it is not in the picture."""
    v: float
    """From the top edge."""

    @property
    def visible(self) -> bool:
        """Whether the place lies inside the frame (it may still be hidden behind something)."""
        return 0 <= self.u < 1 and 0 <= self.v < 1

    @property
    def position(self) -> str:
        """The place in words, such as "x 41 y 63"."""
        return f"x {int(self.u * BINS)} y {int(self.v * BINS)}"


@dataclass(frozen=True)
class Scene:
    """One picture: the gripper, the thing to handle, and what is being done."""

    instruction: str
    gripper: Place
    object: Place
    opening: float
    """Of the gripper, 0 closed to 1 open."""
    done: bool
    """Whether the task has succeeded already."""


def distance_cm(first: Place, second: Place) -> int:
    """Return the distance in whole centimetres."""
    return round(100 * math.dist(first.xyz, second.xyz))


def direction(of: Place, seen_from: Place, dead: float = 0.04) -> str:
    """Say where one place appears from another in the picture: "left", "above right", or "" when about the same.

    Args:
        of: the place that is described.
        seen_from: the reference.
        dead: difference, as a share of the picture, that does not count as a direction.
    """
    du, dv = of.u - seen_from.u, of.v - seen_from.v
    words = []
    if abs(dv) > dead:
        words.append("above" if dv < 0 else "below")
    if abs(du) > dead:
        words.append("left" if du < 0 else "right")
    return " ".join(words)


def heading(scene: Scene, dead: float = 0.04) -> str:
    """Say which way the gripper has to move in the picture to come to the object: "up and left", "straight on"."""
    words = direction(scene.object, scene.gripper, dead).replace("above", "up").replace("below", "down")
    return words.replace(" ", " and ") or "straight on"
