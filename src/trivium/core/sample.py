"""The one record: an ordered list of timed, typed segments with provenance and licence (numpy only)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, UInt8

Role = Literal["document", "instruction", "caption", "question", "answer"]

ABSENT, LINE, CIRCLE = 0, 1, 2
"""What a dimension of the model's action is for one robot: one that it lacks, a number, an angle on a circle."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Text:
    """Words; `role` says what they are for (a loss is taken on documents, captions and answers)."""

    text: str
    role: Role = "document"
    time_s: float = 0.0
    sentinels: tuple[str, ...] = ()
    """Words that are structure in this text and nothing else: who wrote it has escaped them in what it quotes. Only
    these may become special tokens; the same words in any other text are spelled out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Image:
    """One picture, RGB 0..255, from the camera named `view`."""

    pixels: UInt8[np.ndarray, "h w 3"]
    view: str = "image"
    time_s: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Video:
    """Frames in time order, RGB 0..255; `times_s` are seconds from the start of the recording."""

    frames: UInt8[np.ndarray, "f h w 3"]
    times_s: Float[np.ndarray, " f"]
    view: str = "image"
    time_s: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """What the robot feels (proprioception), in physical units; `names` has one entry a dimension."""

    values: Float32[np.ndarray, " s"]
    names: tuple[str, ...]
    time_s: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Action:
    """A chunk of commands that follow the observation: row j is the command of step t + j.

    `valid` is False where the chunk ran past the end of its episode (the last command is repeated there).
    """

    values: Float32[np.ndarray, "k a"]
    valid: Bool[np.ndarray, " k"]
    names: tuple[str, ...]
    time_s: float = 0.0


Segment = Text | Image | Video | State | Action


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """The only thing that travels between sources, cleaners, synthesisers, transforms and layouts.

    `id` is unique and stable ("source/episode/frame"); `embodiment` names the robot whose statistics apply
    ("" when there is no robot); `truth` holds simulator facts that serve as labels of probes and are never
    shown to a policy (`policy/sequence.py` does not read it). `dims` says what each dimension of the model's action
    is for this robot (`ABSENT`, `LINE`, `CIRCLE`); None where all are plain numbers.
    """

    id: str
    segments: tuple[Segment, ...]
    source: str
    license: str
    embodiment: str = ""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    dims: Int8[np.ndarray, " a"] | None = None

    def of(self, kind: type) -> list:
        """Return the segments of one kind, in order."""
        return [segment for segment in self.segments if isinstance(segment, kind)]
