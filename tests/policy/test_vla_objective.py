import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from trivium.action.prior import ActionPriorConfig
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.errors import ConfigError
from trivium.data.row import collate
from trivium.policy import objective as module
from trivium.policy.objective import VlaConfig, VlaObjective, cross_entropy_sum
from trivium.policy.vla import ModelConfig


@pytest.fixture
def batch(layout, make) -> Batch:
    samples = [
        make("robot", ("instruction", "push")),
        make("cut", ("instruction", "pull"), valid=2),
        make("caption", ("caption", "red"), state=False, action=False),
        make("doc", ("document", "hello you"), images=0, state=False, action=False),
    ]
    rows = [layout.build(sample) for sample in samples]
    return collate([[("x", row) for row in rows[:2]], [("y", row) for row in rows[2:]]], 64)


def total(objective: VlaObjective, batch: Batch, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    losses = objective(batch)
    return losses.total(losses.counts())


def test_losses_counts_and_weights_are_the_closed_form(model, batch: Batch) -> None:
    objective = VlaConfig(text_weight=0.5, action_token_weight=2.0, flow_weight=3.0).build(model)
    torch.manual_seed(0)
    losses = objective(batch)
    assert objective.counts(batch) == losses.counts()
    assert losses["flow"].count == (4 + 2) * 2
    logits = model.language.logits(model(batch).hidden.flatten(0, 1)).view(*batch.tokens.shape, -1)
    start = model.language.vocab.extra_start
    found = {"text": [0.0, 0], "action_token": [0.0, 0]}
    for row, place in (batch.targets != IGNORE).nonzero().tolist():
        target = int(batch.targets[row, place])
        name = "action_token" if target >= start else "text"
        scores = logits[row, place, start:] if target >= start else logits[row, place]
        found[name][0] -= scores.log_softmax(0)[target - (start if target >= start else 0)].item()
        found[name][1] += 1
    (text, words), (act, tokens) = found["text"], found["action_token"]
    assert (losses["text"].count, losses["action_token"].count) == (words, tokens)
    assert losses["text"].sum.item() == pytest.approx(text, rel=1e-5)
    assert losses["action_token"].sum.item() == pytest.approx(act, rel=1e-5)
    flow = losses["flow"].sum.item() / 12
    expected = (0.5 * text + 2 * act) / (0.5 * words + 2 * tokens) + 3 * flow
    assert losses.total(losses.counts()).item() == pytest.approx(expected, rel=1e-5)


def test_sentinels_above_the_action_ids_are_text(config: ModelConfig, batch: Batch) -> None:
    torch.manual_seed(0)
    named = config.replace(language=config.language.replace(sentinels=("<|fim|>",)))
    model = named.build(2, 3)
    objective, sentinel = VlaConfig(action_token_weight=3.0).build(model), model.language.vocab.span("action").stop
    assert batch.targets is not None
    row, place = (batch.targets == batch.targets[batch.targets != IGNORE].max()).nonzero()[0].tolist()
    targets = batch.targets.clone()
    targets[row, place] = sentinel
    counts, changed = objective.counts(batch), objective.counts(replace(batch, targets=targets))
    assert changed["tokens"] == counts["tokens"] - 3 + 1


def test_first_losses_are_those_of_ignorance(config: ModelConfig, batch: Batch) -> None:
    torch.manual_seed(0)
    losses = VlaConfig().build(config.build(2, 3))(batch)
    mean = {name: (loss.sum / loss.count).item() for name, loss in losses.items()}
    assert mean["text"] == pytest.approx(math.log(257 + 102), abs=0.3)
    assert mean["action_token"] == pytest.approx(math.log(102), abs=0.3)


def test_a_weight_of_zero_leaves_a_loss_out(model, batch: Batch) -> None:
    for name, loss in (("text_weight", "text"), ("action_token_weight", "action_token"), ("flow_weight", "flow")):
        objective = VlaConfig(**{name: 0.0}).build(model)
        losses = objective(batch)
        assert loss not in losses
        assert len(losses) == 2
        assert objective.counts(batch) == losses.counts()
    with pytest.raises(ConfigError, match="objective: found all weights 0; expected something to learn"):
        VlaConfig(text_weight=0.0, action_token_weight=0.0, flow_weight=0.0).build(model)
    with pytest.raises(ConfigError, match=r"objective.flow_weight: found -1.0; expected 0 or more"):
        VlaConfig(flow_weight=-1.0).build(model)


@pytest.mark.parametrize("average", ["token", "square"])
def test_z_loss_is_the_closed_form_and_a_loss_of_its_own(model, batch: Batch, average: str) -> None:
    config = VlaConfig(z_loss=0.01, action_token_weight=2.0, flow_weight=0.0, token_average=average)
    objective, plain = config.build(model), config.replace(z_loss=0.0).build(model)
    losses, before = objective(batch), plain(batch)
    assert objective.counts(batch) == losses.counts()
    assert set(losses) == {"text", "action_token", "z"}
    assert torch.equal(losses["text"].sum, before["text"].sum), "what is reported stays cross entropy"
    scores = model.language.logits(model(batch).hidden.flatten(0, 1)).view(*batch.tokens.shape, -1)
    acts, numbers = model.language.vocab.span("action"), torch.bincount(batch.documents[batch.targets != IGNORE])
    squares = weights = 0.0
    for row, place in (batch.targets != IGNORE).nonzero().tolist():
        act = int(batch.targets[row, place]) in acts
        learned = int(numbers[batch.documents[row, place]])
        weight = (2.0 if act else 1.0) * (1.0 if average == "token" else learned**-0.5)
        found = scores[row, place, acts.start if act else 0 :].logsumexp(0).item()
        squares, weights = squares + weight * found**2, weights + weight
    assert losses["z"].count == pytest.approx(weights)
    expected = before.total(before.counts()).item() + 0.01 * squares / weights
    assert losses.total(losses.counts()).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match=r"objective.z_loss: found -1.0; expected 0 or more"):
        VlaConfig(z_loss=-1.0).build(model)


