"""What a policy asks of an observation and promises of an action, and the checks that say which field is wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Segment, State, Text

Observation = Sample | Mapping[str, Any]
"""A sample without an action, or plain arrays: {"images": {view: uint8 h w 3}, "state": floats, "instruction": words}.
A policy with a history takes f h w 3 a view, the oldest frame first."""
FIELDS = ("images", "state", "instruction", "embodiment")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the demonstrations of one robot were, in the words of its data set."""

    embodiment: str
    """Name of the robot; "" where its set does not say."""
    views: tuple[str, ...]
    """Cameras, in the order in which the policy was shown them."""
    picture_sizes: Mapping[str, tuple[int, int]]
    """Height and width by view, as recorded."""
    resizes: bool
    """Whether the transforms bring pictures of any size to the encoder's."""
    history: int
    """Frames of each view."""
    rate_hz: float
    """Commands a second."""
    horizon: int
    """Commands in a chunk; the first is for the time of the observation."""
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    """"m", "rad", "controller" ...; "" where nobody said."""
    action_kinds: tuple[str, ...]
    """"position", "angle", "delta", "turn", "velocity", "gripper"; "" where nobody said."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Contract":
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: not what it wrote.
        """
        lists = ("views", "state_names", "action_names", "action_units", "action_kinds")
        if unknown := data.keys() ^ cls.__dataclass_fields__.keys():
            raise ValueError(f"fields that are missing or unknown: {', '.join(sorted(unknown))}")
        sizes = {str(view): (int(size[0]), int(size[1])) for view, size in data["picture_sizes"].items()}
        return cls(**{**data, "picture_sizes": sizes, **{name: tuple(map(str, data[name])) for name in lists}})

    def sample(self, observation: Observation, place: int) -> Sample:
        """Return an observation as the sample that a source would have read, every field checked.

        Args:
            observation: what the robot sees, feels and is told.
            place: its number in the batch, for errors.

        Raises:
            DataError: a field is missing, unknown, of another shape or type, or not finite; the text names it.
        """
        where = f"observation {place}"
        given = _plain(observation, where) if isinstance(observation, Sample) else dict(observation)
        for name in given:
            if name not in FIELDS:
                near = get_close_matches(str(name), FIELDS, 1)
                todo = f"Did you mean {near[0]!r}?" if near else "Leave it out."
                raise DataError(f"{where}.{name}", "an unknown field", f"one of {', '.join(FIELDS)}", todo)
        robot = given.get("embodiment", self.embodiment)
        if robot != self.embodiment:
            raise DataError(
                f"{where}.embodiment",
                f"robot {robot!r}",
                f"{self.embodiment!r}, whose statistics the policy has",
                "Load the policy of that robot, or leave the field out.",
            )
        segments: list[Segment] = [*self._images(given, where)]
        segments.append(Text(text=_words(given, where), role="instruction"))
        segments.append(State(values=self._state(given, where), names=self.state_names))
        name = observation.id if isinstance(observation, Sample) else where
        return Sample(id=name, segments=tuple(segments), source="observation", license="", embodiment=self.embodiment)

    def _images(self, given: Mapping[str, Any], where: str) -> list[Image]:
        images = given.get("images", {})
        takes = ", ".join(map(repr, self.views)) or "none"
        if not isinstance(images, Mapping):
            raise DataError(f"{where}.images", f"a {type(images).__name__}", "pictures by view", f"Views: {takes}.")
        for view in self.views:
            if view not in images:
                found = ", ".join(map(repr, images)) or "no pictures"
                raise DataError(f"{where}.images", found, f"view {view!r}", f"The policy takes: {takes}.")
        for view in images:
            if view not in self.views:
                todo = "Leave that view out, or train a policy with it."
                raise DataError(f"{where}.images.{view}", "a view that was never taught", f"only {takes}", todo)
        return [
            Image(pixels=frame, view=view) for view in self.views for frame in self._frames(images[view], view, where)
        ]

    def _frames(self, pixels: Any, view: str, where: str) -> np.ndarray:
        """Return the frames of a view, f h w 3."""
        where = f"{where}.images.{view}"
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            found = f"{pixels.dtype} numbers" if isinstance(pixels, np.ndarray) else f"a {type(pixels).__name__}"
            raise DataError(where, found, "a numpy array of uint8, RGB 0..255", "Multiply floats in 0..1 by 255.")
        frames = pixels[None] if pixels.ndim == 3 and self.history == 1 else pixels
        asked = "h x w x 3" if self.history == 1 else f"{self.history} x h x w x 3"
        if frames.ndim != 4 or frames.shape[0] != self.history or frames.shape[3] != 3 or 0 in frames.shape:
            todo = "Put the channels last; give the frames oldest first where there is a history."
            raise DataError(where, f"a picture of shape {pixels.shape}", asked, todo)
        size = self.picture_sizes[view]
        if not self.resizes and frames.shape[1:3] != size:
            found = f"{frames.shape[1]} x {frames.shape[2]} pixels"
            todo = "Resize it as the recordings were, or train with a Resize step in the transforms."
            raise DataError(where, found, f"{size[0]} x {size[1]}, as recorded (nothing resizes)", todo)
        return frames

    def _state(self, given: Mapping[str, Any], where: str) -> np.ndarray:
        where, names = f"{where}.state", ", ".join(self.state_names)
        if given.get("state") is None:
            raise DataError(where, "nothing", f"{len(self.state_names)} numbers ({names})", "Give the robot's state.")
        try:
            values = np.asarray(given["state"], np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(where, f"{error}", f"numbers ({names})", "Give plain numbers.") from None
        if values.shape != (len(self.state_names),):
            found, expected = f"shape {values.shape}", f"{len(self.state_names)} numbers ({names})"
            raise DataError(where, found, expected, "Give them in this order.")
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            name = self.state_names[bad[0]]
            raise DataError(where, f"{values[bad[0]]} in {name!r}", "finite numbers", "Look at that sensor.")
        return values


def _words(given: Mapping[str, Any], where: str) -> str:
    words = given.get("instruction")
    if not isinstance(words, str) or not words.strip():
        found = "nothing" if words is None else repr(words)[:60]
        raise DataError(f"{where}.instruction", found, "what to do, in words", "Say it as the demonstrations did.")
    return words


def _plain(sample: Sample, where: str) -> dict[str, Any]:
    """Take a recorded observation apart.

    Raises:
        DataError: something in it is no part of an observation.
    """
    images: dict[str, list[np.ndarray]] = {}
    given: dict[str, Any] = {"embodiment": sample.embodiment}
    for segment in sample.segments:
        name = type(segment).__name__.lower()
        if isinstance(segment, Image):
            images.setdefault(segment.view, []).append(segment.pixels)
        elif isinstance(segment, State) and "state" not in given:
            given["state"] = segment.values
        elif isinstance(segment, Text) and segment.role == "instruction" and "instruction" not in given:
            given["instruction"] = segment.text
        else:
            role = f" ({segment.role})" if isinstance(segment, Text) else ""
            found, expected = f"a {name}{role} in sample {sample.id}", "pictures, one instruction and one state"
            raise DataError(f"{where}.{name}", found, expected, "Leave it out.")
    stacked = {view: frames[0] if len(frames) == 1 else np.stack(frames) for view, frames in images.items()}
    return given | {"images": stacked}
