from dataclasses import replace

import numpy as np
import pytest

from trivium.core.errors import ConfigError
from trivium.core.sample import Action, Sample, State, Text
from trivium.synth.ground import Ground, GroundConfig

ACTION = Action(values=np.zeros((2, 3), np.float32), valid=np.ones(2, bool), names=("x", "y", "z"))


def frame(u: float, v: float) -> Sample:
    text = Text(text="open the drawer", role="instruction")
    state = State(values=np.zeros(1, np.float32), names=("x",))
    truth = {"object_image": np.array([u, v], np.float32), "object": np.zeros(3, np.float32)}
    return Sample(id="toy/1/2", segments=(text, state, ACTION), source="toy", license="MIT", truth=truth)


def test_the_answer_says_where_the_object_is_and_stands_last():
    before = frame(0.419, 0.0371)
    after = Ground(GroundConfig()).forward(before, None)
    assert after.segments[:-1] == before.segments
    assert (after.segments[-1].text, after.segments[-1].role) == ("x41y03", "answer")
    assert after.truth is before.truth


@pytest.mark.parametrize(("u", "v", "text"), [(0.0, 0.0, "x00y00"), (0.9999, 0.5, "x99y50")])
def test_every_answer_has_two_digits_a_direction(u: float, v: float, text: str):
    assert Ground(GroundConfig()).forward(frame(u, v), None).segments[-1].text == text


@pytest.mark.parametrize(("u", "v"), [(-0.01, 0.5), (0.5, 1.0), (float("nan"), 0.5), (0.5, 7.0)])
def test_an_object_outside_the_picture_has_no_answer(u: float, v: float):
    before = frame(u, v)
    assert Ground(GroundConfig()).forward(before, None) is before


def test_an_observation_is_never_told_where_the_object_is():
    before = frame(0.4, 0.4)
    observed = replace(before, segments=tuple(s for s in before.segments if s is not ACTION))
    assert Ground(GroundConfig()).forward(observed, None) is observed


def test_samples_without_truth_pass():
    before = replace(frame(0.4, 0.4), truth={})
    assert Ground(GroundConfig(truth="anything")).forward(before, None) is before


def test_a_wrong_name_is_met_with_the_right_ones():
    with pytest.raises(ConfigError) as caught:
        Ground(GroundConfig(truth="objekt_image")).forward(frame(0.4, 0.4), None)
    assert "ground.truth: found 'objekt_image'" in str(caught.value)
    assert "one of object, object_image (sample toy/1/2)" in str(caught.value)


def test_actions_come_back_unchanged():
    step = Ground(GroundConfig())
    assert step.inverse(ACTION.values, frame(0.4, 0.4)) is ACTION.values
    assert not step.pixels