def test_micro_batches_add_up(model, layout, make) -> None:
    objective = VlaConfig().build(model)
    rows = [layout.build(make(name, ("caption", "red" * n), action=False)) for n, name in enumerate("abc", 1)]
    whole = collate([[("x", row)] for row in rows], 40)
    parts = [collate([[("x", row)]], 40) for row in rows]
    counts = objective.counts(whole)
    pieces = sum(objective(part).total(counts) for part in parts)
    torch.testing.assert_close(objective(whole).total(counts), pieces, atol=1e-6, rtol=1e-6)


def test_a_batch_with_nothing_to_learn_costs_nothing(model, batch: Batch) -> None:
    objective = VlaConfig(text_weight=1.0, action_token_weight=0.0, flow_weight=0.0).build(model)
    empty = replace(batch, targets=torch.full_like(batch.targets, IGNORE))
    assert objective(empty).counts() == objective.counts(empty) == {"tokens": 0.0}
    found = total(objective, empty)
    found.backward()
    assert found.item() == 0.0
    assert not any(p.grad is not None and p.grad.any() for p in objective.parameters())


def test_chunked_scoring_is_the_same(model, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    targets = torch.randint(257, 359, (20,))
    found = []
    for size in (1024, 7):
        monkeypatch.setattr(module, "CHUNK", size)
        hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = cross_entropy_sum(model.language, hidden, targets, 257)
        (gradient,) = torch.autograd.grad(loss, hidden)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0], found[1])
    full = F.cross_entropy(model.language.logits(hidden)[:, 257:], targets - 257, reduction="sum")
    torch.testing.assert_close(found[0][0], full.detach())


