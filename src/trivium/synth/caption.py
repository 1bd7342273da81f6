"""Captions of robot pictures, written from simulator truth: every sentence is checkable, none is guessed."""

from collections.abc import Callable

import numpy as np

from trivium.synth.scene import Place, Scene, direction, distance_cm, heading

NEAR_CM = 6
FAR_CM = 20


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe the picture in one or two sentences of a randomly drawn form.

    The forms mix what a contrastive loss can use (relations, nearness) with positions that ground words in pixels.
    """
    template = _TEMPLATES[int(rng.integers(len(_TEMPLATES)))]
    text = template(scene)
    return text[0].upper() + text[1:]


def nearness(scene: Scene) -> str:
    """Return "touching", "near", "some way from" or "far from" for gripper and object."""
    distance = distance_cm(scene.gripper, scene.object)
    if distance <= 2:
        return "touching"
    return "near" if distance <= NEAR_CM else "far from" if distance > FAR_CM else "some way from"


def relation(first: Place, second: Place) -> str:
    """Return where the first place appears from the second: "above and left of the drawer handle in the picture".

    "In the picture", because seen from above the gripper may hang over a thing and still appear below it.
    """
    words = direction(first, second).split()
    if not words:
        return f"right at the {second.name} in the picture"
    phrases = [word if word in ("above", "below") else f"{word} of" for word in words]
    return f"{' and '.join(phrases)} the {second.name} in the picture"


def hand(scene: Scene) -> str:
    """Return "open gripper", "closed gripper", or "gripper" in between."""
    return "open gripper" if scene.opening > 0.9 else "closed gripper" if scene.opening < 0.5 else "gripper"


def _progress(scene: Scene) -> str:
    return (
        f"the robot has finished: {scene.instruction}" if scene.done else f"the robot is about to {scene.instruction}"
    )


def _related(scene: Scene) -> str:
    return f"the {hand(scene)} is {relation(scene.gripper, scene.object)}, {_away(scene)} away."


def _located(scene: Scene) -> str:
    return f"the gripper is at {scene.gripper.position} and the {scene.object.name} is at {scene.object.position}."


def _near(scene: Scene) -> str:
    return f"a robot arm with its {hand(scene)} {nearness(scene)} the {scene.object.name}."


def _task(scene: Scene) -> str:
    return f"{_progress(scene)}. The {scene.object.name} is at {scene.object.position}."


def _reach(scene: Scene) -> str:
    way = heading(scene)
    return (
        f"to reach the {scene.object.name} at {scene.object.position}, the gripper has to move {way} in the picture; "
        f"it is {_away(scene)} away."
    )


def _away(scene: Scene) -> str:
    return f"{distance_cm(scene.gripper, scene.object)} cm"


_TEMPLATES: tuple[Callable[[Scene], str], ...] = (_related, _located, _near, _task, _reach)
