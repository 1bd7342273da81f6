import numpy as np
import pytest

from trivium.core.sample import Action, State, Text
from trivium.data.align import chunk, history
from trivium.data.embodiment import Kind
from trivium.data.represent import RepresentConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import build_chain


def episodes(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Time, first and last frame of each observation, and its action 1000 * episode + t."""
    begin = np.repeat(np.cumsum((0, *lengths[:-1])), lengths)
    end = np.repeat(np.cumsum(lengths), lengths)
    time = np.arange(sum(lengths))
    return time, begin, end, 1000 * np.repeat(np.arange(len(lengths)), lengths) + time - begin


@pytest.mark.parametrize("horizon", [1, 3, 8])
def test_bc_align_oracle(horizon):
    time, begin, end, action = episodes((9, 14, 8))
    index, valid = chunk(time, end, horizon)
    for t in time:
        local = t - begin[t]
        for j in range(horizon):
            last = end[t] - 1 - begin[t]
            assert action[index[t, j]] == 1000 * (action[t] // 1000) + min(local + j, last)
            assert valid[t, j] == (local + j <= last)


@pytest.mark.parametrize("horizon", [1, 3, 8])
def test_pad_count(horizon):
    time, _, end, _ = episodes((9, 14, 8))
    _, valid = chunk(time, end, horizon)
    for episode_end in np.unique(end):
        assert (~valid[end == episode_end]).sum() == horizon * (horizon - 1) // 2


def test_chunk_longer_than_its_episode_stays_inside():
    time, _, end, action = episodes((2, 5))
    index, valid = chunk(time, end, 4)
    assert action[index[0]].tolist() == [0, 1, 1, 1]
    assert valid[0].tolist() == [True, True, False, False]
    assert action[index[1]].tolist() == [1, 1, 1, 1]


def test_history_ends_now_and_repeats_the_first_frame():
    time, begin, _, action = episodes((3, 4))
    index, valid = history(time, begin, 3)
    assert action[index[4]].tolist() == [1000, 1000, 1001]
    assert valid[4].tolist() == [False, True, True]
    assert action[index[2]].tolist() == [0, 1, 2]
    assert action[index[3]].tolist() == [1000, 1000, 1000]


@pytest.mark.parametrize(("rate_hz", "stride"), [(None, 1), (10.0, 2), (5.0, 4)])
def test_chunks_words_and_clock_of_a_set_at_several_rates(toy_set, rate_hz, stride):
    """In the toy set obs = t and action = 1000 * episode + t; a slower recorder would have skipped frames."""
    kinds: dict[str, Kind] = {"a": "position", "b": "position"}
    source = LeRobotConfig(path=str(toy_set), views=(), horizon=4, rate_hz=rate_hz, kinds=kinds).build()
    lengths = [-(-length // stride) for length in (9, 14, 5)]
    assert len(source) == sum(lengths)
    padded = np.zeros(3, int)
    for i in range(len(source)):
        episode, frame = source.where(i)
        sample = source.peek(i)
        [state], [action], [text] = (sample.of(kind) for kind in (State, Action, Text))
        assert state.values[0] == stride * frame
        for j, command in enumerate(action.values[:, 0]):
            assert command == 1000 * episode + stride * min(frame + j, lengths[episode] - 1)
            assert action.valid[j] == (frame + j < lengths[episode])
        assert state.time_s == action.time_s == text.time_s == pytest.approx(stride * frame / 20)
        assert source.task(i) == ("push the block", "open the drawer")[episode % 2]
        padded[episode] += (~action.valid).sum()
    assert padded.tolist() == [sum(max(0, j - length + 4) for j in range(length)) for length in lengths]


@pytest.mark.parametrize("to", ["relative", "delta"])
def test_commands_are_relative_to_the_state_at_t(toy_set, to):
    source = LeRobotConfig(path=str(toy_set), views=(), horizon=4).build()
    chain = build_chain((RepresentConfig(to=to, kinds={"a": "position", "b": "gripper"}),), {})
    for i in range(len(source)):
        episode, frame = source.where(i)
        [recorded], [written] = source.peek(i).of(Action), chain.forward(source.peek(i), None).of(Action)
        last = (9, 14, 5)[episode] - 1 - frame
        steps = [1000 * episode + min(j, last) for j in range(4)]  # relative to the state at t + j it would be constant
        first, rest = steps[0], np.diff(steps).tolist()
        assert written.values[:, 0].tolist() == (steps if to == "relative" else [first, *rest])
        assert (written.values[:, 1] == recorded.values[:, 1]).all()
        assert (written.valid == recorded.valid).all()


def test_an_action_chunk_stands_beside_the_words_of_its_own_episode(toy_set):
    source = LeRobotConfig(path=str(toy_set), views=(), horizon=20, paraphrase=False).build()
    for i in range(len(source)):
        sample = source.peek(i)
        episode = int(sample.of(Action)[0].values[0, 0] // 1000)
        assert (sample.of(Action)[0].values // 1000 == episode).all()
        assert sample.of(Text)[0].text == ("push the block", "open the drawer")[episode % 2]
