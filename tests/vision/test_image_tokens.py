"""The image tokenizer as a stage: counts, learning, bfloat16, resuming, and the encoder that is only looked through."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_run
import torch
from jaxtyping import config as shapes

from trivium import curriculum
from trivium.core.batch import Batch
from trivium.core.sample import Image, Sample, Text
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.run import Run
from trivium.train.checkpoint import Checkpoints, load_weights
from trivium.train.gradient import differentiate
from trivium.train.optim import Optimizer
from trivium.train.stage import StageConfig
from trivium.vision.image_tokens import ImageTokensConfig, ImageTokensLayout, ImageTokensObjective, feature_distance
from trivium.vision.tokenizer import ImageNetConfig, ImageTokenizer
from trivium.vision.vit import VitConfig

CONFIG = ImageTokensConfig(network=ImageNetConfig(quantizer=VqConfig(size=32), width=32))


def learner(config: ImageTokensConfig = CONFIG, encoder: torch.nn.Module | None = None) -> ImageTokensObjective:
    torch.manual_seed(0)
    vision = encoder or VitConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2).build()
    return config.build(SimpleNamespace(vision=vision, language=None))


@pytest.fixture
def loose():
    """Encoders name whole-number pixels; a gradient needs those between, which the check of shapes would refuse."""
    before = shapes.jaxtyping_disable
    shapes.update("jaxtyping_disable", True)
    yield
    shapes.update("jaxtyping_disable", before)


def teach(objective: ImageTokensObjective, steps: int, lr: float = 3e-3) -> dict[str, float]:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=lr, weight_decay=0.0)
    batch = objective.fake_batch()
    losses = objective(batch)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 10, 2 * (steps - step) / steps)
        losses = objective(batch)
        optimizer.zero_grad()
        losses.total(losses.counts()).backward()
        optimizer.step()
    return {name: loss.sum.item() / loss.count for name, loss in losses.items()}


def test_fake_batch_runs_and_counts_agree():
    objective = learner()
    batch = objective.fake_batch()
    losses = objective(batch)
    assert objective.counts(batch) == losses.counts() == {"pixels": 4 * 3 * 32.0**2, "commitment": 4 * 16.0}
    assert losses["commitment"].scale == 0.25


@pytest.mark.parametrize("quantizer", [VqConfig(size=64), FsqConfig(levels=(8, 5, 5, 5))])
def test_it_overfits_one_batch(quantizer: VqConfig | FsqConfig):
    objective = learner(CONFIG.replace(network=CONFIG.network.replace(quantizer=quantizer)))
    first = teach(objective, 1)["pixels"]
    last = teach(objective, 150)["pixels"]
    assert last < 0.15 * first
    images = objective.fake_batch().images
    painted = objective.tokenizer.decode(objective.tokenizer.encode(images))
    assert (painted.float() - images.float()).abs().mean() < 12


def test_pictures_are_compared_by_absolute_and_squared_error():
    objective = learner().eval()
    batch = objective.fake_batch()
    objective.tokenizer.quantizer.levels[0].started.fill_(True)
    painted = objective.tokenizer(batch.images)[0].detach()
    error = painted - (batch.images.float() / 127.5 - 1)
    expected = (error.abs() + error**2).mean()
    losses = objective(batch)
    assert losses["pixels"].sum.item() / losses["pixels"].count == pytest.approx(float(expected), rel=1e-5)


def test_a_skipped_step_moves_no_code():
    """A picture cannot be NaN, but a weight that has run away makes everything so, codes first."""
    objective = learner()
    optimizer, _ = StageConfig(name="see", steps=1, learn=("tokenizer",), lr=1e-3).build(objective)
    differentiate(objective, [objective.fake_batch()], optimizer)
    before = copy.deepcopy(objective.state_dict())
    optimizer.begin_step()
    saved = objective.tokenizer.down[0].bias.data.clone()
    objective.tokenizer.down[0].bias.data.fill_(float("nan"))
    seen = differentiate(objective, [objective.fake_batch()], optimizer)
    assert objective.tokenizer.quantizer.levels[0].codes.isnan().any()
    assert not optimizer.step(seen.total, 1.0).taken
    objective.tokenizer.down[0].bias.data.copy_(saved)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def steps(objective: ImageTokensObjective, optimizer: Optimizer, places: range) -> None:
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for place in places:
        torch.manual_seed(place)
        optimizer.begin_step()
        seen = differentiate(objective, [Batch(images=images[4 * place : 4 * place + 4])], optimizer)
        optimizer.step(seen.total, 1.0)


def test_training_in_bfloat16_resumes_bit_for_bit(tmp_path: Path):
    stage = StageConfig(name="see", steps=10, learn=("tokenizer",), lr=1e-3)
    whole, first, second = (learner().to(torch.bfloat16) for _ in range(3))
    optimizer, _ = stage.build(whole)
    steps(whole, optimizer, range(8))
    optimizer, _ = stage.build(first)
    steps(first, optimizer, range(4))
    state = small_run.curriculum.State(small_run.curriculum.Rng(0))
    state.begin_stage("see", 0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, first, optimizer)
    saved = checkpoints.find()
    assert saved is not None
    optimizer, _ = stage.build(second)
    saved.restore(second, optimizer)
    steps(second, optimizer, range(4, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert whole.tokenizer.quantizer.levels[0].codes.dtype == torch.float32


def test_the_encoder_is_looked_through_and_never_trained(loose: None):
    encoder = VitConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2).build()
    objective = learner(CONFIG.replace(perceptual=0.5), encoder)
    batch = objective.fake_batch()
    losses = objective(batch)
    assert objective.counts(batch) == losses.counts()
    assert losses.counts()["perceptual"] == 4 * 16
    assert losses["perceptual"].scale == 0.5
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"tokenizer"}
    losses["perceptual"].sum.backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert objective.tokenizer.up[0].weight.grad.abs().max() > 0
    assert objective.tokenizer.down[0].weight.grad.abs().max() > 0


def test_features_of_equal_pictures_are_no_distance_apart(loose: None):
    encoder = VitConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2).build()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    same = images.float() / 127.5 - 1
    assert feature_distance(encoder, same, images).max() < 1e-8
    other = same.clone()
    other[:, :, :8, :8] *= -1
    apart = feature_distance(encoder, other, images)
    assert apart.shape == (2, 16)
    assert (apart.argmax(1) == 0).all(), "the patch that differs"


def sample(*views: str) -> Sample:
    images = [Image(pixels=np.zeros((32, 32, 3), np.uint8), view=view) for view in views]
    return Sample(id="s", segments=(*images, Text(text="a cup")), source="test", license="none")


def test_the_layout_counts_every_picture():
    layout = pickle.loads(pickle.dumps(CONFIG.layout(32)))
    assert isinstance(layout, ImageTokensLayout)
    assert layout.count(sample("top")) == {"image": 16}
    assert layout.count(sample("top", "wrist")) == {"image": 32}
    assert layout.count(sample()) == {}
    row = layout.build(sample("top", "wrist"))
    assert (len(row.images), row.length, len(row.tokens)) == (2, 32, 0)


def tokens_run(data: Path) -> Run:
    run = small_run.small_run(data)
    look = run.stages[1].replace(
        name="look", objective=CONFIG, learn=("tokenizer",), lr_groups={}, accumulate=1, steps=4, save_every=4
    )
    return run.replace(stages=(look, run.stages[0].replace(steps=2)), rollout=None)


def test_a_stage_of_a_run_trains_it_and_its_checkpoint_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = small_run.write_set(tmp_path / "set")
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    run = tokens_run(data)
    curriculum.execute(run, tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"pixels"' in lines
    assert '"commitment"' in lines
    tokenizer: ImageTokenizer = CONFIG.network.build(32)
    load_weights(tokenizer, tmp_path / "run/checkpoints/look/step-000004", "objective.tokenizer.")
    assert tokenizer.quantizer.ready
    assert tokenizer.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 16)
