"""What a run refuses before it begins: parts, demonstrations, checks and rollouts that do not fit one another."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_run

from trivium import curriculum
from trivium.action import autoencoder
from trivium.action.bins import BinsConfig
from trivium.action.vqvae import VqVaeConfig
from trivium.assemble import World
from trivium.core.batch import Kind
from trivium.core.errors import CheckpointError, ConfigError
from trivium.core.sample import Action, Sample
from trivium.data.pad import PadConfig
from trivium.data.represent import RepresentConfig
from trivium.data.transform import NormalizeConfig
from trivium.nn.codebook import VqConfig
from trivium.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("recorded") / "set")


@pytest.fixture
def config(data: Path) -> Run:
    return small_run.small_run(data)


def refused(config: Run, folder: Path, *said: str) -> None:
    with pytest.raises(ConfigError) as error:
        World(config, folder)
    for part in said:
        assert part in str(error.value)
    assert not list(folder.iterdir())  # nothing was written for a run that could not begin


def test_dimensions_of_the_robot_are_checked_against_its_set(config: Run, tmp_path: Path):
    refused(config.replace(robot=config.robot.replace(state_dim=7)), tmp_path, "robot.state_dim", "7", "3, as in")
    refused(config.replace(robot=config.robot.replace(action_dim=1)), tmp_path, "robot.action_dim", "2, as in")


def test_horizons_of_data_and_model_are_one(config: Run, tmp_path: Path):
    action = config.model.action.replace(horizon=9)
    refused(config.replace(model=config.model.replace(action=action)), tmp_path, "model.action.horizon", "9", "4")


def test_probes_are_never_tested_on_what_was_trained_on(config: Run, tmp_path: Path):
    other = config.replace(robot=config.robot.replace(val_share=0.3))
    refused(other, tmp_path, "stages.prior: val_share of bucket motion", "0.5", "0.3, as in robot.val_share")


def test_a_truth_that_the_set_lacks_is_named_before_anything_is_trained(config: Run, tmp_path: Path):
    other = config.replace(health=config.health.replace(target="cup"))
    refused(other, tmp_path, "health.target", "'cup'", "object, object_image", "health.target=null")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control_hz": 40}, ("rollout.control_hz", "40", "20, as in")),
        ({"views": ("corner2",)}, ("rollout.views", "corner2", "top, as in")),
        ({"execute": 5}, ("rollout.execute", "5", "at most 4")),
    ],
)
def test_a_policy_is_tried_as_it_was_taught(config: Run, tmp_path: Path, changes: dict, said: tuple[str, ...]):
    assert config.rollout
    refused(config.replace(rollout=config.rollout.replace(**changes)), tmp_path, *said)


def test_another_placement_than_the_recorded_one_is_said_aloud(
    config: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert config.rollout
    about = data.parent / "demo.json"
    settings = config.rollout.replace(spread=2.0).model_dump(mode="json")
    about.write_text(json.dumps({"settings": settings}))
    try:
        World(config, tmp_path)
    finally:
        about.unlink()
    assert re.search(r"warning: rollout.spread is 1.0, the demonstrations had 2.0", capsys.readouterr().out)


def test_a_robot_without_simulator_and_truth_is_trained_and_probed(config: Run, tmp_path: Path):
    bare = config.replace(rollout=None, health=config.health.replace(target=None), stages=config.stages[:1])
    curriculum.execute(bare, tmp_path)
    assert not (tmp_path / "eval").exists()
    report = json.loads((tmp_path / "health/prior.json").read_text())
    assert [target["name"] for target in report["targets"]] == ["next actions", "task identity"]
    with pytest.raises(ConfigError, match="rollout"):
        curriculum.evaluate(tmp_path, 5)


def test_a_plan_leaves_no_line_where_there_is_no_terminal(config: Run, tmp_path: Path, capsys):
    world = World(config, tmp_path)
    capsys.readouterr()
    world.plan(config.stages[0])
    assert capsys.readouterr().out == ""


def test_robots_of_two_shapes_learn_in_one_stage(config: Run, data: Path, tmp_path: Path):
    other = small_run.write_set(tmp_path / "other", robot="other")
    stage = config.stages[1].replace(lr_groups={})
    buckets = [
        stage.mixture.buckets[0].replace(name=name, weight=0.5, source=config.robot.source.replace(path=str(path)))
        for name, path in (("mine", data), ("theirs", other))
    ]
    stage = stage.replace(steps=2, mixture=stage.mixture.replace(buckets=tuple(buckets), workers=0))
    together = config.replace(stages=(stage,), rollout=None)
    (tmp_path / "narrow").mkdir()
    narrow = together.replace(transforms=(NormalizeConfig(), PadConfig(state_dim=3, action_dim=2)))
    refused(narrow, tmp_path / "narrow", "pad.action_dim", "at least 3, as robot 'other' has")
    steps = (NormalizeConfig(), PadConfig(state_dim=4, action_dim=5), *config.transforms[1:])
    robot = config.robot.replace(state_dim=4, action_dim=5)
    refused(together.replace(transforms=steps), tmp_path / "narrow", "robot.state_dim", "4, as in the pad step")
    (tmp_path / "run").mkdir()
    world = World(together.replace(transforms=steps, robot=robot), tmp_path / "run")
    assert set(world.stats) == {"toy", "other"}
    alone = small_run.small_run(data)
    (tmp_path / "alone").mkdir()
    before = World(alone, tmp_path / "alone").stats["toy"]["action"]
    assert world.stats["toy"]["action"].to_dict() == before.to_dict(), (
        "another robot changes nothing of the policy's own"
    )
    work = world.stage(0)
    found = set()
    for (batch,) in work.loader.batches(0, 2, 1):
        assert batch.dims is not None
        found |= {tuple(row) for row in batch.dims[batch.actions_document].tolist()}
        losses = work.objective(batch)
        assert work.objective.counts(batch) == losses.counts()
        real = batch.actions_valid.sum(1) * (batch.dims[batch.actions_document] > 0).sum(1)
        assert losses["flow"].count == float(real.sum())
    assert found == {(1, 1, 0, 0, 0), (1, 1, 1, 0, 0)}
    source = world.robot
    seen = Sample(**{**source.read(3).__dict__, "segments": source.read(3).segments[:-1]})
    assert world.policy().act([seen]).shape == (1, small_run.HORIZON, 2), "the robot gets its own dimensions"


def test_relative_commands_are_measured_tokenised_and_undone(config: Run, tmp_path: Path):
    relative = RepresentConfig(
        to="relative", kinds={"dx": "position", "dy": "position"}, reference={"dx": "x", "dy": "y"}
    )
    (tmp_path / "plain").mkdir()
    (tmp_path / "relative").mkdir()
    plain = World(config, tmp_path / "plain")
    world = World(config.replace(transforms=(relative, *config.transforms)), tmp_path / "relative")
    found = [json.loads((tmp_path / name / "statistics.json").read_text())["toy"] for name in ("plain", "relative")]
    assert found[0]["state"] == found[1]["state"]
    assert found[1]["action"]["q50"][0] < -0.2 < found[0]["action"]["q50"][0], (
        "a move of a tenth, less a place of a half"
    )
    assert (tmp_path / "plain/tokenizer.json").read_text() != (tmp_path / "relative/tokenizer.json").read_text()
    sample = world.robot.read(3)
    normal = world.chain.forward(sample, None).of(Action)[0].values
    assert abs(normal).max() < 2
    seen = Sample(**{**sample.__dict__, "segments": tuple(s for s in sample.segments if not isinstance(s, Action))})
    np.testing.assert_allclose(world.chain.inverse(normal, seen), sample.of(Action)[0].values, atol=1e-6)
    [chunk] = world.policy().act([seen])
    assert abs(chunk).max() < 3
    assert plain.chain.inverse(normal, seen).shape == chunk.shape


def test_a_run_keeps_its_tokenizer_and_refuses_a_strangers(config: Run, tmp_path: Path):
    first = World(config, tmp_path)
    path, chunk = tmp_path / "tokenizer.json", np.zeros((4, 2), np.float32)
    kept = json.loads(path.read_text())
    kept["merges"] = kept["merges"][:-1]  # as if an older release had learned other merges
    path.write_text(json.dumps(kept))
    again = World(config, tmp_path)
    assert again.tokenizer.vocab_size == first.tokenizer.vocab_size - 1
    assert again.tokenizer.decode(again.tokenizer.encode(chunk)).shape == (4, 2)
    assert json.loads(path.read_text())["robot"]["embodiment"] == "toy"
    path.write_text(json.dumps({**kept, "robot": {**kept["robot"], "embodiment": "other"}}))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: robot: found 'other'; expected 'toy'.*Delete it"):
        World(config, tmp_path)


def test_other_tokenizers_take_the_place_of_fast(config: Run, tmp_path: Path):
    bins = BinsConfig(num_bins=64)
    world = World(config.replace(model=config.model.replace(tokenizer=bins)), tmp_path)
    row = world.layout(config.stages[-1].objective).build(world.chain.forward(world.robot.read(0), None))
    assert row.counts["action"] == 4 * 2 + 2
    assert row.tokens is not None
    assert row.tokens.max() == world.model.language.vocab.extra_start + 65


def test_learned_codes_are_fitted_once_and_kept_with_the_run(
    config: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(autoencoder, "STEPS", 20)
    codes = VqVaeConfig(quantizer=VqConfig(size=16, num_levels=2), num_vectors=2)
    config = config.replace(model=config.model.replace(tokenizer=codes))
    world = World(config, tmp_path)
    row = world.layout(config.stages[-1].objective).build(world.chain.forward(world.robot.read(0), None))
    assert row.counts["action"] == 2 * 2 + 2
    chunk = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    kept, text = world.tokenizer.encode(chunk), (tmp_path / "tokenizer.json").read_text()
    monkeypatch.setattr(autoencoder, "STEPS", 1)  # another fit would give other codes
    assert World(config, tmp_path).tokenizer.encode(chunk) == kept
    assert (tmp_path / "tokenizer.json").read_text() == text
    batch = next(world.stage(1).loader.batches(0, 1, 1))[0]  # by a worker, forked after the fit
    assert (batch.kinds == Kind.ACTION).any()
