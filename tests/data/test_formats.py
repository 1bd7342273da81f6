"""One recording in every format: each is found out, read alike, and stays right at another rate and when corrected."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_run
import write_formats

from trivium.core.sample import Action, Image, State, Text
from trivium.data.convert import convert
from trivium.data.detect import detect, find, open_all, open_episodes
from trivium.data.source.corrections import Correction, write_corrections
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.scene import prepare

EPISODES = 4


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    source = open_episodes(small_run.write_set(root / "lerobot", EPISODES))
    write_formats.write_robomimic(root / "robomimic.hdf5", source, EPISODES)
    write_formats.write_diffusion_policy(root / "buffer", source, EPISODES)
    write_formats.write_rlds(root / "rlds", source, EPISODES)
    write_formats.write_webdataset(root / "shard.tar", write_formats.captions(source, 6))
    rows = [(picture, "What is to be done?", words) for picture, words in write_formats.captions(source, 3)]
    write_formats.write_llava(root / "llava", rows)
    files = [(repo, f"{name}.py", f"print({name!r})\n") for repo in ("a/b", "c/d") for name in ("x", "y")]
    write_formats.write_code(root / "code.parquet", files)
    write_formats.write_talk(root / "talk", source, 2)
    prepare(root / "talk")
    (root / "text.jsonl").write_text('{"text": "one"}\n')
    return root


KINDS = {
    "buffer": "zarr",
    "code.parquet": "code",
    "lerobot": "lerobot",
    "llava/train.json": "conversation",
    "rlds": "rlds",
    "robomimic.hdf5": "hdf5",
    "shard.tar": "webdataset",
    "talk": "interleaved",
    "text.jsonl": "text",
}
ROBOTS = ("buffer", "rlds", "robomimic.hdf5")


def test_every_format_is_found_out(sets: Path):
    assert {str(path.relative_to(sets)): detect(path).kind for path in find(sets)} == KINDS
    for name in KINDS:
        source = open_all(sets / name)
        sample, blank = source.read(len(source) - 1), source.peek(len(source) - 1)
        assert [type(segment) for segment in sample.segments] == [type(segment) for segment in blank.segments]
        shapes = [[image.pixels.shape for image in one.of(Image)] for one in (sample, blank)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ROBOTS)
def test_robots_are_read_alike(sets: Path, name: str):
    wanted = open_episodes(sets / "lerobot", ["horizon=4"])
    found = open_episodes(sets / name, ["horizon=4"])
    assert len(found) == len(wanted)
    for i in range(0, len(wanted), 5):
        old, new = wanted.read(i), found.read(i)
        # The pictures that were written are those that the video gives, so that nothing may differ.
        np.testing.assert_array_equal(new.of(Image)[0].pixels, old.of(Image)[0].pixels)
        np.testing.assert_array_equal(new.of(State)[0].values, old.of(State)[0].values)
        np.testing.assert_array_equal(new.of(Action)[0].values, old.of(Action)[0].values)
        np.testing.assert_array_equal(new.of(Action)[0].valid, old.of(Action)[0].valid)
    if name == "rlds":
        assert found.task(0) == wanted.task(0)


@pytest.mark.parametrize("name", ["lerobot", *ROBOTS])
def test_another_rate_shows_the_right_pictures(sets: Path, name: str):
    whole = open_episodes(sets / name)
    kinds = json.dumps(dict.fromkeys(whole.names("action"), "delta"))
    half = open_episodes(sets / name, [f"rate_hz={whole.fps / 2}", f"kinds={kinds}"])
    assert len(half) == EPISODES * small_run.LENGTH // 2
    for i in (0, 5, small_run.LENGTH // 2 + 1, len(half) - 1):
        same_picture(half, i, whole, 2 * i)


@pytest.mark.parametrize("name", ["lerobot", *ROBOTS])
def test_corrections_leave_out_and_move(sets: Path, name: str, tmp_path: Path):
    whole = open_episodes(sets / name)
    numbers = whole.found.number
    corrections = {int(numbers[1]): Correction(leave_out="broken"), int(numbers[2]): Correction(pictures=2)}
    (tmp_path / "fix.json").write_text(json.dumps(write_corrections(corrections)))
    found = open_episodes(sets / name, [f"corrections={tmp_path / 'fix.json'}"])
    length = small_run.LENGTH
    assert len(found) == 2 * length + length - 2
    same_picture(found, 3, whole, 3)
    same_picture(found, length + 4, whole, 2 * length + 4 + 2)  # late pictures: the state of 4 belongs to picture 6
    np.testing.assert_array_equal(found.read(length + 4).of(State)[0].values, whole.found.state[2 * length + 4])
    same_picture(found, len(found) - 1, whole, len(whole) - 1)
    assert found.fingerprint != whole.fingerprint


def same_picture(one: EpisodeSource, i: int, other: EpisodeSource, j: int) -> None:
    np.testing.assert_array_equal(one.read(i).of(Image)[0].pixels, other.read(j).of(Image)[0].pixels)


@pytest.mark.parametrize("name", ROBOTS)
def test_every_robot_format_becomes_lerobot(sets: Path, name: str, tmp_path: Path):
    before = open_episodes(sets / name)
    assert convert(before, tmp_path / "new") == "LeRobot v3.0"
    after = open_episodes(tmp_path / "new")
    np.testing.assert_array_equal(after.found.state, before.found.state)
    np.testing.assert_array_equal(after.found.action, before.found.action)
    assert after.read(7).of(Text)[0].text == before.read(7).of(Text)[0].text
