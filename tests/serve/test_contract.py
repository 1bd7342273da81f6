import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.serve.contract import Contract

CONTRACT = Contract(
    embodiment="toy",
    views=("top", "wrist"),
    picture_sizes={"top": (8, 12), "wrist": (8, 8)},
    resizes=False,
    history=1,
    rate_hz=20.0,
    horizon=4,
    state_names=("x", "y", "grip"),
    action_names=("dx", "dy"),
    action_units=("m", ""),
    action_kinds=("delta", "delta"),
)


def good() -> dict[str, Any]:
    images = {"wrist": np.ones((8, 8, 3), np.uint8), "top": np.zeros((8, 12, 3), np.uint8)}
    return {"images": images, "state": [0.1, 0.2, 0.3], "instruction": "push"}


def test_plain_arrays_become_the_sample_that_a_source_would_have_read() -> None:
    sample = CONTRACT.sample(good(), 3)
    assert [image.view for image in sample.of(Image)] == ["top", "wrist"], "in the order of training"
    assert sample.of(State)[0].names == ("x", "y", "grip")
    assert sample.of(State)[0].values.dtype == np.float32
    assert [(text.text, text.role) for text in sample.of(Text)] == [("push", "instruction")]
    assert (sample.id, sample.embodiment) == ("observation 3", "toy")
    again = CONTRACT.sample(sample, 0)
    for old, new in zip(sample.segments, again.segments, strict=True):
        assert type(old) is type(new)
    assert again.id == sample.id


def test_a_history_takes_its_frames_oldest_first() -> None:
    contract = replace(CONTRACT, views=("top",), history=2)
    frames = np.arange(2 * 8 * 12 * 3, dtype=np.uint64).astype(np.uint8).reshape(2, 8, 12, 3)
    sample = contract.sample(good() | {"images": {"top": frames}}, 0)
    assert [np.array_equal(image.pixels, frame) for image, frame in zip(sample.of(Image), frames, strict=True)] == [
        True,
        True,
    ]
    assert len(contract.sample(sample, 0).of(Image)) == 2
    with pytest.raises(DataError, match=r"top: found a picture of shape \(8, 12, 3\); expected 2 x h x w x 3"):
        contract.sample(good() | {"images": {"top": frames[0]}}, 0)


def test_pictures_of_any_size_where_the_transforms_resize() -> None:
    images = good()["images"] | {"top": np.zeros((30, 40, 3), np.uint8)}
    assert replace(CONTRACT, resizes=True).sample(good() | {"images": images}, 0).of(Image)[0].pixels.shape[0] == 30
    with pytest.raises(DataError, match=r"images.top: found 30 x 40 pixels; expected 8 x 12, as recorded .* Resize"):
        CONTRACT.sample(good() | {"images": images}, 0)


def view(**changes: Any) -> dict[str, Any]:
    return {"images": {k: v for k, v in (good()["images"] | changes).items() if v is not None}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            view(wrist=None),
            r"images: found 'top'; expected view 'wrist'. The policy takes: 'top', 'wrist'",
        ),
        (
            view(side=good()["images"]["top"]),
            r"images.side: found a view that was never taught; expected only 'top'",
        ),
        ({"images": good()["images"]["top"]}, "images: found a ndarray; expected pictures by view"),
        (view(top=np.zeros((8, 12, 3))), r"images.top: found float64 numbers; expected a numpy array of uint8"),
        (view(top=[[1]]), "images.top: found a list; expected a numpy array of uint8"),
        (view(top=np.zeros((3, 8, 12), np.uint8)), r"top: found a picture of shape \(3, 8, 12\); expected h x w x 3"),
        (view(top=np.zeros((0, 12, 3), np.uint8)), r"top: found a picture of shape \(0, 12, 3\); expected h x w x 3"),
        ({"state": None}, r"observation 1.state: found nothing; expected 3 numbers \(x, y, grip\)"),
        ({"state": [1.0, 2.0]}, r"state: found shape \(2,\); expected 3 numbers \(x, y, grip\)"),
        ({"state": [1.0, float("nan"), 2.0]}, r"state: found nan in 'y'; expected finite numbers"),
        ({"state": ["a", "b", "c"]}, r"state: found could not convert .*; expected numbers"),
        ({"instruction": None}, "observation 1.instruction: found nothing; expected what to do, in words"),
        ({"instruction": "  "}, "instruction: found '  '; expected what to do"),
        ({"instruction": 7}, "instruction: found 7; expected what to do"),
        ({"embodiment": "other"}, r"embodiment: found robot 'other'; expected 'toy', whose statistics"),
        ({"picture": 1}, r"observation 1.picture: found an unknown field; expected one of images, state"),
        ({"instructions": "push"}, r"instructions: found an unknown field; .* Did you mean 'instruction'\?"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        CONTRACT.sample(good() | changes, 1)


def test_a_sample_with_more_than_an_observation_is_refused() -> None:
    sample = CONTRACT.sample(good(), 0)
    done = Action(values=np.zeros((4, 2), np.float32), valid=np.ones(4, bool), names=("dx", "dy"))
    for extra, name in ((done, "an? action"), (Text(text="x1", role="answer"), r"an? text \(answer\)")):
        with pytest.raises(DataError, match=f"found {name} in sample observation 0; expected pictures, one"):
            CONTRACT.sample(replace(sample, segments=(*sample.segments, extra)), 0)
    with pytest.raises(DataError, match="found robot 'other'"):
        CONTRACT.sample(Sample(**{**sample.__dict__, "embodiment": "other"}), 0)


def test_it_is_read_back_from_json_and_damage_is_seen() -> None:
    data = json.loads(json.dumps(CONTRACT.to_json()))
    assert Contract.from_json(data) == CONTRACT
    with pytest.raises(ValueError, match="missing or unknown: more"):
        Contract.from_json(data | {"more": 1})
    with pytest.raises(ValueError, match="missing or unknown: horizon"):
        Contract.from_json({name: value for name, value in data.items() if name != "horizon"})
