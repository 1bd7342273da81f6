"""Policies in `trivium action compare`: what is checked before the first fit, what is shown, what is left behind."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_run
from action_heads import needs_diffusers
from truth_set import TASKS, write
from typer.testing import CliRunner

from trivium import compare as comparing
from trivium import policies, trial
from trivium.action import autoencoder
from trivium.action.bins import BinsConfig
from trivium.cli import app
from trivium.core.errors import ConfigError, DataError, SetupError
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.eval.sim.metaworld import load_simulator
from trivium.trial import heads_of, plan_trial

pytestmark = needs_diffusers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of learned codes, one tokenizer, no simulator."""
    monkeypatch.setattr(autoencoder, "STEPS", 2)
    monkeypatch.setattr(comparing, "TOKENIZERS", {"bins": BinsConfig()})
    monkeypatch.setattr(trial, "load_simulator", lambda: None)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LeRobotConfig:
    return write(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def source(config: LeRobotConfig) -> LeRobot:
    return config.build()


def say(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["action", "compare", *map(str, words)], env={"COLUMNS": "80"})
    return result.exit_code, result.output


def evaluated(_: object, config: Any, __: Path, label: str) -> dict[str, Any]:
    wins = 4 if label.startswith("flow") else 1
    return {"tasks": [{"successes": wins, "episodes": config.episodes, "low": 0.1, "high": 0.9}]}


def test_all_the_tasks_of_the_set_are_tried_as_they_were_recorded(source: LeRobot, config: LeRobotConfig) -> None:
    about = Path(config.path).parent / "demo.json"
    about.write_text('{"settings": {"spread": 1.5}}')
    plan = plan_trial(source, "all", 7, 3, 5)
    assert sorted(plan.rollout.tasks) == sorted(TASKS)
    assert (plan.rollout.episodes, plan.rollout.control_hz, plan.rollout.execute) == (7, 40, 4)
    assert (plan.rollout.spread, plan.rollout.views, plan.rollout.clips) == (1.5, (), 0)
    assert (plan.num_demos, plan.steps) == (3, 5)
    about.write_text('{"settings": 3}')
    with pytest.raises(DataError, match=r"demo.json: found TypeError: .*expected what trivium demo-data wrote"):
        plan_trial(source, "all", 7, 3, 5)
    about.unlink()
    plan = plan_trial(source, " push-v3 ,reach-v3,push-v3", 7, 3, 5)
    assert (plan.rollout.tasks, plan.rollout.spread) == (("push-v3", "reach-v3"), 1.0)


def test_every_kind_of_head_takes_part(source: LeRobot) -> None:
    heads = heads_of(4)
    assert list(heads) == ["BC MSE", "BC L1", "ACT", "diffusion", "diffusion U-Net", "flow"]
    assert {head.kind for head in heads.values()} == {"regress", "cvae", "diffusion", "diffusion_unet", "flow"}  # type: ignore[attr-defined]


def test_the_command_shows_success_with_its_interval(
    config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "evaluate", evaluated)
    words = ("--horizon", 4, "--policies", "all", "--episodes", 5, "--demos", 2, "--steps", 1)
    code, text = say(config.path, *words, "--out", tmp_path)
    assert code == 0, text
    assert "…" not in text, "nothing is cut at 80 columns"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "all 2 of 10 6 to 51 %" in lines
    assert "all 8 of 10 49 to 94 %" in lines
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert [(row["head"], row["task"]) for row in data["policies"]] == [
        (h, t) for t in sorted(TASKS) for h in heads_of(4)
    ]
    assert all({"fit_s", "successes", "episodes", "low", "high", "parameters"} <= set(row) for row in data["policies"])
    assert (data["demonstrations"], data["steps"]) == (2, 1)
    assert (tmp_path / "comparison.png").stat().st_size > 20_000
    assert "| 4 of 5 | 4 of 5 | 8 of 10 | 49 to 94 % |" in (tmp_path / "comparison.md").read_text()


def test_what_does_not_fit_is_said_before_anything_is_fitted(
    source: LeRobot, config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "compare", lambda *_: pytest.fail("it began"))
    out = ("--horizon", 4, "--out", tmp_path / "out")
    for words, said in (
        (("--policies", "pushh-v3"), "ConfigError: tasks: found 'pushh-v3'; expected a Meta-World v3 task"),
        (("--policies", "pushh-v3"), "Did you mean 'push-v3'"),
        (("--policies", "door-open-v3"), "found 0 episodes; expected at least 20"),
        (("--policies", "push-v3", "--demos", 7), "found 6 episodes; expected at least 7. Record more"),
        (("--policies", ","), "no task for policies"),
        (("--policies", "all", "--episodes", 0), "Invalid value for '--episodes'"),
        (("--policies", "all", "--steps", 0), "Invalid value for '--steps'"),
        (("--policies", "all", "--episodes", "many"), "Invalid value for '--episodes'"),
        (("--episodes", 5), "--episodes: found no --policies; expected tasks to try policies on. Type --policies all"),
    ):
        code, text = say(config.path, *out, *words)
        text = " ".join(text.replace("│", " ").split())
        assert (code, said in text, "Traceback" in text) == (2, True, False), text
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"horizon: found 5; expected an even one .* Type --horizon 6"):
        plan_trial(config.replace(horizon=5).build(), "all", 1, 1, 1)


