"""Weights that begin elsewhere: a part of another run, to the bit or not at all; new random parts, once."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import small_run
import torch
from safetensors.torch import save_file

from trivium import curriculum, run
from trivium.assemble import World, build_model
from trivium.core.config import override
from trivium.core.errors import CheckpointError, ConfigError
from trivium.language.model import PretrainedLanguageConfig
from trivium.run import Run
from trivium.start import START, renew, take_over
from trivium.train.checkpoint import FILES, read_weights
from trivium.train.stage import select


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("start") / "set", 8)


@pytest.fixture
def config(data: Path) -> Run:
    return small_run.small_run(data, workers=0, save_every=2).replace(rollout=None)


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained, in bfloat16's place: other seed, same encoder."""
    folder = tmp_path_factory.mktemp("small") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "check_health", small_run.no_health)
        config = small_run.small_run(data, workers=0)
        curriculum.execute(config.replace(seed=7, stages=config.stages[1:], rollout=None), folder)
    return folder


def larger(config: Run, **start: str) -> Run:
    """Another language model and other layers of it: what progressive scaling hands an encoder to."""
    language = config.model.language.replace(width=48, num_layers=3)
    stages = tuple(stage.replace(learn=("action",), lr_groups={}) for stage in config.stages[:1])
    return config.replace(model=config.model.replace(language=language), stages=stages, start=start)


def test_an_encoder_comes_from_a_run_with_a_smaller_language_model(config: Run, small: Path, tmp_path: Path):
    bigger = larger(config, vision=str(small))
    curriculum.execute(bigger, tmp_path)
    given, fresh = read_weights(small / "checkpoints/vla/step-000008"), build_model(bigger).state_dict()
    after = read_weights(tmp_path / "checkpoints/prior/step-000006")
    for name, weight in fresh.items():
        expected = given[f"model.{name}"] if name.startswith("vision.") else weight
        if not name.startswith("action."):  # what the stage itself trains
            assert torch.equal(after[f"model.{name}"], expected), name
    assert any(not torch.equal(given[f"model.{name}"], fresh[name]) for name in fresh if name.startswith("vision."))
    kept = json.loads((tmp_path / START).read_text())["vision"]
    file = small / "checkpoints/vla/step-000008/model.safetensors"
    assert kept == {
        "folder": str(small),
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "stage": "vla",
        "step": 8,
    }


