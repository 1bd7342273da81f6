"""Weights by modality are the closed form of the whole batch, on one rank and on two."""

import json
from pathlib import Path

import both_ranks
import pytest
import torch
import weighted_ranks
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.action.regress import RegressConfig
from trivium.core.batch import IGNORE, Batch
from trivium.data.row import collate
from trivium.policy.vla import Model, ModelConfig
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig


def closed_form(model: Model, batches: list[Batch]) -> float:
    """Sum over all batches first, then divide: by weighted tokens, and by elements of actions."""
    tokens = squares = weights = error = elements = 0.0
    acts = model.language.vocab.span("action")
    for batch in batches:
        thought = model(batch)
        logits = model.language.logits(thought.hidden.flatten(0, 1)).view(*batch.tokens.shape, -1)
        for row, place in (batch.targets != IGNORE).nonzero().tolist():
            target = int(batch.targets[row, place])
            weight, start = (0.5, acts.start) if target in acts else (1.0, 0)
            scores = logits[row, place, start:]
            tokens -= weight * scores.log_softmax(0)[target - start].item()
            squares += weight * scores.logsumexp(0).item() ** 2
            weights += weight
        if batch.actions is not None:
            context = model.gather_context(thought, batch, batch.actions_document)
            error += model.action.loss(batch.actions, batch.actions_valid, context).sum().item()
            elements += float(batch.actions_valid.sum()) * 2
    return tokens / weights + 0.01 * squares / weights + 3.0 * error / elements


@pytest.fixture
def batches(layout, make) -> list[Batch]:
    """Two ranks that hold different things: many words and one robot here, two robots and one cut short there."""
    first = [make("talk", ("question", "and"), ("answer", "a red cup on a table"), state=False, action=False)]
    first.append(make("robot", ("instruction", "push")))
    second = [make("cut", ("instruction", "go"), valid=2), make("whole", ("instruction", "pull it"), images=2)]
    return [collate([[("x", layout.build(sample)) for sample in side]], 90) for side in (first, second)]


def test_one_rank_and_two_give_the_closed_form(config: ModelConfig, layout, batches, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config.replace(action=RegressConfig(horizon=4, width=32, depth=1, heads=2))  # draws no noise
    model = config.build(2, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    expected = closed_form(model, batches)
    objective = weighted_ranks.WEIGHTS.build(model)
    optimizer, _ = StageConfig(name="all", steps=1, learn=("*",), lr=1e-3).build(objective)
    optimizer.begin_step()
    seen = differentiate(objective, batches, optimizer)
    assert seen.total == pytest.approx(expected, rel=1e-6)
    alone = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}

    (tmp_path / "model.json").write_text(json.dumps(config.model_dump(mode="json")))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    for rank, batch in enumerate(batches):
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        save_file(tensors, tmp_path / f"batch-{rank}.safetensors")
        (tmp_path / f"batch-{rank}.json").write_text(json.dumps(batch.ids))
    both_ranks.run(weighted_ranks, tmp_path)
    for rank in (0, 1):
        found = load_file(tmp_path / f"found-{rank}.safetensors")
        assert found.pop("total").item() == pytest.approx(expected, rel=1e-6)
        assert found.keys() == alone.keys()
        for name, gradient in alone.items():
            assert (found[name] - gradient).abs().max() <= 1e-6, name
