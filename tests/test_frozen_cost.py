"""Frozen parts cost what theory says: nothing is kept in front of the first learner, no weight gradient behind it."""

import sys
from pathlib import Path

import pytest
import torch

from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.batch import Batch
from trivium.language.model import TinyLanguageConfig
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.vla import Model, ModelConfig
from trivium.train.stage import apply_freeze
from trivium.vision.vit import VitConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import frozen


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return ModelConfig(
        vision=VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2),
        connect=MlpConnectorConfig(shuffle=2),
        language=TinyLanguageConfig(width=32, num_layers=2, heads=2),
        action=FlowConfig(horizon=4, width=32, depth=1, heads=2),
    ).build(2, 3)


@pytest.fixture
def objective(model: Model) -> VlaObjective:
    return VlaConfig(action_token_weight=0.0, flow_weight=0.0).build(model)


@pytest.fixture(scope="module")
def batch(model: Model) -> Batch:
    return frozen.batch_of(model)


def test_a_frozen_encoder_in_front_keeps_nothing(
    objective: VlaObjective, batch: Batch, monkeypatch: pytest.MonkeyPatch
):
    apply_freeze(objective, ("connect",))
    kept = frozen.kept_bytes(objective, batch)
    patches = objective.vision(batch.images)
    assert not patches.requires_grad
    monkeypatch.setattr(type(objective.vision), "forward", lambda self, images: patches)
    without = frozen.kept_bytes(objective, batch)
    monkeypatch.undo()
    assert kept == without
    apply_freeze(objective, ("vision", "connect"))
    assert frozen.kept_bytes(objective, batch) > 1.2 * kept


def test_operations_are_the_theoretical_shares(objective: VlaObjective, batch: Batch):
    found = {}
    for name, learn in frozen.STAGES.items():
        apply_freeze(objective, learn)
        found[name] = frozen.operations(objective, batch)
    whole = found["everything"]
    assert found["connector"]["vision"] == pytest.approx(whole["vision"] / 3, rel=0.1)
    assert found["encoder"]["vision"] == whole["vision"]
    for name in ("connector", "encoder"):
        # Attention itself has no weights to spare, so the share lies a little above.
        assert 0.66 <= found[name]["language"] / whole["language"] < 0.75


def test_frozen_weights_have_no_gradient_and_their_inputs_are_not_kept(objective: VlaObjective, batch: Batch):
    apply_freeze(objective, ("vision", "connect"))
    losses = objective(batch)
    losses.total(losses.counts()).backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == name.startswith(("vision.", "connect.")), name
    through = frozen.kept_bytes(objective, batch)
    apply_freeze(objective, frozen.STAGES["everything"])
    assert through < 0.95 * frozen.kept_bytes(objective, batch)
