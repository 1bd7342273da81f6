"""The 50 Meta-World tasks in words: an instruction, other ways to say it, and what object and goal are called."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskText:
    """Words of one task; `instruction` and every paraphrase is an imperative that follows "To ..." as well."""

    instruction: str
    paraphrases: tuple[str, ...]
    object: str
    """Noun phrase of the thing whose position the simulator reports."""
    goal: str
    """Noun phrase of the place where the thing (or the gripper) has to end."""


def _task(object_name: str, goal: str, instruction: str, *paraphrases: str) -> TaskText:
    return TaskText(instruction, paraphrases, object_name, goal)


# One task is one entry of two or three lines; the formatter would make it nine.
# fmt: off
TASKS: dict[str, TaskText] = {
    "assembly-v3": _task(
        "ring wrench", "peg", "put the ring on the peg",
        "pick up the wrench and slide its ring over the peg", "assemble the ring onto the peg",
        "fit the nut over the upright peg",
    ),
    "basketball-v3": _task(
        "ball", "basket", "drop the ball into the basket",
        "pick up the basketball and dunk it", "throw the ball through the hoop", "put the basketball in the hoop",
    ),
    "bin-picking-v3": _task(
        "cube", "other bin", "move the cube from one bin to the other",
        "pick the cube out of its bin and put it in the other bin", "carry the block over to the empty bin",
        "transfer the cube to the second bin",
    ),
    "box-close-v3": _task(
        "lid", "box", "close the box with the lid",
        "put the lid on the box", "pick up the cover and place it on the box", "cover the box",
    ),
    "button-press-topdown-v3": _task(
        "button", "pressed button", "press the button from above",
        "push the button down", "press down on the button", "move over the button and push it downwards",
    ),
    "button-press-topdown-wall-v3": _task(
        "button", "pressed button", "press the button behind the wall from above",
        "reach over the wall and push the button down", "go over the wall and press the button",
        "press down on the button that stands behind the wall",
    ),
    "button-press-v3": _task(
        "button", "pressed button", "press the button",
        "push the button in", "push the front button into its box", "press the button on the side of the box",
    ),
    "button-press-wall-v3": _task(
        "button", "pressed button", "press the button behind the wall",
        "go around the wall and push the button in", "get past the wall and press the button",
        "push the button that is hidden by the wall",
    ),
    "coffee-button-v3": _task(
        "coffee button", "pressed button", "press the button of the coffee machine",
        "start the coffee machine", "push the button on the coffee maker", "turn on the coffee machine",
    ),
    "coffee-pull-v3": _task(
        "mug", "place for the mug", "pull the mug away from the coffee machine",
        "take the mug out of the coffee machine", "drag the cup from under the coffee maker",
        "pull the coffee cup towards the target",
    ),
    "coffee-push-v3": _task(
        "mug", "place under the spout", "push the mug under the coffee machine",
        "slide the cup to the coffee machine", "put the mug under the spout",
        "move the coffee cup into place below the machine",
    ),
    "dial-turn-v3": _task(
        "dial", "turned dial", "turn the dial",
        "rotate the dial by half a turn", "twist the knob around", "spin the dial",
    ),
    "disassemble-v3": _task(
        "ring wrench", "place above the peg", "take the ring off the peg",
        "lift the wrench off the peg", "remove the nut from the peg", "pull the ring up and off its peg",
    ),
    "door-close-v3": _task(
        "door handle", "closed door", "close the door",
        "push the door shut", "shut the door", "swing the open door closed",
    ),
    "door-lock-v3": _task(
        "door lock", "locked position", "lock the door",
        "turn the lock to lock the door", "rotate the door lock clockwise",
        "push the lock down until the door is locked",
    ),
    "door-open-v3": _task(
        "door handle", "open door", "open the door",
        "pull the door open by its handle", "swing the door open", "grab the handle and open the door",
    ),
    "door-unlock-v3": _task(
        "door lock", "unlocked position", "unlock the door",
        "turn the lock to unlock the door", "rotate the door lock counter-clockwise",
        "push the lock aside until the door is unlocked",
    ),
    "drawer-close-v3": _task(
        "drawer handle", "closed drawer", "close the drawer",
        "push the drawer shut", "shut the open drawer", "push the drawer in by its handle",
    ),
    "drawer-open-v3": _task(
        "drawer handle", "open drawer", "open the drawer",
        "pull the drawer open", "pull the drawer out by its handle", "slide the drawer out towards you",
    ),
    "faucet-close-v3": _task(
        "faucet handle", "closed position", "close the faucet",
        "turn the faucet off", "rotate the faucet handle clockwise", "shut the tap",
    ),
    "faucet-open-v3": _task(
        "faucet handle", "open position", "open the faucet",
        "turn the faucet on", "rotate the faucet handle counter-clockwise", "open the tap",
    ),
    "hammer-v3": _task(
        "hammer", "nail", "hammer the nail into the wall",
        "pick up the hammer and hit the nail", "drive the nail in with the hammer",
        "use the hammer to knock in the nail",
    ),
    "hand-insert-v3": _task(
        "block", "hole", "put the block into the hole with the gripper",
        "insert the gripper with the block into the hole", "carry the block down into the hole",
        "reach into the hole holding the block",
    ),
    "handle-press-side-v3": _task(
        "handle", "pressed handle", "press the handle down from the side",
        "push the sideways handle down", "press down the lever at the side", "push the side handle all the way down",
    ),
    "handle-press-v3": _task(
        "handle", "pressed handle", "press the handle down",
        "push the handle down", "press down on the handle", "push the lever all the way down",
    ),
    "handle-pull-side-v3": _task(
        "handle", "raised handle", "pull the handle up from the side",
        "lift the sideways handle", "raise the lever at the side", "pull the side handle all the way up",
    ),
    "handle-pull-v3": _task(
        "handle", "raised handle", "pull the handle up",
        "lift the handle", "raise the handle", "pull the lever all the way up",
    ),
    "lever-pull-v3": _task(
        "lever", "raised lever", "pull the lever up",
        "rotate the lever upwards", "raise the lever", "push the lever up from below",
    ),
    "peg-insert-side-v3": _task(
        "peg", "hole", "insert the peg into the hole from the side",
        "pick up the peg and push it into the side hole", "plug the peg into the hole in the box",
        "slide the peg sideways into the hole",
    ),
    "peg-unplug-side-v3": _task(
        "peg", "place beside the hole", "unplug the peg",
        "pull the peg out of the hole", "take the peg out sideways", "remove the peg from the box",
    ),
    "pick-out-of-hole-v3": _task(
        "puck", "target", "pick the puck out of the hole",
        "lift the puck out of the hole and bring it to the target", "take the puck from the hole",
        "get the puck out of its hole",
    ),
    "pick-place-v3": _task(
        "puck", "target", "pick up the puck and place it at the target",
        "bring the puck to the target", "grab the puck and carry it to the goal",
        "lift the puck to the target position",
    ),
    "pick-place-wall-v3": _task(
        "puck", "target", "pick up the puck and place it behind the wall",
        "carry the puck over the wall to the target", "bring the puck past the wall",
        "lift the puck over the wall and put it at the goal",
    ),
    "plate-slide-back-side-v3": _task(
        "plate", "target", "slide the plate back sideways out of the cabinet",
        "pull the plate out to the side", "get the plate out of the goal sideways",
        "move the plate back to the side",
    ),
    "plate-slide-back-v3": _task(
        "plate", "target", "slide the plate back out of the cabinet",
        "pull the plate back out", "get the plate out of the goal", "move the plate back towards you",
    ),
    "plate-slide-side-v3": _task(
        "plate", "cabinet", "slide the plate sideways into the cabinet",
        "push the plate into the cabinet at the side", "move the plate sideways into the goal",
        "shove the plate to the side, into the cabinet",
    ),
    "plate-slide-v3": _task(
        "plate", "cabinet", "slide the plate into the cabinet",
        "push the plate into the cabinet", "move the plate into the goal",
        "shove the plate forward into the cabinet",
    ),
    "push-back-v3": _task(
        "puck", "target", "pull the puck back to the target",
        "drag the puck towards you", "move the puck back to the goal", "bring the puck back along the table",
    ),
    "push-v3": _task(
        "puck", "target", "push the puck to the target",
        "slide the puck to the goal", "move the puck along the table to the target", "shove the puck onto the goal",
    ),
    "push-wall-v3": _task(
        "puck", "target", "push the puck around the wall to the target",
        "slide the puck past the wall", "move the puck around the wall",
        "bring the puck to the goal behind the wall",
    ),
    "reach-v3": _task(
        "puck", "target", "reach the target",
        "move the gripper to the target", "bring the hand to the goal position", "go to the target point",
    ),
    "reach-wall-v3": _task(
        "puck", "target", "reach the target behind the wall",
        "move the gripper past the wall to the target", "go around the wall to the target",
        "bring the hand to the goal beyond the wall",
    ),
    "shelf-place-v3": _task(
        "puck", "shelf", "put the puck on the shelf",
        "pick up the puck and place it on the shelf", "lift the puck onto the shelf", "store the puck on the shelf",
    ),
    "soccer-v3": _task(
        "ball", "goal", "push the ball into the goal",
        "score a goal", "kick the ball into the net", "roll the soccer ball into the goal",
    ),
    "stick-pull-v3": _task(
        "stick", "target", "pull the box with the stick",
        "grab the stick and drag the container with it", "use the stick to pull the thermos",
        "hook the container with the stick and pull it to the target",
    ),
    "stick-push-v3": _task(
        "stick", "target", "push the box with the stick",
        "grab the stick and push the container with it", "use the stick to push the thermos",
        "shove the container to the target with the stick",
    ),
    "sweep-into-v3": _task(
        "puck", "hole", "sweep the puck into the hole",
        "push the puck into the hole", "wipe the puck into the hole in the table",
        "slide the puck until it drops into the hole",
    ),
    "sweep-v3": _task(
        "puck", "edge of the table", "sweep the puck off the table",
        "push the puck off the edge", "wipe the puck off the table", "shove the puck over the edge of the table",
    ),
    "window-close-v3": _task(
        "window handle", "closed window", "close the window",
        "slide the window shut", "push the window closed by its handle", "shut the window",
    ),
    "window-open-v3": _task(
        "window handle", "open window", "open the window",
        "slide the window open", "push the window open by its handle", "move the window to the side to open it",
    ),
}
# fmt: on
