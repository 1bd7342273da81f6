from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Image, State
from trivium.data.embodiment import Kind, dimensions
from trivium.data.resample import resample
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.trajectory import Trajectories

KINDS = ("position", "delta", "velocity", "gripper", "angle", "turn")
NAMES = tuple(f"{kind}_d" for kind in KINDS)
ABOUT = dimensions("", len(NAMES), NAMES, dict(zip(NAMES, cast(tuple[Kind, ...], KINDS), strict=True)), "set toy")


def episodes(lengths: tuple[int, ...], fps: float = 20, seed: int = 0) -> Trajectories:
    """Numbers that tell which episode and frame they came from; the first dimension of state and action is linear."""
    total, rng = sum(lengths), np.random.default_rng(seed)
    number = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    values = rng.normal(size=(total, len(NAMES)))
    values[:, 0] = 1000 * number + frame
    values[:, 3] = rng.integers(0, 2, total)
    values[:, 4] = (frame + 3) % 6 - 3
    state = np.stack([1000 * number + frame, values[:, 4]], 1)
    return Trajectories(
        fps=fps,
        number=np.arange(len(lengths)) + 7,
        end=np.cumsum(lengths),
        state=state.astype(np.float32),
        action=values.astype(np.float32),
        state_names=("linear", "angle_d"),
        action_names=NAMES,
        tasks=("push", "pull"),
        task=number % 2,
        truth={"place": (1000 * number + frame)[:, None].astype(np.float32)},
        embodiment="toy",
    )


def at(rate_hz: float, found: Trajectories) -> Trajectories:
    return resample(found, rate_hz, ABOUT, "set toy")


def test_at_its_own_rate_a_set_is_the_same_object():
    found = episodes((9, 4))
    assert at(20, found) is found


@pytest.mark.parametrize("lengths", [(9, 14, 5), (1, 2, 3), (8,)])
@pytest.mark.parametrize("rate_hz", [10, 40, 7.5, 30, 13.0, 199.0, 1.0])
def test_displacement_is_kept_in_every_episode_and_none_is_crossed(lengths, rate_hz):
    found = episodes(lengths)
    new = at(rate_hz, found)
    assert new.end[-1] == len(new.state) == len(new.action) == len(new.task) == len(new.shown)
    for begin, end, first, last in zip(found.begin, found.end, new.begin, new.end, strict=True):
        assert last - first == max(1, np.ceil((end - begin) * rate_hz / 20 - 1e-6))
        old, now = found.action[begin:end].astype(np.float64), new.action[first:last].astype(np.float64)
        np.testing.assert_allclose(now[:, [1, 5]].sum(0), old[:, [1, 5]].sum(0), atol=1e-5)
        lasts = np.full(last - first, 1 / rate_hz)
        lasts[-1] = (end - begin) / 20 - lasts[:-1].sum()
        np.testing.assert_allclose((now[:, 2] * lasts).sum(), old[:, 2].sum() / 20, atol=1e-5)
        assert now[:, 0].min() >= old[:, 0].min()
        assert now[:, 0].max() <= old[:, 0].max()
        assert new.shown[first:last].max() < end - begin
        assert (new.task[first:last] == found.task[begin]).all()


