"""What a token counts, and learning through a frozen language model (InternVL's incremental stage)."""

import pytest
import torch

from trivium.core.batch import IGNORE, Batch
from trivium.core.errors import ConfigError
from trivium.data.row import collate
from trivium.policy import objective as module
from trivium.policy.objective import VlaConfig
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig

POWER = {"token": 0.0, "sample": 1.0, "square": 0.5}


@pytest.fixture
def rows(layout, make) -> list:
    samples = [
        make("robot", ("instruction", "push")),
        make("short", ("question", "what is it"), ("answer", "cup"), state=False, action=False),
        make("long", ("question", "and"), ("answer", "a red cup on the table"), state=False, action=False),
        make("doc", ("document", "hello you"), images=0, state=False, action=False),
    ]
    return [("x", layout.build(sample)) for sample in samples]


@pytest.fixture
def batch(rows) -> Batch:
    return collate([rows[:2], rows[2:]], 80)


@pytest.mark.parametrize("average", POWER)
def test_the_loss_is_the_closed_form(model, batch: Batch, average: str, monkeypatch) -> None:
    objective = VlaConfig(token_average=average, text_weight=0.5, action_token_weight=2.0, flow_weight=0.0).build(model)
    losses = objective(batch)
    assert objective.counts(batch) == pytest.approx(losses.counts())
    logits = model.language.logits(model(batch).hidden.flatten(0, 1)).view(*batch.tokens.shape, -1)
    first = model.language.vocab.extra_start
    learned = [tuple(place) for place in (batch.targets != IGNORE).nonzero().tolist()]
    numbers = torch.bincount(torch.tensor([int(batch.documents[place]) for place in learned])).tolist()
    assert len(set(numbers)) >= 3, "samples of different lengths"
    above = below = 0.0
    for place in learned:
        target = int(batch.targets[place])
        start, weight = (first, 2.0) if target >= first else (0, 0.5)
        share = weight * numbers[int(batch.documents[place])] ** -POWER[average]
        above -= share * logits[place][start:].log_softmax(0)[target - start].item()
        below += share
    assert losses.total(losses.counts()).item() == pytest.approx(above / below, rel=1e-6)
    if average == "sample":
        assert objective.counts(batch)["tokens"] == pytest.approx(2.0 + 3 * 0.5)
    monkeypatch.setattr(module, "CHUNK", 3)
    assert objective(batch).total(losses.counts()).item() == pytest.approx(above / below, rel=1e-6)


@pytest.mark.parametrize("average", POWER)
def test_micro_batches_add_up_to_one_batch(model, rows, batch: Batch, average: str) -> None:
    objective = VlaConfig(token_average=average, flow_weight=0.0).build(model)
    optimizer, _ = StageConfig(name="all", steps=1, learn=("*",), lr=1e-3).build(objective)
    gradients = []
    for batches in ([batch], [collate([[row]], 80) for row in rows]):
        optimizer.begin_step()
        seen = differentiate(objective, batches, optimizer)
        gradients.append((seen.total, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}))
    (one, whole), (many, parts) = gradients
    assert many == pytest.approx(one, rel=1e-6)
    assert all((parts[name] - gradient).abs().max() <= 1e-6 for name, gradient in whole.items())


def test_a_weight_of_zero_takes_its_tokens_out_of_the_share(model, batch: Batch) -> None:
    objective = VlaConfig(token_average="sample", action_token_weight=0.0, flow_weight=0.0).build(model)
    assert objective.counts(batch)["tokens"] == pytest.approx(3.0)  # the robot's sample has action tokens alone


def test_only_answers_are_learned_through_a_frozen_language_model(model, batch: Batch, rows) -> None:
    objective = VlaConfig(token_average="square", action_token_weight=0.0, flow_weight=0.0).build(model)
    stage = StageConfig(name="encoder", steps=1, learn=("vision", "connect"), lr=1e-2)
    optimizer, _ = stage.build(objective)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.begin_step()
    seen = differentiate(objective, [batch], optimizer)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient is None for name, gradient in gradients.items() if name.startswith("language"))
    assert all(gradients[name].abs().max() > 0 for name in gradients if name.startswith("vision.blocks"))
    assert not model.language.training
    optimizer.step(seen.total, 1.0)
    after = model.state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"vision", "connect"}
    short = rows[1][1]
    learned = short.targets[short.targets != IGNORE].tolist()
    assert learned == [*model.language.vocab.encode("cup"), model.language.vocab.end]


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="token_average"):
        VlaConfig(token_average="root")
