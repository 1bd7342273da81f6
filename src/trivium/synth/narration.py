"""A small corpus of the robot's domain: what tasks mean, said in many ways, and what happened in an episode."""

from collections.abc import Sequence

import numpy as np

from trivium.synth.scene import Scene, distance_cm, heading


def narration(scenes: Sequence[Scene], seconds: float, rng: np.random.Generator) -> str:
    """Tell a finished episode in a few sentences.

    Args:
        scenes: its pictures in time order, the first at the start.
        seconds: its length.
        rng: draws the wording.
    """
    first, last = scenes[0], scenes[-1]
    thing = first.object.name
    closest = min(distance_cm(scene.gripper, scene.object) for scene in scenes)
    moved = distance_cm(first.object, last.object)
    way = heading(first)
    openings = (
        f"To {first.instruction}, the robot looks for the {thing} and finds it at {first.object.position}.",
        f"Task: {first.instruction}. The {thing} is at {first.object.position}, "
        f"the gripper at {first.gripper.position}.",
        f"The instruction is to {first.instruction}. The gripper starts {distance_cm(first.gripper, first.object)} cm "
        f"from the {thing}.",
    )
    approach = (
        f"In the picture the {thing} lies {way} from the gripper, so the gripper moves {way}.",
        f"The gripper moves {way} in the picture until it is {closest} cm from the {thing}.",
    )
    ending = (
        f"The {thing} moves {moved} cm." if moved >= 2 else f"The {thing} stays where it is.",
        f"After {seconds:.1f} seconds the {thing} is at {last.object.position}"
        + (" and the task is done." if last.done else "."),
    )
    return " ".join(_one(sentences, rng) for sentences in (openings, approach, ending[:1], ending[1:]))


def manual(instruction: str, paraphrases: Sequence[str], thing: str, goal: str, rng: np.random.Generator) -> str:
    """Explain a task as a page of the robot's manual would."""
    other = _one(tuple(paraphrases) or (instruction,), rng)
    sentences = (
        f'"{other[0].upper()}{other[1:]}" means the same as "{instruction}".',
        f"To {instruction}, first bring the gripper to the {thing}.",
        f"To {other}, the robot has to find the {thing} in the picture.",
        f"When the task is to {instruction}, it ends with the {goal}.",
        f"The {thing} is what the gripper has to reach when someone says: {other}.",
        f"Actions are small moves of the gripper (left, right, forward, back, up, down) until the {thing} is reached.",
    )
    chosen = rng.permutation(len(sentences))[:3]
    return " ".join(sentences[i] for i in chosen)


def _one(sentences: Sequence[str], rng: np.random.Generator) -> str:
    return sentences[int(rng.integers(len(sentences)))]
