import numpy as np
import pytest
from PIL import Image as Pillow

from trivium.core.errors import ConfigError
from trivium.core.sample import Image, Sample, Segment, State, Text, Video
from trivium.data.blank import blank, is_blank
from trivium.data.tile import TileConfig, grid


def picture(width: int, height: int, view: str = "image") -> Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image(pixels=pixels, view=view)


def sample(*segments: Segment) -> Sample:
    return Sample(id="w/0", segments=segments, source="w", license="")


PUBLISHED = {
    # width, height, most tiles: columns, rows; what the published rule gives at 448 px
    (448, 448, 12): (1, 1),
    (640, 480, 12): (4, 3),
    (1920, 1080, 12): (4, 2),
    (1080, 1920, 12): (2, 4),
    (800, 1600, 6): (1, 2),
    (4000, 500, 12): (8, 1),
    (5000, 100, 12): (12, 1),
    (2000, 2000, 12): (3, 3),
    (2000, 2000, 40): (6, 6),
    (1000, 1000, 12): (3, 3),
    (900, 900, 12): (2, 2),
    (400, 400, 12): (1, 1),
    (1344, 896, 6): (3, 2),
    (1344, 896, 1): (1, 1),
}


def published(width: int, height: int, least: int, most: int, size: int) -> tuple[int, int]:
    """InternVL's rule, restated from its text: nearest ratio, in order of tiles; ties by half the grid's area."""
    grids = {(i, j) for n in range(least, most + 1) for i in range(1, n + 1) for j in range(1, n + 1)}
    best, near = (1, 1), float("inf")
    for i, j in sorted((g for g in grids if least <= g[0] * g[1] <= most), key=lambda g: g[0] * g[1]):
        off = abs(width / height - i / j)
        if off < near:
            best, near = (i, j), off
        elif off == near and width * height > 0.5 * size * size * i * j:
            best = (i, j)
    return best


@pytest.mark.parametrize(("case", "expected"), PUBLISHED.items())
def test_the_grid_of_the_published_algorithm(case, expected):
    width, height, most = case
    assert published(width, height, 1, most, 448) == expected, "the table is wrong"
    assert grid(width, height, 1, most, 448) == expected


def test_the_grid_of_the_published_algorithm_at_random():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(20, 3000, (300, 2)).tolist():
        assert grid(width, height, 1, 12, 448) == published(width, height, 1, 12, 448), (width, height)


def test_tiles_lie_row_by_row_and_the_whole_comes_last():
    wide = picture(300, 200)
    out = TileConfig(size=32, max_tiles=6).build({}).forward(sample(wide, Text(text="a", role="caption")), None)
    assert [image.view for image in out.of(Image)] == [*(f"image/{j}" for j in range(6)), "image/whole"]
    assert isinstance(out.segments[-1], Text)
    large = np.asarray(Pillow.fromarray(wide.pixels).resize((96, 64), Pillow.Resampling.BICUBIC))
    tiles = [image.pixels for image in out.of(Image)]
    assert (np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:6], 1)]) == large).all()
    assert (tiles[6] == np.asarray(Pillow.fromarray(wide.pixels).resize((32, 32), Pillow.Resampling.BICUBIC))).all()


@pytest.mark.parametrize("number", [1, 2, 5, 13])
def test_pictures_share_the_tiles(number):
    pictures = [picture(300, 100, f"v{j}") for j in range(number)]
    out = TileConfig(size=32, max_tiles=12).build({}).forward(sample(*pictures), None).of(Image)
    each = max(1, 12 // number)
    columns, rows = grid(300, 100, 1, each, 32)
    tiles = columns * rows + (columns * rows > 1)
    assert len(out) == number * tiles
    assert all(image.pixels.shape == (32, 32, 3) for image in out)
    if each == 1:
        assert [image.view for image in out] == [f"v{j}" for j in range(number)]


def test_a_least_number_gives_way_to_the_share():
    step = TileConfig(size=32, min_tiles=4, max_tiles=6).build({})
    assert len(step.forward(sample(picture(40, 40)), None).of(Image)) == 5
    assert len(step.forward(sample(*[picture(40, 40)] * 3), None).of(Image)) == 3 * 3
    with pytest.raises(ConfigError, match=r"tile\.max_tiles: found 2; expected at least min_tiles, 4"):
        TileConfig(min_tiles=4, max_tiles=2).build({})


def test_robots_keep_their_pictures_whole_unless_asked():
    state = State(values=np.zeros(2, np.float32), names=("a", "b"))
    robot = sample(picture(300, 100, "front"), state)
    assert TileConfig(size=32).build({}).forward(robot, None) is robot
    asked = TileConfig(size=32, robots=True).build({}).forward(robot, None)
    assert asked.of(Image)[-1].view == "front/whole"


def test_blank_pictures_become_as_many_blank_tiles():
    step = TileConfig(size=32).build({})
    for width, height in ((300, 100), (64, 64), (7, 90)):
        seen = step.forward(sample(picture(width, height)), None).of(Image)
        peeked = step.forward(sample(Image(pixels=blank(height, width))), None).of(Image)
        assert [(i.view, i.pixels.shape) for i in seen] == [(i.view, i.pixels.shape) for i in peeked]
        assert all(is_blank(image.pixels) for image in peeked)


def test_frames_of_a_video_are_one_tile_each():
    frames = np.stack([picture(90, 30).pixels] * 3)
    video = Video(frames=frames, times_s=np.arange(3.0), view="clip")
    words = Text(text="a", role="caption")
    out = TileConfig(size=32).build({}).forward(sample(words, video, picture(64, 64)), None)
    assert [type(segment) for segment in out.segments] == [Text, Video, *[Image] * (len(out.segments) - 2)]
    [clip] = out.of(Video)
    assert clip.frames.shape == (3, 32, 32, 3)
    assert clip.view == "clip"
