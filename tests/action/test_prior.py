import numpy as np
import pytest
import torch
from action_heads import CONFIGS, HEADS, build

from trivium.action.expert import ExpertConfig
from trivium.action.prior import ActionPriorConfig, ActionPriorLayout, ActionPriorObjective
from trivium.core.errors import DataError
from trivium.core.sample import Action, Sample, State, Text
from trivium.data.row import collate
from trivium.train.stage import apply_freeze


class Whole(torch.nn.Module):
    """Stands for the model: all the prior asks of it is its action head."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.action = build(config)


def objective(config: ExpertConfig = CONFIGS["flow"]) -> ActionPriorObjective:
    torch.manual_seed(0)
    return ActionPriorConfig().build(Whole(config))


def sample(name: str, valid: int = 4, fill: float = 0.5) -> Sample:
    action = Action(values=np.full((4, 2), fill, np.float32), valid=np.arange(4) < valid, names=("x", "y"), time_s=0.0)
    state = State(values=np.array([fill, 0, 1], np.float32), names=("a", "b", "c"))
    return Sample(id=name, segments=(state, action), source="s", license="CC0-1.0")


@HEADS
def test_the_loss_and_its_group_are_named_after_the_head(config: ExpertConfig) -> None:
    prior = objective(config)
    batch = prior.fake_batch()
    losses, names = prior(batch), set(prior.action.parts())
    assert prior.counts(batch) == losses.counts() == dict.fromkeys(names, (4 + 3) * 2)
    assert set(losses) == names
    losses.total(losses.counts()).backward()


@HEADS
def test_one_part_of_a_head_can_learn_while_the_rest_keeps_what_the_prior_taught(config: ExpertConfig) -> None:
    prior = objective(config)
    whole = [name for name, _ in prior.named_parameters()]
    inner = "network" if "action.network.state.weight" in whole else "expert"
    inner = "heads.flow.expert" if "action.heads.flow.expert.state.weight" in whole else inner
    apply_freeze(prior, ("action", f"!action.{inner}.state"))
    frozen = {name for name, parameter in prior.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"action.{inner}.state.{kind}" for kind in ("weight", "bias")}
    before = {name: parameter.clone() for name, parameter in prior.named_parameters()}
    optimizer = torch.optim.SGD([p for p in prior.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        losses = prior(prior.fake_batch())
        losses.total(losses.counts()).backward()
        optimizer.step()
    assert all(torch.equal(prior.get_parameter(name), before[name]) for name in frozen)


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
    for step in range(160):
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
