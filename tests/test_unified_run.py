"""An image_tokens stage hands its tokenizer to a unified stage: by itself, exactly, and never one that does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

from trivium import curriculum
from trivium.assemble import World, build_model, build_objective
from trivium.core.errors import CheckpointError, ConfigError, DataError
from trivium.core.rng import seed_all
from trivium.data.bucket import BucketConfig, MixtureConfig, select
from trivium.data.source.lerobot import LeRobotConfig
from trivium.language.model import TinyLanguageConfig
from trivium.nn.fsq import FsqConfig
from trivium.policy.unified import UnifiedConfig, UnifiedObjective
from trivium.run import Run, Stage
from trivium.train.meter import Meter
from trivium.vision.image_tokens import ImageTokensConfig
from trivium.vision.tokenizer import ImageNetConfig, ImageTokenizer

CODES, AHEAD, STEPS = 64, 3, 6
NETWORK = ImageNetConfig(quantizer=FsqConfig(levels=(4, 4, 4)), patch_size=16, width=16)
FILE = "image_tokens/tokens.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("recorded") / "set")


@pytest.fixture(scope="module")
def config(data: Path) -> Run:
    """Both stages on the small set; nothing is probed or rolled out."""
    whole = small_run.small_run(data, workers=0)
    source = LeRobotConfig(path=str(data), views=("top",), horizon=small_run.HORIZON)

    def mixture(source: LeRobotConfig, row_length: int) -> MixtureConfig:
        bucket = BucketConfig(name="robot", source=source, weight=1.0, max_epochs=20, val_share=0.5)
        return MixtureConfig(
            buckets=(bucket,), row_length=row_length, rows_per_batch=1, max_images_per_row=8, workers=0
        )

    common = {"lr": 1e-3, "save_every": 3, "steps": STEPS}
    tokens = Stage(
        name="tokens",
        learn=("tokenizer",),
        objective=ImageTokensConfig(network=NETWORK),
        mixture=mixture(source, 16),
        **common,
    )
    world = Stage(
        name="world",
        learn=("language",),
        objective=UnifiedConfig(tokenizer="tokens"),
        mixture=mixture(source.replace(future=AHEAD), 96),
        **common,
    )
    spans = {"image": CODES + 2, "state": 16}
    language = TinyLanguageConfig(width=32, num_layers=2, heads=2, num_extra_tokens=102, spans=spans)
    return whole.replace(stages=(tokens, world), rollout=None, model=whole.model.replace(language=language))


@pytest.fixture(autouse=True)
def _unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)


@pytest.fixture(scope="module")
def whole(config: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "check_health", small_run.no_health)
        curriculum.execute(config, folder)
    return folder


def results(folder: Path) -> dict[str, object]:
    """Return what a run has come to: every weight, every loss, and what was foreseen."""
    weights = folder / f"checkpoints/world/step-{STEPS:06d}/model.safetensors"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    foreseen = json.loads((folder / "unified/world.json").read_text())
    return {
        "weights": {name: value.numpy().tobytes() for name, value in load_file(weights).items()},
        "loss": [(line["stage"], line["step"], line["loss"]) for line in lines],
        "foreseen": {name: value for name, value in foreseen.items() if name != "seconds"},
        "picture": (folder / "unified/world.png").read_bytes(),
        "tokenizer": (folder / FILE).read_bytes(),
    }


def test_the_tokenizer_is_handed_on_and_frames_are_foreseen(config: Run, whole: Path) -> None:
    tokenizer = ImageTokenizer.load(whole / FILE)
    world = World(config, whole)
    objective = world.stage(1).objective
    assert isinstance(objective, UnifiedObjective)
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, objective.tokenizer.state_dict()[name])
    seed_all(0)
    fresh = NETWORK.build(small_run.SIZE).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in tokenizer.state_dict().items())
    found = json.loads((whole / "unified/world.json").read_text())
    assert found["codes"] == CODES
    episodes = len(np.unique(world.robot.groups()[select(world.robot, "val", 0.5)]))
    assert found["episodes"] == episodes
    assert found["samples"] == episodes * (small_run.LENGTH - AHEAD), "all but the last frames, which have no later one"
    shown = len(found["shown"])
    with Pillow.open(whole / "unified/world.png") as picture:
        assert picture.size == (4 * small_run.SIZE, shown * small_run.SIZE)
    assert not (whole / "unified/tokens.json").exists()


@pytest.mark.parametrize("where", ["world", "between"])
def test_an_interrupted_run_comes_to_the_same_bits(
    config: Run, whole: Path, tmp_path: Path, where: str, monkeypatch
) -> None:
    record = Meter.record

    def fail(self: Meter, state, reading) -> None:
        if (state.stage, state.step) == (where, 5):
            raise KeyboardInterrupt
        record(self, state, reading)

    def nothing_kept(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if where == "between":
            broken.setattr(curriculum, "keep_tokenizer", nothing_kept)
        broken.setattr(Meter, "record", fail)
        with pytest.raises(KeyboardInterrupt):
            curriculum.execute(config, tmp_path / "again")
    assert (tmp_path / "again" / FILE).exists() == (where == "world")
    curriculum.execute(config, tmp_path / "again")
    assert results(tmp_path / "again") == results(whole)


def test_a_lost_tokenizer_is_named_and_another_file_serves(config: Run, whole: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes((whole / FILE).read_bytes())
    alone = config.stages[1].replace(objective=UnifiedConfig(tokenizer=str(kept)))
    curriculum.execute(config.replace(stages=(alone,)), tmp_path / "second")
    assert (tmp_path / "second/unified/world.json").exists()
    world = World(config, tmp_path / "third")
    with pytest.raises(CheckpointError, match=r"third/image_tokens/tokens.safetensors: found .*expected a whole file"):
        world.stage(1)


def test_what_could_not_begin_is_refused_before_anything_is_written(config: Run, tmp_path: Path) -> None:
    tokens, world = config.stages

    def refused(config: Run, *said: str) -> None:
        with pytest.raises(ConfigError) as error:
            World(config, tmp_path)
        assert all(part in str(error.value) for part in said), str(error.value)
        assert not list(tmp_path.iterdir())

    def named(tokenizer: str) -> Run:
        return config.replace(stages=(tokens, world.replace(objective=UnifiedConfig(tokenizer=tokenizer))))

    field = "stages.world.objective.tokenizer"
    refused(named("other"), field, "'other'", "an earlier image_tokens stage (tokens)")
    refused(named("world"), field, "'world'")
    refused(config.replace(stages=(world, tokens)), field, "'tokens'", "there is none")
    refused(named("lost.safetensors"), field, "no file lost.safetensors", "image_tokens/STAGE.safetensors")

    def spanned(**spans: int) -> Run:
        language = config.model.language.replace(spans=spans)
        return config.replace(model=config.model.replace(language=language))

    refused(spanned(image=CODES, state=16), "stages.world: model.language.spans.image", "64 ids", "at least 66")
    refused(spanned(state=16), "stages.world: model.language.spans.image", "no such span")
    refused(spanned(image=CODES + 2), "stages.world: model.language.spans.state", "no such span")
    robot = config.robot.replace(source=config.robot.source.replace(future=2))
    refused(config.replace(robot=robot), "robot.source.future", "0: probes and policies see the present alone")


def test_a_tokenizer_for_other_pictures_is_refused(config: Run, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    NETWORK.build(16).save(path)
    stage = config.stages[1].replace(objective=UnifiedConfig(tokenizer=str(path)))
    with pytest.raises(
        ConfigError, match=r"stages.world.objective.tokenizer: found a tokenizer .* 16 x 16; .* 32 x 32"
    ):
        World(config.replace(stages=(stage,)), tmp_path / "run")
    path.write_bytes(b"no tokenizer")
    with pytest.raises(CheckpointError, match=r"small.safetensors"):
        World(config.replace(stages=(stage,)), tmp_path / "run")


def test_a_vla_stage_refuses_a_bucket_with_a_future(config: Run, data: Path, tmp_path: Path) -> None:
    align = small_run.small_run(data, workers=0).stages[1]
    stage = align.replace(mixture=config.stages[1].mixture)
    world = World(config.replace(stages=(stage,)), tmp_path)
    with pytest.raises(DataError, match=r"expected pictures up to the present. Set future=0 in the source"):
        world.stage(0)


def test_shapes_are_explained_without_a_run(config: Run) -> None:
    objective = build_objective(config.stages[1].objective, build_model(config), config)
    losses = objective(objective.fake_batch())
    assert np.isfinite([loss.sum.item() for loss in losses.values()]).all()
