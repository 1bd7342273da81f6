"""Knowledge insulation: the action head reads the trunk and teaches it nothing (https://arxiv.org/abs/2505.23705)."""

from dataclasses import replace

import pytest
import torch

from trivium.core.batch import Batch, Kind
from trivium.data.row import collate
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import Model

TRUNK = ("vision.", "connect.", "language.", "state.")
HEAD = ("action.", "context.")


@pytest.fixture
def batch(layout, make) -> Batch:
    samples = [
        make("robot", ("instruction", "push"), images=2),
        make("caption", ("caption", "red"), state=False, action=False),
    ]
    rows = [layout.build(sample) for sample in samples]
    return collate([[("x", row) for row in rows]], sum(row.length for row in rows) + 2)


def learn(
    model: Model, batch: Batch, **settings: object
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None]]:
    """Return the losses and the gradient of every parameter by name."""
    objective = VlaConfig(**settings).build(model)
    objective.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    losses = objective(batch)
    losses.total(losses.counts()).backward()
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in objective.named_parameters()}
    return {name: loss.sum.detach() for name, loss in losses.items()}, grads


def test_forward_is_the_same_bit_by_bit(model, batch: Batch) -> None:
    free, insulated = (learn(model, batch, insulate=insulate)[0] for insulate in (False, True))
    assert set(free) == {"text", "action_token", "flow"}
    assert all(torch.equal(free[name], insulated[name]) for name in free)


def test_the_trunk_hears_nothing_of_the_flow(model, batch: Batch) -> None:
    """From the flow alone no parameter of the trunk has a gradient: shared norms and embeddings leak nothing either."""
    _, grads = learn(model, batch, text_weight=0.0, action_token_weight=0.0, insulate=True)
    trunk = {name: grad for name, grad in grads.items() if name.startswith(TRUNK)}
    assert {"language.embedding.weight", "language.norm.weight"} <= set(trunk)
    assert all(grad is None for grad in trunk.values())
    heads = {name: grad for name, grad in grads.items() if name.startswith(HEAD) and name != "action.expert.no_state"}
    assert heads
    assert all(grad is not None and grad.any() for grad in heads.values())


def test_beside_the_words_the_flow_adds_exactly_nothing(model, batch: Batch) -> None:
    _, insulated = learn(model, batch, insulate=True, flow_weight=10.0)
    _, alone = learn(model, batch, flow_weight=0.0)
    trunk = [name for name in alone if name.startswith(TRUNK)]
    assert all(torch.equal(insulated[name], alone[name]) for name in trunk)
    _, free = learn(model, batch, flow_weight=10.0)
    assert all(not torch.equal(free[name], alone[name]) for name in trunk if ".layers." in name)


def test_without_insulation_the_flow_reaches_every_layer(model, batch: Batch) -> None:
    _, grads = learn(model, batch, text_weight=0.0, action_token_weight=0.0)
    numbers = {name.split(".layers.")[1].split(".")[0] for name in grads if ".layers." in name}
    assert numbers == {"0", "1"}
    layers = [
        name for name in grads if ".layers." in name or ".blocks." in name or name.startswith(("connect.", "state."))
    ]
    assert all(grads[name] is not None and grads[name].any() for name in layers)


@pytest.mark.parametrize("insulate", [False, True])
def test_action_tokens_are_invisible_to_the_head(model, batch: Batch, insulate: bool) -> None:
    acts = batch.kinds == Kind.ACTION
    start = model.language.vocab.extra_start
    other = replace(batch, tokens=torch.where(acts, start + (batch.tokens - start + 7) % 102, batch.tokens))
    assert not torch.equal(other.tokens, batch.tokens)
    (first, grads), (second, grads2) = (learn(model, version, insulate=insulate) for version in (batch, other))
    assert torch.equal(first["flow"], second["flow"])
    assert not torch.equal(first["action_token"], second["action_token"])
    head = [name for name in grads if name.startswith(HEAD) and grads[name] is not None]
    assert head
    assert all(torch.equal(grads[name], grads2[name]) for name in head)
