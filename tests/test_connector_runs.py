"""Whole runs with the connectors that are not the usual one, and what is refused when a run goes on with another."""

import functools
import json
from pathlib import Path

import jaxtyping
import pytest
import small_run
import torch
from torch._dynamo.utils import counters

from trivium import assemble, curriculum
from trivium.assemble import World
from trivium.connect.gate import GateConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.errors import CheckpointError, ConfigError, SetupError
from trivium.core.sample import Action, Sample
from trivium.explain import learners
from trivium.forecast import show_plan
from trivium.policy.vla import Model
from trivium.run import Run

SIZES = {"latents": 3, "depth": 1, "heads": 2, "groups": 1}
KINDS = {"perceiver": PerceiverConfig(**SIZES), "gate": GateConfig(**SIZES, every=2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("recorded") / "set")


def connected(data: Path, connect) -> Run:
    config = small_run.small_run(data)
    return config.replace(model=config.model.replace(connect=connect))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    config = connected(data, KINDS[kind])
    monkeypatch.setattr(curriculum, "roll_out", small_run.no_simulator)
    curriculum.execute(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines].count("vla") == small_run.STEPS[1]
    pictures = sum(line["tokens"]["robot/image"] for line in lines if line["stage"] == "vla")
    planned = json.loads((tmp_path / "run/plan/vla.json").read_text())["buckets"][0]["samples"]
    assert pictures == planned * config.model.connect.num_tokens((4, 4))
    health = json.loads((tmp_path / "run/health/vla.json").read_text())
    assert {target["name"] for target in health["targets"]} == {"object position", "next actions", "task identity"}
    world = World(config, tmp_path / "run")
    sample = world.robot.read(3)
    seen = Sample(**{**sample.__dict__, "segments": tuple(s for s in sample.segments if not isinstance(s, Action))})
    assert world.policy().act([seen])[0].shape == (small_run.HORIZON, 2)
    show_plan(config)
    assert "2 stages" in capsys.readouterr().out
    assert len(learners(config).rows) > 3


def test_a_stage_may_train_one_block_alone(data: Path, tmp_path: Path) -> None:
    config = connected(data, KINDS["gate"].replace(every=1))
    learn = ("connect.blocks.1.attention", "connect.blocks.*.mlp_gate")
    stage = config.stages[1].replace(learn=learn, lr_groups={})
    world = World(config.replace(stages=(stage,)), tmp_path)
    objective = world.stage(0).objective
    stage.build(objective)
    moving = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    expected = {f"connect.blocks.1.attention.{part}.weight" for part in ("query", "key_value", "out")}
    assert moving == expected | {"connect.blocks.0.mlp_gate", "connect.blocks.1.mlp_gate"}


def test_a_run_goes_on_with_its_own_connector_only(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    curriculum.claim(small_run.small_run(data), folder)
    with pytest.raises(CheckpointError, match=r"another run's settings \(first difference: 'latents: 3'\)"):
        curriculum.execute(connected(data, KINDS["perceiver"]), folder)
    wide = connected(data, KINDS["gate"].replace(every=3))
    with pytest.raises(
        ConfigError, match=r"connect\.every: found 3; expected 1\.\.2, the layers of the language model"
    ):
        World(wide, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_random_twin_of_a_gate_has_features(data: Path, tmp_path: Path) -> None:
    world = World(connected(data, KINDS["gate"]), tmp_path)
    twin, read = world.random_twin(), [world.robot.read(0)]
    found, learned = world.features(twin)(read), world.features(world.model)(read)
    assert torch.isfinite(torch.as_tensor(found)).all()
    assert found.shape == learned.shape
    assert (found != learned).any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_run_takes_the_same_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_run.small_run(data)
    config = config.replace(stages=config.stages[1:])
    monkeypatch.setattr(curriculum, "roll_out", small_run.no_simulator)
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    monkeypatch.setattr(assemble, "check_compiler", lambda device: None)
    eager = functools.partialmethod(Model.compile_blocks, backend="eager")  # needs no C++ compiler
    monkeypatch.setattr(Model, "compile_blocks", eager)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    counters.clear()
    losses, graphs = [], []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        curriculum.execute(config.replace(compile=compiled), folder)
        losses.append([json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
        graphs.append(counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    assert graphs[0] == 0 < graphs[1]
    for plain, other in zip(*losses, strict=True):
        assert plain.keys() == other.keys()
        assert all(abs(plain[name] - other[name]) <= 1e-5 for name in plain)


def test_a_machine_that_cannot_compile_says_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(line):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    said = r"compile: found true, and torch cannot compile for cpu \(No working C\+\+ compiler found\).*compile=false"
    with pytest.raises(SetupError, match=said):
        World(small_run.small_run(data).replace(compile=True), tmp_path)
    assert not list(tmp_path.iterdir())
