"""Every action head on the whole model: learns, acts, and takes a prior's weights over."""

import numpy as np
import pytest
import torch
from action_heads import CONFIGS, PARAMS

from trivium.action.expert import ExpertConfig
from trivium.action.prior import ActionPriorConfig, ActionPriorLayout
from trivium.core.config import parse, to_yaml
from trivium.core.dialect import read_yaml
from trivium.data.row import collate
from trivium.data.transform import build_chain
from trivium.policy.act import VlaPolicy
from trivium.policy.objective import VlaConfig
from trivium.policy.sequence import VlaLayout
from trivium.policy.vla import Model, ModelConfig

STEPS = 3
VLA_HEADS = pytest.mark.parametrize("head_config", PARAMS)


def build(config: ModelConfig, head: ExpertConfig, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return config.replace(action=head).build(2, 3)


def train(objective: torch.nn.Module, batch, steps: int = STEPS) -> None:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        optimizer.step()


@VLA_HEADS
def test_the_head_learns_and_acts(config: ModelConfig, head_config, layout, make) -> None:
    model = build(config, head_config)
    objective = VlaConfig().build(model)
    row = layout.build(make("robot", ("instruction", "push")))
    batch = collate([[("x", row)]], row.length)
    losses = objective(batch)
    names = set(model.action.parts())
    assert set(losses) == {"action_token", *names}
    assert all(losses[name].group == name for name in names)
    assert objective.counts(batch) == losses.counts()
    train(objective, batch)
    policy = VlaPolicy(model, build_chain([], {}), VlaLayout(layout.vocab, layout.tokens_per_image, None))
    chunk = policy.act([make("robot", ("instruction", "push"), action=False)])
    assert chunk.shape == (1, 4, 2)
    assert np.isfinite(chunk).all()


@VLA_HEADS
def test_a_prior_hands_its_weights_to_the_models_head(config: ModelConfig, head_config, make) -> None:
    model, untouched = build(config, head_config), build(config, head_config)
    rows = [ActionPriorLayout().build(make(name, images=0)) for name in ("a", "b")]
    train(ActionPriorConfig().build(model), collate([[("x", row) for row in rows]], 8))
    handed, fresh = VlaConfig().build(model).state_dict(), VlaConfig().build(untouched).state_dict()
    moved = {name for name in fresh if not torch.equal(handed[name], fresh[name])}
    assert all(torch.equal(handed[name], value) for name, value in model.state_dict().items())
    assert moved
    assert {name.split(".")[0] for name in moved} == {"action"}
    looking = {name for name in fresh if name.startswith("action.") and ("cross." in name or ".context." in name)}
    assert looking
    assert not moved & looking, "what looks at the context is fresh"
    others = {name for name in fresh if name.startswith("action.") and not name.endswith("no_state")} - looking
    assert moved == others


@VLA_HEADS
def test_a_recipe_may_name_the_head(config: ModelConfig, head_config) -> None:
    whole = config.replace(action=head_config)
    assert parse(ModelConfig, read_yaml(to_yaml(whole), "test")) == whole


def test_all_heads_are_asked() -> None:
    assert {config.kind for config in CONFIGS.values()} == {  # type: ignore[attr-defined]
        part.model_fields["kind"].default for part in ModelConfig.model_fields["action"].annotation.__args__
    }
