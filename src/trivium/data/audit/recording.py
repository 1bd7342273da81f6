"""What the audit looks at: the numbers of a set, and one small grey picture a frame and view, decoded once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image as Pillow

from trivium.data.source.episode import EpisodeSource, Trajectories

SIDE = 32
"""Pixels along each side of a look: motion shows, and 100,000 frames take 100 MB."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A set in memory, e episodes one after the other in n frames."""

    name: str
    fps: float
    number: Int[np.ndarray, " e"]
    """What the set calls each episode."""
    begin: Int[np.ndarray, " e"]
    end: Int[np.ndarray, " e"]
    state: Float32[np.ndarray, "n s"]
    action: Float32[np.ndarray, "n a"]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    looks: Mapping[str, UInt8[np.ndarray, "n p"]] = field(default_factory=dict)
    """Grey pictures of `SIDE` x `SIDE` pixels by view; empty where pictures were not asked for."""
    clock: Float32[np.ndarray, " n"] | None = None
    """Stored times in seconds since the episode began, where the source shows them."""

    def spans(self) -> list[slice]:
        """Return the frames of each episode."""
        return [slice(int(b), int(e)) for b, e in zip(self.begin, self.end, strict=True)]

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.end)


def watch(
    source: EpisodeSource, views: tuple[str, ...], tick: Callable[[int], None] = lambda frames: None
) -> Recording:
    """Take the numbers of a set, and decode each picture of these views once, in stored order.

    Args:
        source: any set of episodes.
        views: cameras to look at; () decodes nothing.
        tick: told how many pictures have come in.

    Raises:
        DataError: a picture cannot be decoded.
    """
    found = source.found
    looks = {view: np.empty((len(found.state), SIDE * SIDE), np.uint8) for view in views}
    for view in views:
        for e, (begin, end) in enumerate(zip(found.begin, found.end, strict=True)):
            place = int(found.place[e]) if len(found.place) else e
            for i in range(int(begin), int(end)):
                stored = int(found.shown[i]) if len(found.shown) else i - int(begin)
                looks[view][i] = look(source.picture(view, place, stored))
            tick(int(end - begin))
    return recording(source.name, found, looks)


def recording(name: str, found: Trajectories, looks: Mapping[str, UInt8[np.ndarray, "n p"]]) -> Recording:
    """Join numbers and looks."""
    return Recording(
        name=name,
        fps=float(found.fps),
        number=found.number,
        begin=found.begin,
        end=found.end,
        state=found.state,
        action=found.action,
        state_names=found.state_names,
        action_names=found.action_names,
        looks=looks,
        clock=found.clock if len(found.clock) else None,
    )


def look(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, " p"]:
    """Return one picture in grey at `SIDE` x `SIDE`, averaged over boxes so that noise and blur cancel."""
    small = Pillow.fromarray(pixels).convert("L").resize((SIDE, SIDE), Pillow.Resampling.BOX)
    return np.asarray(small).reshape(-1)
