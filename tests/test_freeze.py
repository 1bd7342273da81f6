"""InternVL's stages on a tiny run: after each one exactly the named parameters have changed, to the bit."""

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
import small_run
import torch
from torch import nn

from trivium import curriculum
from trivium.assemble import World, build_objective
from trivium.core.rng import seed_all
from trivium.language.lora import LoraConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.visible import ModalityDropoutConfig
from trivium.run import Run, Stage
from trivium.train.gradient import differentiate
from trivium.train.stage import select

WORDS = VlaConfig(action_token_weight=0.0, flow_weight=0.0)
ACTS = VlaConfig(dropout=ModalityDropoutConfig(state=0.9))
"""Without dropout nothing would teach the vector that stands for a missing state."""
FREEZES = {
    "connector": ("connect", "state"),
    "encoder": ("vision", "connect", "state"),
    "lower": ("vision.blocks.0-1", "connect"),
    "upper": ("language.layers.2-", "connect", "action", "context"),
    "full": ("*", "!language.layers.0", "!vision.patch"),
}
"""Stages 1, 1.5 and 2 of InternVL, with two partial ones in between."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("frozen") / "set", 8)


def staged(data: Path, **freezes: tuple[str, ...]) -> Run:
    """Make a run of one stage a freeze; only stages in which the action head learns act."""
    base = small_run.small_run(data, workers=0)
    model = base.model.replace(
        vision=base.model.vision.replace(depth=3),
        language=base.model.language.replace(num_layers=4),
    )
    stages = tuple(
        base.stages[1].replace(
            name=name,
            steps=2,
            learn=learn,
            lr_groups={},
            accumulate=1,
            objective=ACTS if {"action", "*"} & set(learn) else WORDS,
        )
        for name, learn in freezes.items()
    )
    return base.replace(model=model, stages=stages, rollout=None)


def hashes(module: nn.Module) -> dict[str, str]:
    return {
        name: hashlib.sha256(parameter.detach().numpy().tobytes()).hexdigest()
        for name, parameter in module.named_parameters()
    }


@pytest.fixture(scope="module")
def walk(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, World, dict[str, str]]]:
    """Run all stages; keep the hashes of all parameters before the first and after each."""
    found: list[tuple[str, World, dict[str, str]]] = []
    with pytest.MonkeyPatch.context() as patch:

        def keep(world: World, stage: str, step: int | None = None) -> None:
            found.append((stage, world, hashes(world.model)))

        def first(world: World) -> None:
            for parameter in world.model.parameters():
                if not parameter.any():  # layers that start as zeros hide what lies behind them for a step
                    nn.init.normal_(parameter, std=0.1)
            keep(world, "start")

        patch.setattr(curriculum, "check_health", keep)
        patch.setattr(curriculum, "draw_samples", first)
        curriculum.execute(staged(data, **FREEZES), tmp_path_factory.mktemp("walk") / "run")
    return found


def test_every_stage_moves_exactly_what_it_names(walk: list[tuple[str, World, dict[str, str]]]):
    assert [stage for stage, _, _ in walk] == ["start", *FREEZES]
    for (_, world, before), (stage, _, after) in pairwise(walk):
        named = select(world.model, FREEZES[stage])
        moved = {name for name in before if before[name] != after[name]}
        assert moved == named, f"{stage}: {sorted(moved ^ named)[:5]}"


def test_partial_patterns_are_what_they_say(walk: list[tuple[str, World, dict[str, str]]]):
    states = {stage: state for stage, _, state in walk}
    lower = {name for name in states["encoder"] if states["encoder"][name] != states["lower"][name]}
    assert {name[:15] for name in lower if name.startswith("vision")} == {"vision.blocks.0", "vision.blocks.1"}
    upper = {name for name in states["lower"] if states["lower"][name] != states["upper"][name]}
    assert {name[:17] for name in upper if name.startswith("language")} == {"language.layers.2", "language.layers.3"}
    assert {name.split(".")[0] for name in upper} == {"language", "connect", "action", "context"}


@pytest.mark.parametrize("name", ["connector", "encoder", "lower"])
def test_gradients_pass_through_the_frozen_language_model(data: Path, tmp_path: Path, name: str):
    """(2.5 of the facts) frozen is not cut off: the loss stands behind the model that does not learn."""
    world = World(staged(data, **{name: FREEZES[name]}), tmp_path)
    seed_all(0)
    work = world.stage(0)
    optimizer, _ = work.stage.build(work.objective)
    assert not any(module.training for module in world.model.language.modules())
    assert world.model.vision.training == (name != "connector")
    (batches,) = list(work.loader.batches(0, 1, 1))
    optimizer.begin_step()
    differentiate(work.objective, batches, optimizer)
    named = select(world.model, FREEZES[name])
    for key, parameter in world.model.named_parameters():
        if key in named:
            assert parameter.grad is not None, key
            assert parameter.grad.any(), key
        else:
            assert parameter.grad is None, key


def test_adapters_leave_everything_but_the_layers_as_it_was(data: Path, tmp_path: Path):
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    config = staged(data, lora=("language.lora.2-", "connect"))
    stage: Stage = config.stages[0].replace(lora=LoraConfig(rank=2))
    world = World(config.replace(stages=(stage,)), tmp_path)
    before = hashes(world.model)
    objective = build_objective(stage.objective, world.model, world.config)
    optimizer, _ = stage.build(objective)
    (batches,) = list(world.stage(0).loader.batches(0, 1, 1))
    for _ in range(2):  # the second half of an adapter is zero in the first step
        optimizer.begin_step()
        optimizer.step(differentiate(objective, batches, optimizer).total, 1.0)
    stage.hand_over(objective)
    after = hashes(world.model)
    assert before.keys() == after.keys()
    moved = {name for name in before if before[name] != after[name]}
    assert {name[:17] for name in moved if name.startswith("language")} == {"language.layers.2", "language.layers.3"}
    assert {name for name in moved if not name.startswith("language")} == select(world.model, ["connect"])
    assert torch.isfinite(next(world.model.parameters())).all()
