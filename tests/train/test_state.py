import json

import pytest

from trivium.core.errors import CheckpointError
from trivium.core.rng import Rng
from trivium.train.state import Reading, State


def reading(taken=True):
    times = {"wait_s": 0.0, "step_s": 1.0}
    return Reading(
        loss={"text": 1.0}, total=1.0, grad_norm=1.0, taken=taken, lr={"base": 1.0}, tokens={"a/text": 5}, **times
    )


def test_json_round_trip():
    state = State(Rng(3, 40), "joint", 1, plan="abc")
    state.advance(reading())
    state.advance(reading(taken=False))
    again = State.from_json(json.loads(json.dumps(state.to_json())), "state.json")
    assert again == state
    assert (again.step, again.data_position, again.tokens, again.skipped) == (2, 2, {"a/text": 10}, 1)
    assert isinstance(again.rng, Rng)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"step": "4"}, "step"),
        ({"unheard": 1}, "unheard"),
        ({"rng": {"seed": 1}}, "rng"),
        ({"skipped": None}, "skipped"),
    ],
)
def test_other_fields_are_refused(change, name):
    data = State(Rng(3)).to_json() | change
    with pytest.raises(CheckpointError, match=rf"s\.json: found other fields .*: {name}.*Resume with the version"):
        State.from_json(data, "s.json")


def test_a_missing_field_is_refused():
    data = State(Rng(3)).to_json()
    del data["data_position"]
    with pytest.raises(CheckpointError, match="data_position"):
        State.from_json(data, "s.json")


def test_a_new_stage_starts_from_zero_but_goes_on_drawing_random_numbers():
    state = State(Rng(3, 40), "align", 0, step=40, data_position=40, tokens={"a/text": 9}, skipped=2)
    state.begin_stage("joint", 1, "plan-b")
    assert state == State(Rng(3, 40), "joint", 1, plan="plan-b")
    assert state.run_step == 40


def test_a_restored_stage_goes_on_with_its_own_plan_only():
    state = State(Rng(3, 4), "align", 0, step=4, data_position=4, plan="plan-a")
    state.begin_stage("align", 0, "plan-a")
    assert state.step == 4
    with pytest.raises(
        CheckpointError, match=r"stage 'align' at step 4: found a data plan .*'plan-b'; expected .*'plan-a'"
    ):
        state.begin_stage("align", 0, "plan-b")
