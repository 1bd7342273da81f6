"""The one record needs numpy only, and hands out segments in order."""

import subprocess
import sys

import numpy as np
import pytest

from trivium.core.sample import Action, Image, Sample, Text


def test_of_keeps_the_order_of_segments():
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    sample = Sample(
        id="a/0/0",
        segments=(
            Text(text="first"),
            Image(pixels=pixels, view="left"),
            Text(text="second", role="answer"),
            Image(pixels=pixels),
        ),
        source="a",
        license="MIT",
    )
    assert [text.text for text in sample.of(Text)] == ["first", "second"]
    assert [image.view for image in sample.of(Image)] == ["left", "image"]
    assert sample.of(Action) == []


def test_a_robot_client_needs_no_torch():
    code = "import sys; import trivium.core.sample; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


def test_wrong_pixels_are_caught_in_tests():
    with pytest.raises(Exception, match="typechecking parameter 'pixels'"):
        Image(pixels=np.zeros((2, 2, 3), dtype=np.float32))