def test_half_the_rate_of_linear_motion_is_every_second_frame():
    found, new = episodes((9, 14)), at(10, episodes((9, 14)))
    every = np.concatenate([np.arange(0, 9, 2), np.arange(9, 23, 2)])
    assert (new.state == found.state[every]).all()
    assert (new.action[:, 0] == found.action[every, 0]).all()
    assert new.shown.tolist() == [0, 2, 4, 6, 8, 0, 2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose(new.action[0, 1], found.action[0, 1] + found.action[1, 1], rtol=1e-6)
    assert new.action[4, 1] == found.action[8, 1], "the last frame stands for one command alone"
    assert new.fps == 10
    assert new.end.tolist() == [5, 12]


def test_twice_the_rate_and_back_is_the_identity():
    found = episodes((9, 14))
    there = at(40, found)
    np.testing.assert_allclose(there.state[:17, 0], np.arange(17) / 2)
    assert there.state[17, 0] == 8, "nothing is known behind the last frame"
    assert there.shown[:6].tolist() == [0, 0, 1, 1, 2, 2]
    assert there.truth["place"][:4, 0].tolist() == [0, 0, 1, 1]
    back = at(20, there)
    for name in ("state", "action", "task", "end"):
        np.testing.assert_allclose(getattr(back, name), getattr(found, name), atol=1e-6, err_msg=name)
    assert (back.shown == np.concatenate([np.arange(9), np.arange(14)])).all()


def test_angles_go_the_shorter_way_round():
    found = episodes((4,))
    found.state[:, 1] = found.action[:, 4] = [3.0, -3.0, -2.0, -1.0]
    new = at(40, found)
    for values in (new.state[:, 1], new.action[:, 4]):
        np.testing.assert_allclose(values[:4], [3.0, np.pi, -3.0, -2.5], atol=1e-6)


def test_a_gripper_takes_the_nearest_value_of_two_the_earlier():
    found = episodes((4,))
    found.action[:, 3] = [0, 1, 1, 0]
    assert at(80, found).action[:, 3].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_quaternions_of_a_known_robot_are_held():
    found = episodes((3,))
    held = replace(found, embodiment="google_robot", state_names=("rw", "angle_d"))
    assert at(40, held).state[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_rate_far_above_the_recorded_one_is_refused():
    with pytest.raises(DataError, match="set toy: found rate_hz 201; expected at most 10 times the recorded 20 Hz"):
        at(201, episodes((4,)))


KIND_OF: dict[str, Kind] = {"a": "position", "b": "delta"}


def test_a_set_at_half_its_rate_shows_the_right_pictures(toy_set, picture_number):
    config = LeRobotConfig(path=str(toy_set), views=("front",), horizon=3, history=2, rate_hz=10, kinds=KIND_OF)
    whole, source = config.replace(rate_hz=None, kinds={}).build(), config.build()
    assert (len(whole), len(source)) == (28, 5 + 7 + 3)
    assert source.fingerprint != whole.fingerprint
    assert source.fps == 10
    for i in range(len(source)):
        episode, frame = source.where(i)
        sample = source.read(i)
        shown = [picture_number(image.pixels) for image in sample.of(Image)]
        assert shown == [(episode, max(0, 2 * frame - 2)), (episode, 2 * frame)]
        [state] = sample.of(State)
        assert state.values.tolist() == [2 * frame, 2 * frame]
        assert state.time_s == pytest.approx(2 * frame / 20)
        assert source.task(i) == ("push the block", "open the drawer")[episode % 2]
        assert sample.truth["object"][1] == 2 * frame


def test_twice_the_rate_of_a_set_asks_for_no_frame_that_is_not_there(toy_set, picture_number):
    config = LeRobotConfig(path=str(toy_set), views=("front",), horizon=3, rate_hz=40, kinds=KIND_OF)
    source = config.build()
    assert len(source) == 56
    assert picture_number(source.read(17).of(Image)[0].pixels) == (0, 8)
    assert picture_number(source.read(18).of(Image)[0].pixels) == (1, 0)


def test_kinds_are_asked_for_only_where_they_matter(toy_set):
    config = LeRobotConfig(path=str(toy_set), views=(), horizon=3, rate_hz=10)
    with pytest.raises(DataError, match=r"set .*toy: found robot 'toy'; expected a registered one"):
        config.build()
    same = config.replace(rate_hz=20.0).build()
    assert (same.found.action == config.replace(rate_hz=None).build().found.action).all()
    with pytest.raises(DataError, match=r"found 2 dimensions of action \(a, b\); expected 1 \(a\), as the kinds"):
        config.replace(rate_hz=None, kinds={"a": "position"}).build()