def test_action_tokens_are_invisible_to_the_flow(model, batch: Batch) -> None:
    objective = VlaConfig().build(model).eval()
    tokens = batch.tokens.clone()
    acts = batch.kinds == Kind.ACTION
    tokens[acts] = 257 + (tokens[acts] - 257 + 5) % 102
    other = replace(batch, tokens=tokens)
    found = []
    for version in (batch, other):
        torch.manual_seed(0)
        found.append(objective(version))
    assert torch.equal(found[0]["flow"].sum, found[1]["flow"].sum)
    assert not torch.equal(found[0]["action_token"].sum, found[1]["action_token"].sum)


def test_an_answer_beside_the_action_is_invisible_to_the_flow(model, layout, make) -> None:
    objective, flows = VlaConfig().build(model).eval(), []
    for answer in ("3 4", "9 9"):
        row = layout.build(make("robot", ("instruction", "push"), ("answer", answer)))
        torch.manual_seed(0)
        flows.append(objective(collate([[("x", row)]], row.length))["flow"].sum)
    assert torch.equal(*flows)


def test_insulation_stops_the_gradient_and_changes_nothing_else(model, batch: Batch) -> None:
    values, grads = [], []
    for insulate in (False, True):
        objective = VlaConfig(text_weight=0.0, action_token_weight=0.0, insulate=insulate).build(model)
        objective.zero_grad(set_to_none=True)
        loss = total(objective, batch)
        loss.backward()
        values.append(loss.detach())
        grads.append({name: p.grad for name, p in objective.named_parameters()})
    assert torch.equal(*values)
    free, insulated = grads
    trunk = ("vision.", "connect.", "language.", "state.")
    head = ("action.", "context.")
    assert {name.split(".")[0] + "." for name in free} == {*trunk, *head}
    assert all(insulated[name] is None for name in insulated if name.startswith(trunk))
    layers = [name for name in free if ".layers." in name or ".blocks." in name or name.startswith("connect.")]
    assert layers
    assert all(free[name] is not None and free[name].any() for name in layers)
    for name in insulated:
        if name.startswith(head) and name != "action.expert.no_state":
            assert insulated[name].any(), name


def test_the_prior_hands_its_weights_on(model) -> None:
    prior, vla = ActionPriorConfig().build(model), VlaConfig().build(model)
    names = set(dict(prior.named_parameters()))
    assert names
    assert names == {name for name in dict(vla.named_parameters()) if name.startswith("action.")}
    assert all(p is dict(vla.named_parameters())[name] for name, p in prior.named_parameters())
    before = model.action.expert.fall.weight.clone()
    losses = prior(prior.fake_batch())
    losses.total(losses.counts()).backward()
    torch.optim.SGD(prior.parameters(), lr=0.1).step()
    assert not torch.equal(vla.state_dict()["action.expert.fall.weight"], before)


def test_fake_batch_runs_and_counts(model) -> None:
    objective = VlaConfig().build(model)
    fake = objective.fake_batch()
    losses = objective(fake)
    assert losses.counts() == objective.counts(fake)
    assert set(losses) == {"text", "action_token", "flow"}
    assert (fake.documents >= 0).sum() == fake.num_tokens


def test_overfits_one_batch(config: ModelConfig, batch: Batch) -> None:
    torch.manual_seed(0)
    objective = VlaConfig(flow_weight=2.0).build(config.build(2, 3))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(45):
        optimizer.zero_grad()
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        optimizer.step()
    mean = {name: (loss.sum / loss.count).item() for name, loss in losses.items()}
    assert mean["text"] < 0.3, "nats, from 5.9"
    assert mean["action_token"] < 0.3, "nats, from 4.6"
    assert mean["flow"] < 0.6, "from 1.3"


def test_bfloat16_weights_take_float32_data(model, batch: Batch) -> None:
    objective = VlaConfig().build(model.bfloat16())
    losses = objective(batch)
    assert all(loss.sum.dtype == torch.float32 and loss.sum.isfinite() for loss in losses.values())
    losses.total(losses.counts()).backward()