def test_a_resume_keeps_what_it_learned_and_does_not_start_again(
    config: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bigger = larger(config, vision=str(small))
    curriculum.execute(bigger, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("a run that has a checkpoint has its weights")

    monkeypatch.setattr(curriculum, "take_over", never)
    curriculum.execute(bigger, tmp_path)


def test_weights_that_changed_under_a_run_that_had_not_saved_are_refused(config: Run, small: Path, tmp_path: Path):
    bigger = larger(config, vision=str(small))
    curriculum.execute(bigger, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    kept = json.loads((tmp_path / START).read_text())
    kept["vision"]["sha256"] = "0" * 64
    (tmp_path / START).write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match=r"start.json: found other weights now; .* take a new --run"):
        curriculum.execute(bigger, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda weights: weights.pop("vision.norm.weight"),
            r"start\.vision: found no parameter 'vision\.norm\.weight' in .*; expected one of shape \(32,\)",
        ),
        (
            lambda weights: weights.update({"vision.extra": torch.zeros(3)}),
            r"start\.vision: found the parameter 'vision\.extra' of shape \(3,\) .*; expected none, as this model has",
        ),
        (
            lambda weights: weights.update({"vision.norm.weight": torch.zeros(48)}),
            r"start\.vision: found the parameter 'vision\.norm\.weight' of shape \(48,\) .*; expected one of .*\(32,\)",
        ),
    ],
)
def test_a_hand_off_that_does_not_fit_is_refused_and_changes_nothing(config: Run, tmp_path: Path, spoil, said: str):
    model = build_model(config)
    weights = {name: torch.randn_like(value) for name, value in model.state_dict().items() if "vision." in name}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folder = tmp_path / "export"
    folder.mkdir()
    spoil(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=said):
        take_over(model, {"vision": str(folder)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ConfigError, match=r"start\.vision"):
        curriculum.execute(config.replace(start={"vision": str(folder)}), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}


def test_a_connector_for_another_width_is_refused_by_name(config: Run, small: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"start\.connect: found the parameter 'connect\.\S+' of shape .*48"):
        curriculum.execute(larger(config, connect=str(small)), tmp_path)


def test_an_export_folder_gives_parts_and_is_rounded_to_the_runs_precision(config: Run, tmp_path: Path):
    source, model = build_model(config.replace(seed=3)), build_model(config.replace(precision="bfloat16"))
    save_file({k: v.clone() for k, v in source.state_dict().items()}, tmp_path / "model.safetensors")
    take_over(model, {"vision": str(tmp_path), "connect": str(tmp_path)})
    for name, weight in model.state_dict().items():
        same = torch.equal(weight, source.state_dict()[name].bfloat16())
        assert same or not name.startswith(("vision.", "connect.")), name


def test_a_folder_without_weights_and_an_unknown_part_are_refused(config: Run, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"start\.vision: found .*nowhere without checkpoints"):
        curriculum.execute(config.replace(start={"vision": str(tmp_path / "nowhere")}), tmp_path / "run")
    with pytest.raises(ConfigError, match="start"):
        config.replace(start={"eyes": "runs/small"})
    model = build_model(config)
    model.state = None  # as where states are words
    with pytest.raises(ConfigError, match=r"start\.state: found .*; expected a part of this model, which has no state"):
        take_over(model, {"state": str(tmp_path)})


def again(config: Run, *fresh: str) -> Run:
    """Repeat the last stage under a name of its own, some parts of it anew."""
    last = config.stages[-1]
    return config.replace(stages=(*config.stages, last.replace(name="again", fresh=fresh, lr_groups={})))


@pytest.mark.parametrize("fresh", [("action",), ("action.expert.blocks", "connect"), ("state", "context"), ("vision",)])
def test_just_the_named_parameters_get_new_weights(config: Run, fresh: tuple[str, ...]):
    config = again(config, *fresh)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    renew(model, config, config.stages[-1])
    moved = {name for name, parameter in model.named_parameters() if not (parameter == 0.5).all()}
    assert moved == select(model, fresh)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    renew(model, config, config.stages[-1])
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    renew(model, config, config.stages[-1].replace(name="other"))
    assert not all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    renew(model, config, config.stages[0])  # a stage that names nothing touches nothing
    assert not all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_a_resume_does_not_give_new_weights_twice(config: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = again(config, "action")
    curriculum.execute(config, tmp_path / "whole")
    run_stage, calls = curriculum.run_stage, []

    def stopped(*args: object, **options: object) -> bool:
        calls.append(args)
        if len(calls) == 3:
            options["stop"] = lambda: args[3].step == 3
        return run_stage(*args, **options)

    monkeypatch.setattr(curriculum, "run_stage", stopped)
    with pytest.raises(SystemExit):
        curriculum.execute(config, tmp_path / "stopped")
    monkeypatch.setattr(curriculum, "run_stage", run_stage)
    curriculum.execute(config, tmp_path / "stopped")
    for name in FILES:
        ends = [tmp_path / folder / "checkpoints/again/step-000008" / name for folder in ("whole", "stopped")]
        assert ends[0].read_bytes() == ends[1].read_bytes(), name


def test_a_fresh_head_begins_where_an_untrained_one_does(config: Run, tmp_path: Path):
    """After the prior the flow loss starts low; with `fresh` it starts as high as without a prior."""
    lines = {}
    for name, stages in {
        "kept": config.stages,
        "fresh": (config.stages[0], config.stages[1].replace(fresh=("action",))),
    }.items():
        curriculum.execute(config.replace(stages=stages), tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        lines[name] = next(row["loss"]["flow"] for row in rows if row["stage"] == "vla")
    assert lines["kept"] < 0.6 * lines["fresh"]


def test_pretrained_parts_cannot_be_fresh(config: Run, tmp_path: Path):
    model, pretrained = build_model(config), PretrainedLanguageConfig(path="x", num_layers=2, num_extra_tokens=102)
    config = again(config, "language.layers.0")
    config = config.replace(model=config.model.replace(language=pretrained))
    with pytest.raises(ConfigError, match=r"stages\.again\.fresh: found language, whose weights are pretrained"):
        renew(model, config, config.stages[-1])


def test_a_stage_is_left_out_or_repeated(config: Run, tmp_path: Path):
    assert [stage.name for stage in override(config, ["stages.prior=null"]).stages] == ["vla"]
    assert [stage.name for stage in override(config, ["stages.1=null", "stages.0.steps=3"]).stages] == ["prior"]
    with pytest.raises(ConfigError, match="stages"):
        override(config, ["stages.0=null", "stages.0=null"])
    with pytest.raises(ConfigError, match=r"stages\.0\.learn\.0: found nothing"):
        override(config, ["stages.prior.learn.0=null"])
    recipe = tmp_path / "config.yaml"
    recipe.write_text(run.to_yaml(config))
    with pytest.raises(ConfigError, match="two stages named 'vla'"):
        run.load(recipe, ["stages.prior.name=vla"])
    assert [stage.name for stage in run.load(recipe, ["stages.vla=null"]).stages] == ["prior"]


def test_between_stages_the_models_parameters_stay_and_the_heads_go(config: Run, tmp_path: Path):
    """What an objective adds for itself ends with its stage; what the model owns never does."""
    world = World(config, tmp_path)
    for index in range(len(config.stages)):
        names = {id(parameter) for parameter in world.model.parameters()}
        work = world.stage(index)
        work.stage.build(work.objective)
        work.stage.hand_over(work.objective)
        assert {id(parameter) for parameter in world.model.parameters()} == names
