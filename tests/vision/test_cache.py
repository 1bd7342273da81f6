"""Features of a frozen encoder that are kept: the same losses to the bit, and refused where they would be old."""

import json
from pathlib import Path

import pytest
import small_run
import torch

from trivium import curriculum
from trivium.core.errors import ConfigError
from trivium.policy.objective import VlaConfig
from trivium.run import Run
from trivium.train.checkpoint import FILES
from trivium.vision.cache import FeatureCache
from trivium.vision.vit import Vit, VitConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("cached") / "set", 4)


def caching(data: Path, gigabytes: float, learn: tuple[str, ...] = ("connect", "action")) -> Run:
    """Make a run of one stage long enough to meet its pictures again; nothing shifts them."""
    base = small_run.small_run(data, workers=0)
    stage = base.stages[1].replace(learn=learn, lr_groups={}, steps=12, objective=VlaConfig(), cache_gb=gigabytes)
    kept = tuple(step for step in base.transforms if step.kind != "random_shift")
    return base.replace(stages=(stage,), transforms=kept, rollout=None)


def test_losses_are_the_same_to_the_bit_and_the_gain_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    for name, gigabytes in (("with", 1.0), ("without", 0.0)):
        curriculum.execute(caching(data, gigabytes), tmp_path / name)
        said = capsys.readouterr().out
        assert ("pictures from the cache" in said) == bool(gigabytes)
        if gigabytes:
            hits, asked = (int(word) for word in said.split("vla: ")[-1].split(" pictures")[0].split(" of "))
            assert 0 < hits < asked
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]
    for file in FILES:
        ends = [tmp_path / name / "checkpoints/vla/step-000012" / file for name in ("with", "without")]
        assert ends[0].read_bytes() == ends[1].read_bytes(), file


def refused(config: Run, folder: Path, *said: str) -> None:
    with pytest.raises(ConfigError) as error:
        curriculum.execute(config, folder)
    for part in said:
        assert part in str(error.value), str(error.value)


def test_an_encoder_that_learns_is_not_cached(data: Path, tmp_path: Path):
    refused(caching(data, 1.0, ("vision.blocks", "connect")), tmp_path, "stages.vla.cache_gb", "an encoder that learns")


def test_pictures_that_are_drawn_anew_are_not_cached(data: Path, tmp_path: Path):
    shifted = caching(data, 1.0).replace(transforms=small_run.small_run(data).transforms)
    refused(shifted, tmp_path, "stages.vla.cache_gb", "change a picture each time: random_shift")


def test_an_objective_without_whole_pictures_is_not_cached(data: Path, tmp_path: Path):
    config = caching(data, 0.0)
    prior = small_run.small_run(data, workers=0).stages[0].replace(cache_gb=0.5)
    refused(config.replace(stages=(prior,)), tmp_path, "stages.prior.cache_gb", "0.5 for an objective of kind 'prior'")


@pytest.fixture
def encoder() -> Vit:
    torch.manual_seed(0)
    encoder = VitConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2).build()
    return encoder.requires_grad_(requires_grad=False).eval()


def test_a_picture_is_encoded_once_within_the_room(encoder: Vit):
    pictures = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    one = 4 * 32 * 4  # patches, width, bytes
    cache = FeatureCache(encoder, 2.5 * one / 1e9)
    expected = encoder(pictures)
    with cache.attached("here"):
        assert torch.equal(encoder(pictures[[0, 1, 0]]), expected[[0, 1, 0]])
        assert (cache.hits, cache.asked, cache.num_bytes) == (1, 3, 2 * one)
        assert torch.equal(encoder(pictures[[2, 1]]), expected[[2, 1]])
        assert (cache.hits, cache.asked, cache.num_bytes) == (2, 5, 2 * one)  # no room for the third
        with torch.no_grad():
            encoder(pictures)
        assert cache.asked == 5  # an evaluation is not asked
    assert torch.equal(encoder(pictures), expected)
    assert "forward" not in vars(encoder)
    assert "2 of 5 pictures from the cache (40%)" in cache.gain


def test_a_picture_of_one_other_pixel_is_another(encoder: Vit):
    picture = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    other = picture.clone()
    other[0, 0, 0, 0] = 1
    cache = FeatureCache(encoder, 1.0)
    with cache.attached("here"):
        assert not torch.equal(encoder(picture), encoder(other))
    assert cache.hits == 0
