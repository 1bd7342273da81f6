"""Questions about space with answers from simulator truth (after SpaRE, https://arxiv.org/abs/2504.20648).

Where we differ: SpaRE lets a language model pull questions out of long captions; here positions are known, so the
answers are exact and cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trivium.synth.caption import NEAR_CM
from trivium.synth.scene import Place, Scene, direction, distance_cm, heading

CLEAR = 0.06
"""A difference of positions, as a share of the picture, below which left/right and above/below are not asked."""


@dataclass(frozen=True)
class Question:
    """One question with its only right answer; `kind` lets a report count and a mixture choose."""

    kind: str
    question: str
    answer: str


def questions(scene: Scene, num: int, rng: np.random.Generator) -> list[Question]:
    """Return up to `num` different questions about the picture, drawn at random from those with a clear answer."""
    known = [question for ask in _KINDS for question in ask(scene)]
    chosen = rng.permutation(len(known))[:num]
    return [known[i] for i in chosen]


def _where(scene: Scene) -> list[Question]:
    return [
        Question("position", f"Where is the {place.name}?", place.position)
        for place in (scene.gripper, scene.object)
        if place.visible
    ]


def _what(scene: Scene) -> list[Question]:
    if max(abs(scene.gripper.u - scene.object.u), abs(scene.gripper.v - scene.object.v)) < 2 * CLEAR:
        return []
    return [
        Question("name", f"What is at {place.position}?", f"the {place.name}")
        for place in (scene.gripper, scene.object)
        if place.visible
    ]


def _sides(scene: Scene) -> list[Question]:
    asked = []
    first, second = scene.gripper, scene.object
    if abs(first.u - second.u) > CLEAR:
        answer = "left" if first.u < second.u else "right"
        asked.append(Question("left_right", f"Is the gripper left or right of the {second.name}?", answer))
        asked.append(_yes_no(first, second, "left", first.u < second.u))
    if abs(first.v - second.v) > CLEAR:
        answer = "above" if first.v < second.v else "below"
        asked.append(
            Question("above_below", f"Is the gripper above or below the {second.name} in the picture?", answer)
        )
        asked.append(_yes_no(first, second, "above", first.v < second.v))
    return asked


def _yes_no(first: Place, second: Place, side: str, holds: bool) -> Question:
    of = "left of" if side == "left" else "above"
    return Question("yes_no", f"Is the {first.name} {of} the {second.name} in the picture?", "yes" if holds else "no")


def _distance(scene: Scene) -> list[Question]:
    distance = distance_cm(scene.gripper, scene.object)
    asked = [Question("distance", f"How far is the gripper from the {scene.object.name}?", f"{distance} cm")]
    if not NEAR_CM - 1 <= distance <= NEAR_CM + 3:  # between near and far nobody could say
        answer = "near" if distance < NEAR_CM else "far"
        asked.append(Question("near_far", f"Is the gripper near the {scene.object.name} or far from it?", answer))
    return asked


def _way(scene: Scene) -> list[Question]:
    if not direction(scene.object, scene.gripper, dead=CLEAR):
        return []
    question = f"Which way does the gripper have to move in the picture to reach the {scene.object.name}?"
    return [Question("way", question, heading(scene, dead=CLEAR))]


_KINDS: tuple[Callable[[Scene], list[Question]], ...] = (_where, _what, _sides, _distance, _way)
