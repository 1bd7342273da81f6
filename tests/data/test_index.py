import json

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Text
from trivium.data.index import count
from trivium.data.row import Row
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.text import TextConfig
from trivium.data.transform import Chain, ResizeConfig


class Letters:
    """A layout: a token for each letter, four for each picture of 16 pixels."""

    calls = 0

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def count(self, sample: Sample) -> dict[str, int]:
        type(self).calls += 1
        images = sum(image.pixels.shape[0] // 4 for image in sample.of(Image))
        return {"text": self.scale * sum(len(text.text) for text in sample.of(Text)), "image": images}

    def build(self, sample: Sample) -> Row:
        raise AssertionError("counting builds nothing")


def test_counts_by_column_without_decoding(own_set):
    import shutil

    source = LeRobotConfig(path=str(own_set), views=("front",), horizon=2, history=2, paraphrase=False).build()
    shutil.rmtree(own_set / "videos")
    done = []
    index = count(source, np.arange(20), Chain([ResizeConfig(size=16).build({})]), Letters(), done.append)
    assert index.tokens["text"].tolist() == [len("push the block")] * 9 + [len("open the drawer")] * 11
    assert index.tokens["image"].tolist() == [8] * 20
    assert index.images.tolist() == [2] * 20
    assert index.lengths.tolist() == [22] * 9 + [23] * 11
    assert done[-1] == 20


def test_counting_again_is_free_until_something_changes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x" * j}) for j in range(1, 9)))
    source = TextConfig(path=str(path)).build()
    first = count(source, np.arange(8), Chain([]), Letters())
    Letters.calls = 0
    assert count(source, np.arange(8), Chain([]), Letters()) is first
    assert Letters.calls == 0
    others = [count(source, np.arange(8), Chain([]), Letters(2)), count(source, np.arange(7), Chain([]), Letters())]
    assert Letters.calls == 15
    assert len({first.digest, *(other.digest for other in others)}) == 3
    Letters.calls = 0
    path.write_text(path.read_text().replace("xx", "yy"))
    count(TextConfig(path=str(path)).build(), np.arange(8), Chain([]), Letters(1))
    assert Letters.calls == 8


def test_a_layout_that_counts_less_than_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "abc"}')
    with pytest.raises(DataError, match="sample a/0/0: found -3 text tokens"):
        count(TextConfig(path=str(path)).build(), np.arange(1), Chain([]), Letters(-1))
