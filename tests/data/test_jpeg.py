import io

import numpy as np
import pytest
from PIL import Image as Pillow

from trivium.core.sample import Image, Sample, Video
from trivium.data.blank import blank
from trivium.data.jpeg import JpegConfig, compress


def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    return (ramp[None, :, None] // 2 + noise).astype(np.uint8)


def sample(*segments: Image | Video) -> Sample:
    return Sample(id="w/0", segments=segments, source="w", license="")


@pytest.mark.parametrize("quality", [75, 90, 100])
def test_the_pixels_are_those_of_a_jpeg_file(quality):
    buffer = io.BytesIO()
    Pillow.fromarray(picture()).save(buffer, "JPEG", quality=quality)
    assert (compress(picture(), quality) == np.asarray(Pillow.open(buffer).convert("RGB"))).all()


def test_a_lower_quality_costs_more():
    off = [np.abs(compress(picture(), quality).astype(int) - picture()).mean() for quality in (30, 75, 100)]
    assert off[0] > off[1] > off[2] > 0


def test_only_in_training_and_every_picture_at_its_own_draw():
    step = JpegConfig(lowest=10).build({})
    first, second = Image(pixels=picture()), Image(pixels=picture(), view="other")
    assert step.forward(sample(first), None).of(Image)[0] is first
    out = step.forward(sample(first, second), np.random.default_rng(0)).of(Image)
    assert (out[0].pixels != out[1].pixels).any()
    assert [image.view for image in out] == ["image", "other"]
    again = step.forward(sample(first, second), np.random.default_rng(0)).of(Image)
    assert all((a.pixels == b.pixels).all() for a, b in zip(out, again, strict=True))


def test_qualities_are_drawn_evenly_from_the_lowest_to_100(monkeypatch):
    drawn = []
    monkeypatch.setattr("trivium.data.jpeg.compress", lambda pixels, quality: drawn.append(quality) or pixels)
    step, rng = JpegConfig().build({}), np.random.default_rng(0)
    for _ in range(2600):
        step.forward(sample(Image(pixels=picture())), rng)
    counts = np.bincount(drawn, minlength=101)
    assert counts[:75].sum() == 0
    assert counts[75:].min() > 50


def test_video_and_blank_pictures_are_left_alone():
    video = Video(frames=np.stack([picture()] * 2), times_s=np.array([0.0, 0.1]))
    empty = Image(pixels=blank(9, 8))
    out = JpegConfig().build({}).forward(sample(video, empty), np.random.default_rng(0))
    assert out.segments[0] is video
    assert out.segments[1] is empty
