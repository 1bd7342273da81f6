"""What sets kept as plain arrays share: sizes are checked before memory is taken, a missing package is named."""

import numpy as np
import pytest

from trivium.core.errors import DataError, SetupError
from trivium.data.source.recorded import check_numbers, dimension_names, join, library, picture_size, to_picture


def test_a_missing_package_is_named():
    with pytest.raises(SetupError, match=r"HDF5 files: found no package no_such_thing .* Install trivium\[formats\]"):
        library("no_such_thing", "HDF5 files")


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("O", (3, 2), "dtype object; expected numbers; objects are never read"),
        ("c8", (3, 2), "dtype complex64"),
        ("f4", (1 << 40, 2), "shape (1099511627776, 2); expected one row a frame, at most"),
        ("f4", (), "shape ()"),
        ("u1", (3, 64, 64, 3), "12288 numbers a frame; expected 1 to 4096. Choose another array: is this a picture?"),
    ],
)
def test_numbers(dtype, shape, text):
    with pytest.raises(DataError) as caught:
        check_numbers("here", np.dtype(dtype), shape)
    assert text in str(caught.value)
    assert check_numbers("here", np.dtype("f8"), (3, 2, 2)) == 4


def test_joined_columns_keep_their_names_and_show_what_float32_cannot_hold():
    joined = join([np.array([1e300, 2.0]), np.array([[3, 4], [5, 6]])])
    assert joined.tolist() == [[np.inf, 3, 4], [2, 5, 6]]
    assert dimension_names({"gripper": 1, "pos": 2}) == ("gripper", "pos.0", "pos.1")


def test_pictures():
    assert picture_size("here", np.dtype("u1"), (5, 3, 8, 9)) == (8, 9)
    assert picture_size("here", np.dtype("f4"), (5, 8, 9, 3)) == (8, 9)
    for dtype, shape in (("u2", (5, 8, 9, 3)), ("i1", (5, 8, 9, 3)), ("u1", (5, 8, 9)), ("u1", (5, 8001, 8001, 3))):
        with pytest.raises(DataError, match="here"):
            picture_size("here", np.dtype(dtype), shape)
    first = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    assert (to_picture("here", first) == np.moveaxis(first, 0, 2)).all()
    with pytest.raises(DataError, match="here: found floats that are no whole numbers from 0 to 255"):
        to_picture("here", first / 23)