def test_only_sets_of_the_simulator_are_taken(tmp_path: Path) -> None:
    toy = LeRobotConfig(path=str(small_run.write_set(tmp_path / "toy")), views=(), horizon=4).build()
    with pytest.raises(DataError, match=r"found states x, y, grip; expected states that begin with x, y, z"):
        plan_trial(toy, "all", 1, 1, 1)
    toy.found = replace(toy.found, tasks=("wave", "nod"))
    with pytest.raises(DataError, match=r"no task for policies \(wave, nod\); expected tasks of Meta-World"):
        plan_trial(toy, "all", 1, 1, 1)
    slow = write(tmp_path, rate_hz=30).build()
    with pytest.raises(DataError, match=r"found 30 commands a second; expected a LeRobot set from the simulator, at"):
        plan_trial(slow, "all", 1, 1, 1)


def test_what_is_not_installed_is_named(source: LeRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "metaworld", None)
        patch.setattr(trial, "load_simulator", load_simulator.__wrapped__)
        with pytest.raises(SetupError, match=r"expected the `sim` extra. Type: pip install 'trivium\[sim\]'"):
            plan_trial(source, "all", 1, 1, 1)
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_ddim", None)
    with pytest.raises(SetupError, match=r"pip install 'trivium\[diffusion\]'"):
        plan_trial(source, "all", 1, 1, 1)


def test_an_interrupt_leaves_what_was_measured(
    config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "compare_policies", interrupted)
    code, text = say(config.path, "--horizon", 4, "--policies", "push-v3", "--demos", 2, "--out", tmp_path)
    assert code == 130
    assert "Interrupted; nothing half-written is left. The same command begins again." in " ".join(text.split())
    assert len(json.loads((tmp_path / "comparison.json").read_text())["tokenizers"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


@pytest.mark.sim
def test_a_policy_is_tried_in_the_simulator(
    config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "load_simulator", load_simulator)
    monkeypatch.setattr(trial, "heads_of", lambda horizon: {"flow": heads_of(horizon)["flow"]})
    words = ("--policies", "reach-v3", "--episodes", 2, "--demos", 2, "--steps", 1)
    code, text = say(config.path, "--horizon", 4, *words, "--out", tmp_path)
    assert code == 0, text
    (row,) = json.loads((tmp_path / "comparison.json").read_text())["policies"]
    assert (row["head"], row["task"], row["episodes"]) == ("flow", "reach-v3", 2)
    assert (tmp_path / "policies" / "flow-reach-v3.json").is_file()
