import numpy as np
import pytest
import torch

from trivium.action.flow import FlowConfig
from trivium.action.prior import ActionPriorConfig, ActionPriorLayout, ActionPriorObjective
from trivium.core.errors import DataError
from trivium.core.sample import Action, Sample, State, Text
from trivium.data.row import collate


class Whole(torch.nn.Module):
    """Stands for the model: all the prior asks of it is its action head."""

    def __init__(self) -> None:
        super().__init__()
        self.action = FlowConfig(horizon=4, width=32, heads=4, depth=2, num_draws=4).build(2, 3, 8)


def objective() -> ActionPriorObjective:
    torch.manual_seed(0)
    return ActionPriorConfig().build(Whole())


def sample(name: str, valid: int = 4, fill: float = 0.5) -> Sample:
    action = Action(values=np.full((4, 2), fill, np.float32), valid=np.arange(4) < valid, names=("x", "y"), time_s=0.0)
    state = State(values=np.array([fill, 0, 1], np.float32), names=("a", "b", "c"))
    return Sample(id=name, segments=(state, action), source="s", license="CC0-1.0")


def test_counts_are_those_of_the_losses() -> None:
    prior = objective()
    batch = prior.fake_batch()
    assert prior.counts(batch) == prior(batch).counts() == {"flow": (4 + 3) * 2}


def test_rows_and_batches() -> None:
    layout = ActionPriorLayout()
    rows = [layout.build(sample("a")), layout.build(sample("b", valid=2))]
    assert [row.length for row in rows] == [4, 4]
    assert rows[0].counts == layout.count(sample("a")) == {"action": 4}
    batch = collate([[("robot", row) for row in rows]], 16)
    assert batch.tokens is None
    assert batch.actions.shape == (2, 4, 2)
    assert objective().counts(batch) == {"flow": (4 + 2) * 2}


def test_a_sample_without_actions_has_nothing_to_learn() -> None:
    text = Sample(id="t", segments=(Text(text="hi"),), source="s", license="CC0-1.0")
    assert not ActionPriorLayout().count(text)
    with pytest.raises(DataError, match="sample t: found 0 actions and 0 states; expected one action"):
        ActionPriorLayout().build(text)
    with pytest.raises(DataError, match="sample n: found NaN or infinity in the action"):
        ActionPriorLayout().build(sample("n", fill=float("nan")))


def test_overfits_one_batch() -> None:
    prior, layout = objective(), ActionPriorLayout()
    rows = [layout.build(sample(str(i), fill=i / 2 - 1)) for i in range(5)]
    batch = collate([[("robot", row) for row in rows]], 20)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3, weight_decay=0.0)
    first = last = 0.0
    for step in range(120):
        losses = prior(batch)
        total = losses.total(losses.counts())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        first = total.item() if step == 0 else first
        last = total.item() if step < 110 else min(last, total.item())
    assert first > 1.0
    assert last < 0.15
    # The head has learned to act on the state: each state has its own chunk.
    from trivium.action.model import Context

    given = Context(state=batch.states, state_known=torch.ones(5, dtype=torch.bool))
    found = prior.action.sample(given, torch.Generator().manual_seed(0))
    assert (found - batch.actions).abs().mean() < 0.2
