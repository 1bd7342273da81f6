import numpy as np
import pytest

from trivium.data.align import chunk, history


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
