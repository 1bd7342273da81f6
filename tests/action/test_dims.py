"""Dimensions that a robot lacks, and angles: asked of every head."""

import math
from dataclasses import replace

import pytest
import torch
from action_heads import ACTION, ALL, HEADS, HORIZON, awake, context, fit, loss
from torch import Tensor

from trivium.action.expert import ExpertConfig
from trivium.action.model import head_losses, num_elements, shorter
from trivium.action.prior import ActionPriorConfig
from trivium.action.regress import RegressConfig
from trivium.core.batch import Batch
from trivium.core.sample import ABSENT, CIRCLE, LINE

HALF_THERE = torch.tensor([[LINE, ABSENT], [LINE, LINE]])


@HEADS
def test_a_dimension_that_is_not_there_has_no_influence_and_no_error(config: ExpertConfig) -> None:
    head, actions = awake(config), torch.randn(2, HORIZON, ACTION)
    actions[0, :, 1] = 0.0
    given = replace(context(2), dims=HALF_THERE)
    torch.manual_seed(1)
    losses = head_losses(head, actions, ALL, given)
    assert {found.count for found in losses.values()} == {3.0 * HORIZON}
    for found in losses.values():
        found.sum.backward(retain_graph=True)
    drawn = head.sample(given, torch.Generator().manual_seed(0))
    assert not drawn[0, :, 1].any(), "nothing is commanded there"
    assert drawn[1].all()
    alone = replace(context(1), dims=HALF_THERE[:1])
    head.zero_grad()
    for found in head_losses(head, actions[:1], ALL[:1], alone).values():
        found.sum.backward()
    last = [p.grad for name, p in head.named_parameters() if name.endswith("fall.weight") and len(p) == ACTION]
    assert all(not grad[1].any() and grad[0].any() for grad in last), "what writes the missing dimension learns nothing"


@HEADS
def test_without_a_word_about_dimensions_nothing_changes(config: ExpertConfig) -> None:
    head, actions, given = awake(config), torch.randn(2, HORIZON, ACTION), context(2)
    plain = replace(given, dims=torch.full((2, ACTION), LINE))
    assert torch.equal(loss(head, actions, ALL, given), loss(head, actions, ALL, plain))
    draws = [head.sample(each, torch.Generator().manual_seed(0)) for each in (given, plain)]
    assert torch.equal(*draws)


def test_the_shorter_way_is_that_of_the_angle() -> None:
    apart = torch.linspace(-7, 7, 101, dtype=torch.float64)[None, :, None].repeat(1, 1, 2)
    given = replace(context(1), dims=torch.tensor([[CIRCLE, LINE]]))
    found = shorter(apart, given)
    angle = apart[..., 0] * math.pi
    expected = torch.atan2(angle.sin(), angle.cos()) / math.pi
    assert torch.allclose(found[..., 0].cos(), expected.cos(), atol=1e-12)
    inside = (expected.abs() - 1).abs() > 1e-9  # half a turn has two ways
    assert torch.allclose(found[..., 0][inside], expected[inside], atol=1e-12)
    assert torch.equal(found[..., 1], apart[..., 1])
    share = torch.tensor(0.25, dtype=torch.float64)
    assert torch.allclose(shorter(apart, given, share)[..., 0], shorter(apart * share, given)[..., 0] / share)


def _across(dims: Tensor) -> float:
    """Fit commands on both sides of the seam, 0.02 of a half turn apart; return the error."""
    torch.manual_seed(0)
    one = context(1)
    given = replace(
        one,
        **{
            name: getattr(one, name).expand(2, *[-1] * (getattr(one, name).ndim - 1))
            for name in ("state", "state_known", "tokens", "mask")
        },
        dims=dims.expand(2, -1),
    )
    actions = torch.zeros(2, HORIZON, ACTION)
    actions[0, :, 0], actions[1, :, 0] = 0.99, -0.99
    head = RegressConfig(horizon=HORIZON, width=32, heads=4, depth=1, error="l2").build(ACTION, 3, 8)
    fit(head, actions, ALL, given, 150, 1e-2)
    return float(head.loss(actions, ALL, given).detach()[..., 0].mean())


def test_two_commands_across_the_seam_are_near_each_other() -> None:
    assert _across(torch.tensor([[CIRCLE, LINE]])) < 1e-3
    assert _across(torch.tensor([[LINE, LINE]])) > 0.5, "their mean points the other way"


def test_elements_are_counted_by_robot() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert num_elements(valid, 2, None) == 6
    assert num_elements(valid, 2, torch.tensor([[LINE, ABSENT], [CIRCLE, LINE]])) == 4


@pytest.mark.parametrize("dims", [None, torch.tensor([[LINE, ABSENT], [LINE, LINE], [LINE, LINE]])])
def test_a_prior_counts_what_it_learns(dims: Tensor | None) -> None:
    class Body:
        action = awake(RegressConfig(horizon=HORIZON, width=32, heads=4, depth=1))

    objective = ActionPriorConfig().build(Body())
    batch: Batch = replace(objective.fake_batch(), dims=dims)
    losses = objective(batch)
    assert losses.counts() == objective.counts(batch)
    real = float(batch.actions_valid.sum(1)[0]), float(batch.actions_valid.sum(1)[1])
    assert losses["regress"].count == (real[0] * (2 if dims is None else 1) + real[1] * 2)
