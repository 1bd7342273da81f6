from dataclasses import replace
from itertools import product

import pytest
import torch

from trivium.core.batch import Batch, Kind
from trivium.core.errors import ConfigError
from trivium.data.row import collate
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.visible import ModalityDropoutConfig, drop_modalities, everything, prompt, ranks

CHANCES = ModalityDropoutConfig(image=0.3, state=0.5, text=0.4)


@pytest.fixture
def batch(layout, make) -> Batch:
    rows = [layout.build(make("robot", ("instruction", "push"), ("answer", "3 4"), images=2))]
    rows += [layout.build(make("talk", ("question", "what?"), ("answer", "red"), state=False, action=False))]
    rows += [layout.build(make("flow", ("instruction", "go")))]
    return collate([[("x", row) for row in rows[:2]], [("x", rows[2])]], rows[0].length + rows[1].length + 3)


def lost(batch: Batch, config: ModalityDropoutConfig) -> torch.Tensor:
    """Return, for every document, whether its pictures, state and instruction are gone."""
    seen = drop_modalities(batch, config)
    asked = prompt(batch)
    gone = (batch.documents >= 0) & (seen.documents < 0)
    table = torch.zeros(len(batch.ids), 3, dtype=torch.bool)
    for column, kind in enumerate((Kind.IMAGE, Kind.STATE, Kind.TEXT)):
        for document in range(len(batch.ids)):
            mine = (batch.documents == document) & (batch.kinds == kind)
            parts = gone[mine & asked]
            assert not len(parts) or parts.all() == parts.any(), "a modality is lost whole or not at all"
            assert not gone[mine & ~asked].any(), "what carries a loss is never lost"
            table[document, column] = parts.any()
    assert torch.equal(~seen.images, table[batch.images_document, 0])
    assert torch.equal(~seen.state, table[:, 1])
    return table


def test_rates_and_never_all(batch: Batch) -> None:
    torch.manual_seed(0)
    trials = 300
    tables = torch.stack([lost(batch, CHANCES) for _ in range(trials)])
    assert not tables.all(2).any(), "a sample lost everything"
    assert not tables[:, 1].any(), "a question lost a part"
    chances = torch.tensor([0.3, 0.5, 0.4])
    expected = chances - chances.prod()
    found = tables[:, [0, 2]].flatten(0, 1).float().mean(0)
    bound = 3.3 * (expected * (1 - expected) / (2 * trials)).sqrt()  # 99.9 %
    assert ((found - expected).abs() < bound).all(), (found, expected)
    patterns = {tuple(row) for row in tables[:, 0].int().tolist()}
    assert patterns == set(product((0, 1), repeat=3)) - {(1, 1, 1)}


def test_positions_close_the_gap(batch: Batch) -> None:
    torch.manual_seed(0)
    for _ in range(20):
        seen = drop_modalities(batch, CHANCES)
        for document in range(len(batch.ids)):
            places = seen.positions[seen.documents == document]
            assert places.tolist() == list(range(len(places)))
        assert not seen.positions[seen.documents < 0].any()


def test_ranks_skip_gaps() -> None:
    documents = torch.tensor([[-1, 1, -1, 1, 1], [0, 0, -1, -1, 0]])
    assert ranks(documents, 3).tolist() == [[0, 0, 0, 1, 2], [0, 1, 0, 0, 2]]


def test_prompt_ends_before_the_first_loss(batch: Batch) -> None:
    asked = prompt(batch)
    kinds = [[int(kind) for kind in batch.kinds[asked & (batch.documents == d)]] for d in range(3)]
    image, text, state = int(Kind.IMAGE), int(Kind.TEXT), int(Kind.STATE)
    assert kinds[0] == [image] * 8 + [text] * 4 + [state]
    assert kinds[1] == [image] * 4 + [text] * 5
    assert kinds[2] == [image] * 4 + [text] * 2 + [state]


def perturb(batch: Batch, what: str) -> Batch:
    """Change the content of one modality of the robot samples (documents 0 and 2), and nothing else."""
    if what == "image":
        images = batch.images.clone()
        images[batch.images_document != 1] = 255 - images[batch.images_document != 1]
        return replace(batch, images=images)
    if what == "state":
        return replace(batch, states=batch.states + 1)
    words = (batch.kinds == Kind.TEXT) & prompt(batch) & (batch.documents != 1)
    return replace(batch, tokens=torch.where(words, batch.tokens + 1, batch.tokens))


def losses(objective: VlaObjective, batch: Batch, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: loss.sum.detach() for name, loss in objective(batch).items()}


@pytest.mark.parametrize("what", ["image", "state", "text"])
def test_a_dropped_modality_has_no_influence(model, batch: Batch, what: str) -> None:
    certain = ModalityDropoutConfig(**{what: 1 - 1e-9})
    other = perturb(batch, what)
    blind = VlaConfig(dropout=certain).build(model).train()
    first, second = losses(blind, batch, 1), losses(blind, other, 1)
    assert set(first) == {"text", "action_token", "flow"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    seeing = VlaConfig().build(model).train()
    assert not torch.equal(losses(seeing, batch, 1)["flow"], losses(seeing, other, 1)["flow"])
    assert not torch.equal(losses(seeing, batch, 1)["action_token"], losses(seeing, other, 1)["action_token"])


@pytest.mark.parametrize("what", ["image", "state"])
def test_a_dropped_modality_gets_no_gradient(model, layout, make, what: str) -> None:
    certain = ModalityDropoutConfig(**{what: 1 - 1e-9})
    row = layout.build(make("robot", ("instruction", "push")))
    objective = VlaConfig(dropout=certain).build(model).train()
    found = objective(collate([[("x", row)]], row.length + 2))
    found.total(found.counts()).backward()
    parts = [model.vision, model.connect] if what == "image" else [model.state, model.action.expert.state]
    assert not any(p.grad is not None and p.grad.any() for part in parts for p in part.parameters())
    kept = model.state if what == "image" else model.connect
    assert all(p.grad is not None and p.grad.any() for p in kept.parameters())


def test_evaluation_drops_nothing(model, batch: Batch) -> None:
    objective = VlaConfig(dropout=CHANCES).build(model).eval()
    plain = VlaConfig().build(model).eval()
    first, second, reference = losses(objective, batch, 1), losses(objective, batch, 1), losses(plain, batch, 1)
    assert first == second == reference
    objective.train()
    assert any(losses(objective, batch, seed) != reference for seed in range(3))


def test_no_dropout_is_the_batch_itself(batch: Batch) -> None:
    seen = drop_modalities(batch, ModalityDropoutConfig())
    assert torch.equal(seen.documents, everything(batch).documents)
    assert torch.equal(seen.positions, batch.positions)


def test_chances_are_checked(model) -> None:
    with pytest.raises(ConfigError, match=r"objective.dropout.state: found 1.0; expected a chance, 0 <= p < 1"):
        VlaConfig(dropout=ModalityDropoutConfig(state=1.0)).build(model)
