"""Contact sheets hold every sample, whatever it is made of."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from trivium.core.errors import SetupError
from trivium.core.sample import Action, Image, Sample, Segment, State, Text
from trivium.report.rerun_log import log_samples
from trivium.report.sheet import draw_sheet


def sample(*segments: Segment) -> Sample:
    return Sample(id="set/1/2", segments=segments, source="set", license="MIT")


def red(size: int = 32) -> Image:
    return Image(pixels=np.full((size, size, 3), (200, 10, 10), np.uint8))


def robot() -> Sample:
    chunk = Action(values=np.zeros((4, 2), np.float32), valid=np.array([1, 1, 0, 0], bool), names=("a", "b"))
    return sample(red(), Text(text="lift it"), State(values=np.zeros(2, np.float32), names=("x", "y")), chunk)


def count_red(path: Path) -> int:
    with Pillow.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((abs(pixels - (200, 10, 10)).sum(-1) < 30).sum())


def test_every_picture_is_drawn(tmp_path: Path):
    draw_sheet([robot()], tmp_path / "one.png")
    draw_sheet([robot()] * 3, tmp_path / "three.png")
    assert count_red(tmp_path / "one.png") > 1000
    assert count_red(tmp_path / "three.png") == pytest.approx(3 * count_red(tmp_path / "one.png"), rel=0.2)


@pytest.mark.parametrize(
    "segments",
    [
        (Text(text="words only " * 80),),
        (Text(text="half a $formula, and a very long word: " + "x" * 500),),
        (red(), Text(text="q?", role="question"), Text(text="a", role="answer")),
        (red(),) * 9,
        (),
    ],
)
def test_any_sort_of_sample_can_be_drawn(tmp_path: Path, segments: tuple[Segment, ...]):
    draw_sheet([sample(*segments), robot()], tmp_path / "sheet.png")
    with Pillow.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 300


def test_a_missing_viewer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trivium.report.rerun_log.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="pip install rerun-sdk"):
        log_samples([robot()], tmp_path / "log.rrd")
