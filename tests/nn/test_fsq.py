"""Finite scalar quantisation: every code is there, comes back exactly, and the gradient goes past the rounding."""

import math

import pytest
import torch

from trivium.core.errors import ConfigError
from trivium.nn.fsq import FsqConfig
from trivium.nn.quantizer import usage

LEVELS = [(8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (3,), (4, 3)]


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_comes_back_exactly(levels: tuple[int, ...]):
    fsq = FsqConfig(levels=levels).build(0)
    assert (fsq.width, fsq.size) == (len(levels), math.prod(levels))
    every = torch.arange(fsq.size)[:, None]
    codes = fsq.lookup(every)
    assert codes.unique(dim=0).shape == (fsq.size, len(levels))
    assert codes.abs().max() == 1.0
    # What the encoder must say to get a code: the bound, undone.
    middle = fsq.levels // 2
    half = (fsq.levels - 1) * (1 + 1e-3) / 2
    offset = torch.where(fsq.levels % 2 == 0, 0.5, 0.0)
    said = torch.atanh((codes * middle + offset) / half) - torch.atanh(offset / half)
    found = fsq(said)
    assert torch.equal(found.ids, every)
    assert torch.equal(found.vectors, codes)
    assert not found.commitment.any()


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_is_reached_and_none_beyond(levels: tuple[int, ...]):
    fsq = FsqConfig(levels=levels).build(0)
    torch.manual_seed(0)
    ids = fsq(torch.randn(100 * fsq.size, len(levels))).ids
    assert (int(ids.min()), int(ids.max())) == (0, fsq.size - 1)
    assert usage(ids, fsq.size).dead == 0
    assert int(fsq(torch.full((1, len(levels)), 100.0)).ids) == fsq.size - 1
    assert int(fsq(torch.full((1, len(levels)), -100.0)).ids) == 0


def test_nothing_said_is_the_middle():
    fsq = FsqConfig(levels=(8, 5)).build(0)
    assert fsq(torch.zeros(1, 2)).vectors.tolist() == [[0.0, 0.0]]


def test_the_gradient_is_that_of_the_bound():
    fsq = FsqConfig(levels=(7, 5)).build(0)
    x = torch.tensor([[0.3, -0.4]], requires_grad=True)
    fsq(x).vectors.sum().backward()
    expected = (1 - x.detach().tanh() ** 2) * torch.tensor([3.003 / 3, 2.002 / 2])
    torch.testing.assert_close(x.grad, expected)


def test_rounding_is_done_in_float32():
    fsq = FsqConfig(levels=(8, 5, 5, 5)).build(0)
    x = torch.randn(500, 4).bfloat16()
    low = fsq.to(torch.bfloat16)(x)
    assert torch.equal(low.ids, fsq(x.float()).ids)
    assert low.vectors.dtype == torch.bfloat16


@pytest.mark.parametrize("levels", [(), (8, 2), (1024, 1025)])
def test_grids_that_do_not_work_are_refused(levels: tuple[int, ...]):
    with pytest.raises(
        ConfigError, match=r"quantizer\.levels: found .*expected 3 or more a dimension, 1,048,576 codes"
    ):
        FsqConfig(levels=levels).build(0)
