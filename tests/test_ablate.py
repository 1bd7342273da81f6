"""Held-out losses without each sense: closed form, the same noise for all, and no bit of training changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch

from trivium import curriculum
from trivium.ablate import joins, measure_ablation, summarise
from trivium.assemble import World, build_objective
from trivium.core.files import write_json
from trivium.data.row import collate
from trivium.eval.ablation import blank, compare
from trivium.policy.visible import Lost, leave_out


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    small_run.write_set(folder / "set")
    return folder


@pytest.fixture(scope="module")
def world(place: Path) -> World:
    (place / "run").mkdir()
    config = small_run.small_run(place / "set", workers=0)
    world = World(config.replace(health=config.health.replace(ablate=30)), place / "run")
    for parameter in world.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return world


def test_only_stages_that_join_modalities_are_measured(world: World):
    assert [joins(world.config, stage.name) for stage in world.config.stages] == [False, True]
    measure_ablation(world, "prior")
    assert not (world.folder / "ablation/prior.json").exists()


def test_a_missing_sense_changes_the_losses_and_the_whole_is_the_objective(world: World):
    measure_ablation(world, "vla", 4)
    found = json.loads((world.folder / "ablation/vla-000004.json").read_text())
    assert (found["stage"], found["step"], found["samples"]) == ("vla", 4, 30)
    assert [row["sense"] for row in found["without"]] == ["top", "state", "instruction"]
    assert set(found["whole"]) == {"text", "action_token", "flow"}
    sums = {name: np.array(rows) for name, rows in found["by_episode"].items()}
    for name, level in found["whole"].items():
        assert level["value"] == pytest.approx(sums[name][:, 0].sum() / sums[name][:, 1].sum())
        assert level["low"] <= level["value"] <= level["high"]
    for row in found["without"]:
        assert any(abs(change["change"]) > 1e-6 for change in row["losses"].values()), row["sense"]
    measure_ablation(world, "vla")
    again = json.loads((world.folder / "ablation/vla.json").read_text())
    assert again["by_episode"] == found["by_episode"], "the same frames and the same noise"
    assert again["without"] == found["without"]


def test_removal_is_what_dropout_does(world: World):
    """A sense taken from the observation leaves the same losses as one taken from what the batch lets see."""
    stage = world.config.stages[1]
    objective, layout = (
        build_objective(stage.objective, world.model, world.config).eval(),
        world.layout(stage.objective),
    )
    sample = world.chain.forward(world.robot.read(3), None)
    (model,) = objective._model
    row = layout.build(sample)
    batch = collate([[("", row)]], row.length)
    none, one = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    for sense, lost in {
        "top": Lost(one, none, none),
        "state": Lost(none, one, none),
        "instruction": Lost(none, none, one),
    }.items():
        left = layout.build(world.chain.forward(blank(world.robot.read(3), sense), None))
        torch.manual_seed(0)
        found = {name: loss.sum.item() for name, loss in objective(collate([[("", left)]], left.length)).items()}
        thought = model(batch, leave_out(batch, lost))
        torch.manual_seed(0)
        context = model.gather_context(thought, batch, torch.zeros(1, dtype=torch.long))
        flow = model.action.loss(batch.actions, batch.actions_valid, context).sum().item()
        assert found["flow"] == pytest.approx(flow, rel=1e-5), sense


def test_changes_are_paired_by_episode():
    rng = np.random.default_rng(0)
    hard = rng.normal(10, 3, 40)  # episodes differ by far more than the sense is worth
    count = np.full(40, 4.0)
    whole = {"flow": np.stack([hard * 4, count], 1)}
    without = {"wrist": {"flow": np.stack([(hard + 0.1 + rng.normal(0, 0.02, 40)) * 4, count], 1)}}
    table = summarise(whole, without, np.random.default_rng(1))
    level, (row,) = table["whole"]["flow"], table["without"]
    change = row["losses"]["flow"]
    assert level["value"] == pytest.approx(hard.mean())
    assert level["high"] - level["low"] > 1
    assert 0.09 < change["low"] < change["change"] < change["high"] < 0.12


def test_measuring_changes_no_bit_of_training(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curriculum, "roll_out", small_run.no_simulator)
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    weights = []
    for often in (True, False):
        config, folder = small_run.small_run(place / "set", workers=0), place / f"often-{often}"
        stages = tuple(stage.replace(eval_every=2 if often else 1000) for stage in config.stages)
        health = config.health.replace(ablate=10 if often else 0)
        curriculum.execute(config.replace(stages=stages, health=health), folder)
        weights.append((folder / "checkpoints/vla/step-000008/model.safetensors").read_bytes())
        assert (folder / "ablation").exists() == often
    assert weights[0] == weights[1]
    names = {path.name for path in (place / "often-True/ablation").iterdir()}
    assert names == {"vla.json", *(f"vla-{step:06d}.json" for step in (2, 4, 6, 8))}


def test_the_closing_table_says_what_a_missing_sense_costs(world: World, capsys: pytest.CaptureFixture):
    rows = [{"task": "reach-v3", "successes": 8, "episodes": 10, "low": 0.4, "high": 0.9}]
    found = compare("top", {"reach-v3": [True] * 8 + [False] * 2}, {"reach-v3": [True] + [False] * 9})
    result = {"tasks": rows, "mean": 0.8, "low": 0.4, "high": 0.9, "ablations": [found]}
    write_json(world.folder / "eval/vla.json", result)
    curriculum._conclude(world)
    said = " ".join(capsys.readouterr().out.split())
    assert "without top" in said
    assert "1/10" in said
    assert "with it 8" in said
    assert "-70%" in said
