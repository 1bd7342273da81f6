"""The frame that a sample is to foresee: which one, where it ends, and that nobody else sees it."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_run
import write_formats

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.bucket import select
from trivium.data.detect import open_episodes
from trivium.data.index import count
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import Chain, ResizeConfig
from trivium.language.model import TinyLanguageConfig
from trivium.policy.sequence import VlaLayout
from trivium.vision.image_tokens import ImageTokensLayout

LENGTHS, AHEAD = (9, 14, 5), 3


def open_set(path: Path, **changes):
    return LeRobotConfig(**{"path": str(path), "views": ("front",), "horizon": 4, "future": AHEAD} | changes).build()


def test_the_later_frame_is_the_right_one_and_the_last_ones_have_none(toy_set, picture_number):
    source, bare = open_set(toy_set), 0
    for i in range(len(source)):
        sample = source.read(i)
        now, *later = sample.of(Image)
        _, episode, frame = (int(part) if part.isdecimal() else part for part in sample.id.split("/"))
        assert picture_number(now.pixels) == (episode, frame)
        expected = [(episode, frame + AHEAD)] if frame + AHEAD < LENGTHS[episode] else []
        assert [picture_number(image.pixels) for image in later] == expected
        assert [image.time_s for image in later] == pytest.approx([(frame + AHEAD) / source.fps] * len(later))
        kinds = [type(segment) for segment in sample.segments]
        assert kinds == [Image, Text, State, Action, *[Image] * len(later)], "behind what leads to it"
        assert [type(part) for part in source.peek(i).segments] == kinds
        bare += not later
    assert bare == AHEAD * len(LENGTHS)


def test_a_history_and_several_views_keep_their_order(toy_set, picture_number):
    sample = open_set(toy_set, history=3, future=1).read(5)
    assert [picture_number(image.pixels) for image in sample.of(Image)] == [(0, 3), (0, 4), (0, 5), (0, 6)]


def test_what_is_counted_is_what_is_there(toy_set):
    source = open_set(toy_set)

    found = count(source, select(source, "all", 0.0), Chain([ResizeConfig(size=8).build({})]), ImageTokensLayout(1))
    assert found.tokens["image"].tolist() == [len(source.read(i).of(Image)) for i in range(len(source))]


def test_another_future_is_another_source(toy_set):
    prints = {open_set(toy_set, future=future).fingerprint for future in (0, 1, 2)}
    assert len(prints) == 3
    assert open_set(toy_set, future=0).read(2).of(Image)[0].time_s == pytest.approx(0.1)
    assert len(open_set(toy_set, future=0).read(2).of(Image)) == 1


def test_a_policy_refuses_the_future(toy_set):
    layout = VlaLayout(TinyLanguageConfig().vocab(), 4, None)
    with pytest.raises(DataError, match=r"toy/0/2: found a picture of view 'front' at 0.25 s.*done at 0.1 s.*future=0"):
        layout.count(open_set(toy_set).peek(2))
    assert layout.count(open_set(toy_set, future=0).peek(2))
    last = open_set(toy_set).peek(LENGTHS[0] - 1)
    assert layout.count(last), "the last frames show the present alone"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    whole = open_episodes(small_run.write_set(root / "lerobot", 2))
    write_formats.write_robomimic(root / "robomimic.hdf5", whole, 2)
    write_formats.write_diffusion_policy(root / "buffer", whole, 2)
    write_formats.write_rlds(root / "rlds", whole, 2)
    return root


@pytest.mark.parametrize("name", ["lerobot", "buffer", "rlds", "robomimic.hdf5"])
def test_every_format_has_it_at_every_rate(sets: Path, name: str):
    found = open_episodes(sets / name, ["future=2"])
    later = found.read(3).of(Image)[1]
    np.testing.assert_array_equal(later.pixels, open_episodes(sets / name).read(5).of(Image)[0].pixels)
    kinds = json.dumps(dict.fromkeys(found.names("action"), "delta"))
    half = open_episodes(sets / name, ["future=2", f"rate_hz={found.fps / 2}", f"kinds={kinds}"])
    np.testing.assert_array_equal(half.read(1).of(Image)[1].pixels, found.read(2 + 4).of(Image)[0].pixels)
