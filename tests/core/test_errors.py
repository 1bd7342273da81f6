"""Errors carry four parts, and carry them across processes."""

import pickle

import pytest

from trivium.core import errors


def test_the_text_says_where_what_expected_and_what_to_do():
    error = errors.DataError("a.mp4, frame 7", "3 bytes", "a whole frame", "Record it again.")
    assert str(error) == "a.mp4, frame 7: found 3 bytes; expected a whole frame. Record it again."


@pytest.mark.parametrize(
    "kind",
    [errors.ConfigError, errors.DataError, errors.CheckpointError, errors.TrainingError, errors.SetupError],
)
def test_one_family_that_survives_a_worker_process(kind):
    error = kind("here", "this", "that", "Do it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert isinstance(copy, errors.TriviumError)
    assert str(copy) == str(error)
    assert (copy.where, copy.found, copy.expected, copy.todo) == ("here", "this", "that", "Do it.")
