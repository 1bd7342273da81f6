"""Losses add up over micro-batches and ranks to one big batch, with the weights of the papers."""

import pytest
import torch

from trivium.core.objective import Loss, Losses


def losses(
    errors: dict[str, list[float]], scale: torch.Tensor, weights: dict[str, float], groups: dict[str, str]
) -> Losses:
    return Losses(
        {
            name: Loss(
                (torch.tensor(values, dtype=torch.float64) * scale).sum(),
                len(values),
                weights.get(name, 1.0),
                groups.get(name, "tokens"),
                10.0 if groups.get(name) == "flow" else 1.0,
            )
            for name, values in errors.items()
        }
    )


def add(*counts: dict[str, float]) -> dict[str, float]:
    return {group: sum(part.get(group, 0.0) for part in counts) for group in {g for part in counts for g in part}}


WEIGHTS, GROUPS = {"vision": 0.5}, {"flow": "flow"}


def test_any_split_into_micro_batches_gives_the_gradient_of_the_whole():
    whole = {"text": [1.0, 2.0, 3.0], "vision": [4.0, 5.0], "flow": [0.5, 0.25, 0.125, 7.0]}
    parts = [{"text": [1.0], "flow": [0.5]}, {"text": [2.0, 3.0], "vision": [4.0, 5.0]}, {"flow": [0.25, 0.125, 7.0]}]
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    big = losses(whole, scale, WEIGHTS, GROUPS)
    expected = big.total(big.counts())
    (gradient,) = torch.autograd.grad(expected, scale)
    counts = add(*(losses(part, scale, WEIGHTS, GROUPS).counts() for part in parts))
    assert counts == big.counts()
    split = [losses(part, scale, WEIGHTS, GROUPS).total(counts) for part in parts]
    assert sum(split).item() == pytest.approx(expected.item(), rel=1e-14)
    (summed,) = torch.autograd.grad(sum(split), scale)
    assert summed.item() == pytest.approx(gradient.item(), rel=1e-14)
    mean_of_means = sum(part.total(part.counts()) for part in (losses(p, scale, WEIGHTS, GROUPS) for p in parts)) / 3
    assert mean_of_means.item() != pytest.approx(expected.item(), rel=0.05)  # what the counts are for


def test_emu35_weighs_vision_tokens_by_half_in_sum_and_count():
    one = torch.tensor(1.0, dtype=torch.float64)
    found = losses({"text": [2.0, 4.0], "vision": [10.0, 20.0, 30.0, 40.0]}, one, WEIGHTS, GROUPS)
    assert found.counts() == {"tokens": 2 + 0.5 * 4}
    assert found.total(found.counts()).item() == (6 + 0.5 * 100) / (2 + 0.5 * 4)


def test_groups_have_their_own_denominator_and_scale():
    one = torch.tensor(1.0, dtype=torch.float64)
    found = losses({"text": [2.0, 4.0], "flow": [1.0, 3.0]}, one, WEIGHTS, GROUPS)
    assert found.total(found.counts()).item() == 3.0 + 10.0 * 2.0


def test_a_loss_without_elements_adds_zero_and_a_finite_gradient():
    scale = torch.tensor(1.0, requires_grad=True)
    empty = Losses({"text": Loss(torch.zeros(0).sum() * scale, 0.0)})
    total = empty.total(empty.counts())
    total.backward()
    assert total.item() == 0.0
    assert scale.grad.item() == 0.0


def test_no_losses_is_our_own_mistake():
    with pytest.raises(AssertionError, match="an objective returned no losses at all"):
        Losses().total({})
