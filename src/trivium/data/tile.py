"""A large picture as several small ones: the grid of tiles that comes nearest to its shape, and a thumbnail."""

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator
from PIL import Image as Pillow
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.sample import Image, Sample, Segment, State
from trivium.data.blank import blank, is_blank
from trivium.data.chain import Transform, on_pixels
from trivium.data.column import Stats


class TileConfig(Config):
    """Cut still pictures into tiles of one size, with a thumbnail of the whole (InternVL's dynamic tiling)."""

    kind: Literal["tile"] = "tile"
    size: int = Field(default=448, ge=8, le=1024)
    """Height and width of a tile in pixels: what the vision encoder takes (InternVL: 448)."""
    min_tiles: int = Field(default=1, ge=1, le=64)
    """Tiles of one picture at least, the thumbnail not counted; above 1 small pictures are blown up."""
    max_tiles: int = Field(default=12, ge=1, le=64)
    """Tiles of all pictures of a sample at most, shared evenly, the thumbnails not counted: InternVL 2.5 takes 6 to 12
    for most sets, 24 to 36 for documents. Each tile costs as many tokens as a picture."""
    robots: bool = False
    """Tile samples with a state too. A robot sees often and from the same places, so its pictures stay whole."""

    def build(self, stats: Stats) -> "Tile":
        """Make the step.

        Raises:
            ConfigError: fewer tiles at most than at least.
        """
        if self.max_tiles < self.min_tiles:
            least = f"at least min_tiles, {self.min_tiles}"
            raise ConfigError("transforms: tile.max_tiles", str(self.max_tiles), least, "Raise it, or lower min_tiles.")
        return Tile(self)


class Tile(Transform):
    """One picture becomes its tiles, row by row, then a thumbnail where there is more than one.

    InternVL 1.5 and 2.5 (https://arxiv.org/abs/2404.16821, https://arxiv.org/abs/2412.05271): bicubic, proportions are
    given up; of N pictures each may have max(1, max_tiles // N); a frame of a video is one tile. We differ where that
    share falls below `min_tiles`: the share holds, where the published code finds no grid.
    """

    pixels = True
    numeric = False

    def __init__(self, config: TileConfig) -> None:
        """Hold the settings."""
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Cut every picture; views are called front/0, front/1, front/whole, or front where one tile is enough."""
        if sample.of(State) and not self.config.robots:
            return sample
        most = max(1, self.config.max_tiles // max(1, len(sample.of(Image))))
        segments: list[Segment] = []
        for segment in sample.segments:
            segments += self._cut(segment, most) if isinstance(segment, Image) else [segment]
        # Tiles have their size already, so this reaches the frames of videos alone.
        return on_pixels(replace(sample, segments=tuple(segments)), lambda pixels, _: self._whole(pixels))

    def _cut(self, image: Image, most: int) -> list[Segment]:
        size, (height, width) = self.config.size, image.pixels.shape[:2]
        columns, rows = grid(width, height, min(self.config.min_tiles, most), most, size)
        large = _resize(image.pixels, columns, rows, size)
        if columns * rows == 1:
            return [replace(image, pixels=large)]
        tiles = [
            blank(size, size) if is_blank(large) else large[y : y + size, x : x + size]
            for y in range(0, rows * size, size)
            for x in range(0, columns * size, size)
        ]
        named: list[Segment] = [replace(image, pixels=tile, view=f"{image.view}/{j}") for j, tile in enumerate(tiles)]
        return [*named, replace(image, pixels=self._whole(image.pixels), view=f"{image.view}/whole")]

    def _whole(self, pixels: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        return _resize(pixels, 1, 1, self.config.size)


@lru_cache(4096)
def grid(width: int, height: int, least: int, most: int, size: int) -> tuple[int, int]:
    """Return the columns and rows of the grid that comes nearest to a picture's shape.

    Of two grids equally near, the larger is taken where its area is less than twice the picture's. Grids are gone
    through by number of tiles, then by columns (the published code leaves that order to a Python set).
    """
    choices = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if least <= i * j <= most]
    best, nearest = (1, 1), float("inf")
    for i, j in sorted(choices, key=lambda choice: (choice[0] * choice[1], choice[0])):
        distance = abs(width / height - i / j)
        if distance < nearest or (distance == nearest and i * j * size**2 < 2 * width * height):
            best, nearest = (i, j), distance
    return best


def _resize(pixels: UInt8[np.ndarray, "_ _ 3"], columns: int, rows: int, size: int) -> UInt8[np.ndarray, "_ _ 3"]:
    if is_blank(pixels):
        return blank(rows * size, columns * size)
    target = (columns * size, rows * size)
    if target == pixels.shape[1::-1]:
        return pixels
    return np.asarray(Pillow.fromarray(pixels).resize(target, Pillow.Resampling.BICUBIC))
