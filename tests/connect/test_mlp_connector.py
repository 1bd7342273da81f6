import pytest
import torch
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel

from trivium.connect.mlp import MlpConnectorConfig, fold
from trivium.core.errors import ConfigError


@pytest.mark.parametrize("side", [2, 3])
def test_fold_is_internvl_pixel_shuffle_to_the_bit(side):
    x = torch.randn(2, 6, 12, 5)
    if side == 2:
        assert torch.equal(fold(x, side), InternVLModel.pixel_shuffle(None, x, 0.5))
    square = torch.randn(2, 36, 5)
    expected = Idefics3Connector.pixel_shuffle(None, square, side)
    assert torch.equal(fold(square.view(2, 6, 6, 5), side).flatten(1, 2), expected)


def test_fold_is_not_pixel_unshuffle():
    x = torch.randn(1, 4, 4, 3)
    other = torch.nn.functional.pixel_unshuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    found = fold(x, 2)
    assert not torch.equal(found, other)
    assert torch.equal(found.sort(-1).values, other.sort(-1).values)


def test_connector_folds_neighbours_and_keeps_pictures_apart():
    connector = MlpConnectorConfig(shuffle=2).build(6, (4, 8), 10, 1)
    assert connector.num_tokens == 8
    patches = torch.randn(2, 32, 6)
    before = connector(patches)
    assert before.shape == (2, 8, 10)
    patches[0, 8 + 3] += 1.0  # row 1, column 3: the second token of the first row of tokens
    changed = (connector(patches) != before).any(-1)
    assert changed.nonzero().tolist() == [[0, 1]]


def test_grid_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"connect\.shuffle: found 2 with a grid of 7 x 8 patches"):
        MlpConnectorConfig(shuffle=2).build(6, (7, 8), 10, 1)
