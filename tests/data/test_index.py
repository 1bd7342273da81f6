import json
import os
from dataclasses import replace

import numpy as np
import pytest
from numpy.random import Generator

from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Text
from trivium.data import index as index_module
from trivium.data.index import Index, count
from trivium.data.row import Row
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.text import TextConfig
from trivium.data.transform import Chain, ResizeConfig, Transform


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


class AnswersTruth(Transform):
    """Says more where the truth is larger, as a grounding step does."""

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        size = int(sample.truth["object"][1])
        return replace(sample, segments=(*sample.segments, Text(text="z" * size, role="answer")))


class Shapes(Letters):
    """Looks at no number, and says so."""

    numeric = False


def paraphrased(toy_set, **changes):
    return LeRobotConfig(path=str(toy_set), views=("front",), horizon=2, **changes).build()


@pytest.mark.parametrize("paraphrase", [True, False])
def test_samples_alike_are_counted_once(toy_set, paraphrase):
    source = paraphrased(toy_set, paraphrase=paraphrase)
    every = np.arange(len(source))
    one_by_one = count(source, every, Chain([]), Letters())
    Letters.calls = Shapes.calls = 0
    together = count(source, every, Chain([]), Shapes())
    sentences = {source.peek(i).of(Text)[0].text for i in every.tolist()}
    assert Shapes.calls == len(sentences) == (4 if paraphrase else 2)
    assert together.digest == one_by_one.digest
    some = every[3::4]
    assert count(source, some, Chain([]), Shapes()).lengths.tolist() == one_by_one.lengths[3::4].tolist()


def test_a_step_that_looks_at_numbers_has_every_sample_counted(toy_set):
    source = paraphrased(toy_set, paraphrase=False)
    assert not Chain([ResizeConfig(size=16).build({})]).numeric
    found = count(source, np.arange(len(source)), Chain([AnswersTruth()]), Shapes())
    assert found.tokens["text"][:9].tolist() == [len("push the block") + t for t in range(9)]


def test_columns_are_as_narrow_as_their_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x" * j}) for j in range(1, 400)))
    source = TextConfig(path=str(path)).build()
    index = count(source, np.arange(399), Chain([]), Letters())
    assert index.tokens["text"].dtype == np.uint16
    assert index.samples.dtype == np.uint32
    assert index.lengths.tolist() == list(range(1, 400))
    assert index.num_bytes == 399 * (4 + 2) + 1 + 1, "number and text; that there are no pictures is said once"
    wide = Index(
        fingerprint=index.fingerprint,
        samples=index.samples.astype(np.int64),
        images=np.zeros(399, np.int64),
        tokens={name: np.array(column, np.int32) for name, column in index.tokens.items()},
    )
    assert wide.digest == index.digest
    wide.tokens["text"][7] += 1
    assert wide.digest != index.digest


@pytest.mark.parametrize("fails", [False, True])
def test_many_samples_are_counted_by_several_processes_alike(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x" * (1 + j % 90)}) for j in range(501)))
    source = TextConfig(path=str(path)).build()
    alone = count(source, np.arange(501), Chain([]), Letters(3))
    monkeypatch.setattr(index_module, "MANY", 100)
    monkeypatch.setattr(index_module, "_memo", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    done, before = [], Letters.calls
    if fails:
        with pytest.raises(DataError, match="sample a/0/0: found -1 text tokens"):
            count(source, np.arange(501), Chain([]), Letters(-1))
        return
    together = count(source, np.arange(501), Chain([]), Letters(3), done.append)
    assert Letters.calls == before, "this process counted nothing itself"
    assert together.digest == alone.digest
    assert done == sorted(done)
    assert done[-1] == 501
