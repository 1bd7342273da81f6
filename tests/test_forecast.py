"""What `trivium data plan` and `trivium data presets` print, and that planning needs no weights."""

from pathlib import Path

import pytest
import small_run
from typer.testing import CliRunner

from trivium import assemble
from trivium.assemble import Supply, World
from trivium.cli import app
from trivium.core.config import to_yaml
from trivium.data.bucket import SizeRange
from trivium.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("recorded") / "set")


@pytest.fixture
def config(data: Path) -> Run:
    return small_run.small_run(data)


def type_in(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def sized(config: Run, when: SizeRange) -> Run:
    """Give the last stage a second bucket for some sizes of model only."""
    stage = config.stages[1]
    [robot] = stage.mixture.buckets
    buckets = (robot, robot.replace(name="more", when=when, weight=3.0))
    return config.replace(stages=(config.stages[0], stage.replace(mixture=stage.mixture.replace(buckets=buckets))))


def test_plans_are_those_of_training_and_need_no_weights(config, tmp_path, monkeypatch):
    world = World(config, tmp_path)
    trained = [world.stage(index).plan for index in range(len(config.stages))]

    def no_weights(config: Run) -> None:
        raise AssertionError("planning built a model")

    monkeypatch.setattr(assemble, "build_model", no_weights)
    supply = Supply(config)
    planned = [supply.plan(stage) for stage in config.stages]
    assert [plan.describe() for plan in planned] == [plan.describe() for plan in trained]
    assert [plan.batch(0) for plan in planned] == [plan.batch(0) for plan in trained]


def test_the_size_of_the_model_chooses_buckets(config):
    number = Supply(config).num_parameters
    with_more = Supply(sized(config, SizeRange(at_least=number))).plan(
        sized(config, SizeRange(at_least=number)).stages[1]
    )
    assert [row.bucket for row in with_more.table()] == ["robot", "more"]
    assert with_more.table()[1].asked == 0.75
    without = sized(config, SizeRange(below=number))
    assert [row.bucket for row in Supply(without).plan(without.stages[1]).table()] == ["robot"]


def test_the_table_says_what_every_stage_will_train_on(config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(sized(config, SizeRange(at_least=10**12))))
    text = type_in("data", "plan", path, "stages.prior.steps=5", "stages.vla.mixture.row_length=60")
    plan = Supply(config.replace(stages=(config.stages[0].replace(steps=5), config.stages[1]))).plan(
        config.stages[0].replace(steps=5)
    )
    assert "prior: 5 steps x 1 x 1 rows of 32 tokens" in text
    [row] = plan.table()
    assert [f"{row.tokens:,}", f"{row.samples:,}", f"{row.epochs:.2f}"] == _cells(text, "motion")[3:]
    assert f"padding {plan.padding:.1%} of the rows" in text
    assert "more: not for a model of this size" in text
    assert "small: 2 stages, " in text
    assert max(map(len, text.splitlines())) <= 80


def test_dropped_samples_stand_below_the_table_with_their_reason(config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    text = type_in("data", "plan", path, "stages.vla.mixture.row_length=33", "stages.vla.steps=1")
    assert "robot: dropped " in text
    assert "longer than a row (33 tokens)" in text


def test_a_plan_that_cannot_be_is_one_paragraph(config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    result = CliRunner().invoke(app, ["data", "plan", str(path), "stages.prior.steps=100000"])
    assert result.exit_code == 2
    assert "at most max_epochs = 20" in " ".join(result.stderr.split())
    assert not (tmp_path / "statistics.json").exists()


def test_presets_print_both_sums_and_every_citation():
    text = type_in("data", "presets", "starcoder2-7b")
    assert _cells(text, "our sum")[1] == "663.25"
    assert _cells(text, "sum as printed")[1] == "658.58"
    assert "[1] arXiv 2402.19173, Table 4" in text
    assert "(not read there: check)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "internvl2.5-26b-stage1.5" in type_in("data", "presets")
    assert "from 11 B" in type_in("data", "presets", "starcoder2")


def _cells(text: str, first: str) -> list[str]:
    """Return the cells of the line of a table that begins with a word."""
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines()]
    return next(line for line in lines if line[0] == first)
