"""A batch moves whole and counts what is not padding; its shapes are checked here, not in production."""

import pytest
import torch

from trivium.core.batch import Batch


def test_to_moves_every_tensor_and_keeps_the_rest():
    batch = Batch(
        tokens=torch.zeros(2, 3, dtype=torch.long),
        images=torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        ids=("a", "b"),
        token_counts={"robot/text": 2, "robot/image": 3},
    )
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.images.device.type == "meta"
    assert moved.targets is None
    assert moved.ids == ("a", "b")
    assert moved.num_tokens == batch.num_tokens == 5
    assert batch.tokens.device.type == "cpu"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", torch.zeros(2, 3)),
        ("images", torch.zeros(1, 4, 4, 3, dtype=torch.uint8)),
        ("actions_valid", torch.zeros(2, 3)),
    ],
)
def test_a_wrong_shape_or_type_is_caught_in_tests(field, value):
    with pytest.raises(Exception, match=f"The problem arose whilst typechecking parameter '{field}'"):
        Batch(**{field: value})
    with pytest.raises(Exception, match="typechecking parameter 'targets'"):
        Batch(tokens=torch.zeros(2, 3, dtype=torch.long), targets=torch.zeros(2, 4, dtype=torch.long))
