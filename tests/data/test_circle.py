import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trivium.data.circle import HALF, wrap


def test_angles_within_a_half_turn_are_not_touched():
    inside = np.array([0.0, 1.0, -3.14, float(np.float32(np.pi))])
    assert (wrap(inside) == inside).all()


def test_the_shorter_way_round():
    assert wrap(np.array([6.2]))[0] == 6.2 - 2 * np.pi
    np.testing.assert_allclose(
        wrap(np.array([-3.2, 3.2, 3 * np.pi, -np.pi - 1e-3])), [3.0831853, -3.0831853, np.pi, np.pi - 1e-3]
    )


@given(st.floats(-1e4, 1e4))
def test_whole_turns_alone_are_taken_away(angle):
    found = wrap(np.array([angle])).item()
    assert HALF - 2 * np.pi - 1e-9 < found <= HALF + 1e-9
    turns = (angle - found) / (2 * np.pi)
    assert abs(turns - round(turns)) < 1e-9
