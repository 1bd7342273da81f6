"""Whole runs of vision stages from a recipe: classes with a ResNet, clips and SigLIP with a ViT."""

import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from PIL import Image as Pillow

from trivium import curriculum
from trivium.core.config import from_yaml, to_yaml
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig
from trivium.data.transform import NormalizeConfig, ResizeConfig
from trivium.run import Run, Stage
from trivium.vision.mae import MaeConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.resnet import ResnetConfig
from trivium.vision.supervised import SupervisedConfig

CLASSES = ("red", "green")


@pytest.fixture
def place():
    """A folder in memory where there is such a place: runs flush what they save to disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="trivium-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    return small_run.write_set(tmp_path_factory.mktemp("robot") / "set")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Pictures in two colours, and the name of the colour in a column of labels."""
    pictures, names = [], []
    for i in range(40):
        pixels = np.random.default_rng(i).integers(60, size=(32, 32, 3), dtype=np.uint8)
        pixels[..., i % 2] += 150
        buffer = io.BytesIO()
        Pillow.fromarray(pixels).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
        names.append(CLASSES[i % 2])
    path = tmp_path_factory.mktemp("labels") / "part.parquet"
    pq.write_table(pa.table({"image": pictures, "label": names}), path)
    return ImageTextConfig(path=str(path), words=CaptionColumns(caption="label"))


def stage(name, objective, source, learn, **changes):
    bucket = BucketConfig(name="data", source=source, weight=1.0, max_epochs=50, val_share=0.5)
    mixture = MixtureConfig(buckets=(bucket,), row_length=80, rows_per_batch=2, max_images_per_row=16, workers=0)
    shared = {"name": name, "steps": 10, "lr": 3e-3, "warmup_steps": 2}
    return Stage(**shared | {"learn": learn, "objective": objective, "mixture": mixture} | changes)


def run(config, folder, monkeypatch):
    """Execute a run as its own resolved config says; return its readings."""
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    config = from_yaml(Run, to_yaml(config), "config.yaml")
    curriculum.execute(config, folder)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_classes_with_a_resnet(robot, labels, place, monkeypatch):
    small = small_run.small_run(robot)
    model = small.model.replace(vision=ResnetConfig(image_size=64, norm="group"))
    learn = ("vision", "classify")
    config = small.replace(
        model=model,
        transforms=(NormalizeConfig(), ResizeConfig(size=64)),
        stages=(stage("classes", SupervisedConfig(classes=CLASSES), labels, learn, steps=14),),
        rollout=None,
    )
    lines = run(config, place, monkeypatch)
    losses = [line["loss"]["supervised"] for line in lines]
    assert len(losses) == 14
    assert sum(losses[-4:]) / 4 < losses[0] / 2


def test_clips_of_a_robot_then_siglip(robot, labels, place, monkeypatch):
    decoder = MaeConfig(width=32, depth=1, heads=2)
    clips = VisionObjectiveConfig(contrastive=0.0, frames=4, tubelet=2, decoder=decoder, chunk=8)
    words = VisionObjectiveConfig(mae=0.0, loss="siglip", projection_width=16)
    source = LeRobotConfig(path=str(robot), views=("top",), horizon=small_run.HORIZON, history=4)
    small = small_run.small_run(robot)
    config = small.replace(
        transforms=(NormalizeConfig(),),
        stages=(
            stage("clips", clips, source, ("vision", "space_time", "decoder")),
            stage("words", words, labels, ("vision.blocks", "contrast")),
        ),
        rollout=None,
    )
    lines = run(config, place, monkeypatch)
    mae = [line["loss"]["mae"] for line in lines if "mae" in line["loss"]]
    pairs = [line["loss"]["contrastive"] for line in lines if "contrastive" in line["loss"]]
    assert (len(mae), len(pairs)) == (10, 10)
    assert mae[-1] < mae[0]
    assert pairs[-1] < pairs[0]
