"""Pictures compressed again, as if they had come from the web once more: in training only."""

import io
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator
from PIL import Image as Pillow
from pydantic import Field

from trivium.core.config import Config
from trivium.core.sample import Image, Sample, Segment
from trivium.data.blank import is_blank
from trivium.data.chain import Transform
from trivium.data.column import Stats


class JpegConfig(Config):
    """Compress still pictures as JPEG at a random quality, in training only."""

    kind: Literal["jpeg"] = "jpeg"
    lowest: int = Field(default=75, ge=1, le=100)
    """Lowest quality, drawn evenly from here to 100. InternVL 2.5 takes 75; below 50 blocks hide small objects."""

    def build(self, stats: Stats) -> "Jpeg":
        """Make the step."""
        return Jpeg(self)


class Jpeg(Transform):
    """Every still picture at its own draw, and no video (InternVL 2.5, https://arxiv.org/abs/2412.05271)."""

    pixels = True
    numeric = False
    draws = True

    def __init__(self, config: JpegConfig) -> None:
        """Hold the lowest quality."""
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Compress every picture; without `rng` nothing changes."""
        if rng is None:
            return sample

        def compressed(segment: Segment) -> Segment:
            if not isinstance(segment, Image):
                return segment
            quality = int(rng.integers(self.config.lowest, 101))
            return segment if is_blank(segment.pixels) else replace(segment, pixels=compress(segment.pixels, quality))

        return replace(sample, segments=tuple(map(compressed, sample.segments)))


def compress(pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture as it looks after JPEG (Pillow's, colour at half the resolution)."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Pillow.open(buffer).convert("RGB"))
