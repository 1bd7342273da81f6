"""Every recipe loads, explains itself, and every stage of it builds, runs a step, and moves what it says it moves."""

from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from trivium import run
from trivium.assemble import build_model, build_objective
from trivium.cli import app
from trivium.core.config import describe, from_yaml, to_yaml
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.vla import Model
from trivium.train.gradient import differentiate
from trivium.train.stage import select

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
STAGES = [(recipe, stage.name) for recipe in RECIPES for stage in run.load(ROOT / f"recipes/{recipe}.py").stages]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes name their data and weights relative to the root of the project."""
    monkeypatch.chdir(ROOT)
    return ROOT


def load(recipe: str) -> run.Run:
    config = run.load(ROOT / f"recipes/{recipe}.py")
    for part in (config.model.vision, config.model.language):
        path = getattr(part, "path", None)
        if path is not None and not (ROOT / path / "config.json").is_file():
            pytest.skip(f"{recipe}: no weights in {path}; make them with `make setup`")
    return config


@cache
def model_of(recipe: str) -> Model:
    """Build once for all stages, as a run does; in float32, because the step here is to be exact, not fast."""
    model = build_model(load(recipe).replace(precision="float32"))
    for parameter in model.parameters():
        if not parameter.any():  # a layer that starts as zeros hides everything behind it from the first gradient
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_show_explains_every_setting(home: Path, recipe: str):
    config = load(recipe)
    shown = CliRunner().invoke(app, ["show", f"recipes/{recipe}.py"])
    assert shown.exit_code == 0, shown.output
    for setting in describe(config):
        assert f"{setting.path} = " in shown.output
        assert setting.doc, f"{setting.path} has no meaning"
    for stage in config.stages:
        assert stage.name in shown.output.split("who learns")[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_resolved_config_runs_again(recipe: str):
    config = run.load(ROOT / f"recipes/{recipe}.py")
    assert from_yaml(run.Run, to_yaml(config), "config.yaml") == config


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_to_run_it_and_on_what(recipe: str):
    text = (ROOT / f"recipes/{recipe}.py").read_text()
    head = text.split('"""')[1]
    assert f"trivium train recipes/{recipe}.py" in head
    assert "Hardware" in head


@pytest.mark.parametrize(("recipe", "name"), STAGES)
def test_a_stage_takes_a_step_with_gradients_for_just_what_learns(home: Path, recipe: str, name: str):
    config, model = load(recipe).replace(precision="float32"), model_of(recipe)
    stage = next(stage for stage in config.stages if stage.name == name)
    torch.manual_seed(1)  # modality dropout spares the state of the one robot sample
    objective = build_objective(stage.objective, model, config)
    optimizer, _ = stage.build(objective)
    chosen = select(objective, stage.learn)
    batch = objective.fake_batch()
    optimizer.begin_step()
    reading = differentiate(objective, [batch], optimizer)
    assert all(torch.isfinite(torch.tensor(list(reading.loss.values()))))
    parameters = dict(objective.named_parameters())
    reached = {key for key, parameter in parameters.items() if parameter.grad is not None and parameter.grad.any()}
    assert reached <= chosen
    assert {key.split(".")[0] for key in reached} == {key.split(".")[0] for key in chosen}
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    _, taken = optimizer.step(reading.total, 1.0)
    assert taken
    moved = {key for key, parameter in parameters.items() if not torch.equal(parameter, before[key])}
    assert reached <= moved <= chosen


def test_the_quickstart_is_pretrained_and_the_scratch_recipe_is_not():
    assert {run.load(ROOT / f"recipes/{name}.py").precision for name in ("scratch",)} == {"float32"}
    assert isinstance(run.load(ROOT / "recipes/quickstart.py").model.language, PretrainedLanguageConfig)
