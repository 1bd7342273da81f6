from dataclasses import fields

import pytest
import torch
import toy
from toy import batch_of, plain_toy, stages

from trivium.core.batch import Batch
from trivium.core.objective import Loss, Losses, Objective
from trivium.train.gradient import differentiate
from trivium.train.optim import Group, Optimizer

ROWS = {"states", "actions", "actions_valid"}


def split(batch: Batch, *sizes: int) -> list[Batch]:
    """Cut one batch by rows into micro-batches."""
    cut = {f.name: getattr(batch, f.name).split(list(sizes)) for f in fields(batch) if f.name in ROWS}
    return [Batch(**{name: parts[number] for name, parts in cut.items()}) for number in range(len(sizes))]


def gradients(micro_batches):
    objective = plain_toy()
    optimizer, _ = stages()[1].replace(learn=("*",)).build(objective)
    seen = differentiate(objective, micro_batches, optimizer)
    return seen, {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (1, 5, 2), (7, 1)])
def test_micro_batches_add_up_to_one_batch_whatever_their_counts(sizes):
    batch = batch_of(3, rows=8)
    valid = [int(part.actions_valid.sum()) for part in split(batch, *sizes)]
    assert len(set(valid)) > 1, "the counts must be uneven, else a mean of means would pass"
    whole, expected = gradients([batch])
    seen, found = gradients(split(batch, *sizes))
    assert seen.total == pytest.approx(whole.total, abs=1e-6)
    assert seen.loss == {name: pytest.approx(value, abs=1e-6) for name, value in whole.loss.items()}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)
        assert gradient.abs().sum() > 0


def test_total_is_the_weighted_sum_of_the_means():
    seen, _ = gradients([batch_of(3), batch_of(4)])
    assert seen.total == pytest.approx(2.0 * seen.loss["flow"] + seen.loss["text"], rel=1e-6)


class Odd(Objective):
    """Two parts; only the second learns, and a batch without images does not use it."""

    def __init__(self, miscounts: bool = False) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(4, 1).requires_grad_(False)
        self.head = torch.nn.Linear(4, 1)
        self.miscounts = miscounts

    def counts(self, batch):
        return {"tokens": len(batch.states) + float(self.miscounts)}

    def forward(self, batch):
        part = self.head if batch.actions is not None else self.frozen
        return Losses(text=Loss(part(batch.states).square().sum(), float(len(batch.states))))

    def fake_batch(self):
        return batch_of(0)


def odd_optimizer(objective):
    return Optimizer(objective, [Group("base", 1e-3, 0.0, ("head.bias", "head.weight"))])


def test_a_batch_that_nothing_learns_from_passes():
    objective = Odd()
    optimizer = odd_optimizer(objective)
    seen = differentiate(objective, [Batch(states=torch.randn(3, 4))], optimizer)
    assert seen.loss["text"] > 0
    assert objective.head.weight.grad is None
    assert optimizer.step(seen.total, 1.0) == (0.0, True)


def test_counts_that_do_not_fit_the_losses_are_our_own_mistake():
    objective = Odd(miscounts=True)
    with pytest.raises(AssertionError, match=r"Odd: counts\(\) says 4\.0 for group 'tokens', but forward counted 3"):
        differentiate(objective, [Batch(states=torch.randn(3, 4))], odd_optimizer(objective))


def test_toy_counts_are_true():
    for place in range(5):
        batch = toy.batch_of(place)
        objective = plain_toy()
        assert objective(batch).counts() == objective.counts(batch)
