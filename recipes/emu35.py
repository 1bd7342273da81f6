"""Stages 1 and 2 of Emu3.5 as published: words and pictures in one stream, more than half of it from video.

Commands    trivium data presets emu3.5-stage1, then trivium train recipes/emu35.py
Hardware    thousands of GPUs for months (34 B parameters, 13.8 T tokens); here to be read, cut down and copied
Expected    not run; recipes/unified.py is the same road in minutes

Steps, rates, rows, weights and shares are those of `data/preset/emu.py`, where each figure names its place in the paper
(https://arxiv.org/abs/2510.26583); sources are yours, a bucket a row of its table.

Where it differs: a run has one size of pictures, so both stages see 512 x 512, the largest of the paper's first stage
and the smallest of its second. Their image tokenizer (IBQ, 131,072 codes) is another network; a grid of as many codes
takes its place, trained here first, for how long the paper does not say. Pairs are read picture first; the picture
comes after its words in films alone, so the sources of any-to-image must be such. The paper names no final rate.
"""

from collections.abc import Mapping

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.data.bucket import SourceConfig
from trivium.data.preset.emu import SCHEDULE_1, SCHEDULE_2, STAGE_1, STAGE_2, Schedule
from trivium.data.preset.preset import Preset
from trivium.data.source.interleaved import InterleavedConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.text import TextConfig
from trivium.data.source.webdataset import WebDatasetConfig
from trivium.data.transform import NormalizeConfig, ResizeConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.nn.fsq import FsqConfig
from trivium.policy.unified import UnifiedConfig
from trivium.policy.vla import ModelConfig
from trivium.run import RobotConfig, Run, Stage
from trivium.vision.image_tokens import ImageTokensConfig
from trivium.vision.tokenizer import ImageNetConfig
from trivium.vision.vit import VitConfig

DATA = "data/emu35"
SIDE = 512
NETWORK = ImageNetConfig(quantizer=FsqConfig(levels=(8, 8, 8, 8, 8, 4)), patch_size=16, width=256)
"""131,072 codes, 1,024 ids a picture."""
CODES = 131_072
PICTURES = 31
"""That fit a row of 32,768 ids, with the marks around them."""
MAX_EPOCHS = 4

ROBOT = LeRobotConfig(path=f"{DATA}/robot", views=("front",), horizon=16)
"""Every run has one, whose actions have ids of their own; neither stage of Emu3.5 learns from it."""
SOURCES: Mapping[str, SourceConfig] = {
    "text": TextConfig(path=f"{DATA}/text"),
    "image-text": WebDatasetConfig(path=f"{DATA}/image-text"),
    "video-text": InterleavedConfig(path=f"{DATA}/video-text", every_s=1.0, max_frames=16),
    "any-to-image": InterleavedConfig(path=f"{DATA}/any-to-image", max_frames=16),
    "video-interleaved": InterleavedConfig(path=f"{DATA}/video-interleaved", every_s=4.0, max_frames=16),
}


def recipe(sources: Mapping[str, SourceConfig] = SOURCES, robot: LeRobotConfig = ROBOT) -> Run:
    """Three stages: a tokenizer of pictures, then the two of the paper."""
    return Run(
        name="emu35",
        robot=RobotConfig(source=robot, state_dim=7, action_dim=7),
        transforms=(NormalizeConfig(), ResizeConfig(size=SIDE)),
        model=ModelConfig(
            # Encoder, connector and head take no part.
            vision=VitConfig(image_size=SIDE, patch_size=16, width=96, depth=1, heads=2),
            connect=MlpConnectorConfig(shuffle=2),
            language=PretrainedLanguageConfig(
                path="build/weights/qwen3-32b", num_layers=64, num_extra_tokens=1026, spans={"image": CODES + 2}
            ),
            action=FlowConfig(horizon=robot.horizon, width=96, depth=1, heads=2),
            tokenizer=FastConfig(vocab_size=1024),
        ),
        stages=(
            tokens(sources),
            stage("stage1", STAGE_1, SCHEDULE_1, sources),
            stage("stage2", STAGE_2, SCHEDULE_2, sources),
        ),
        rollout=None,
    )


def tokens(sources: Mapping[str, SourceConfig]) -> Stage:
    """Learn ids for pictures, on those that have captions."""
    shown = STAGE_1.mixture(mine(STAGE_1, sources), 64 * 1024, 1, 64, MAX_EPOCHS)
    pictures = tuple(bucket for bucket in shown.buckets if bucket.name == "image-text")
    return Stage(
        name="tokens",
        steps=100_000,
        learn=("tokenizer",),
        lr=1e-4,
        warmup_steps=1000,
        objective=ImageTokensConfig(network=NETWORK),
        mixture=shown.replace(buckets=pictures),
    )


def stage(name: str, preset: Preset, schedule: Schedule, sources: Mapping[str, SourceConfig]) -> Stage:
    """Make a stage of the paper: its shares, its schedule."""
    return Stage(
        name=name,
        steps=schedule.steps,
        learn=("language",),
        lr=schedule.lr,
        warmup_steps=schedule.warmup_steps,
        weight_decay=schedule.weight_decay,
        betas=schedule.betas,
        clip=schedule.clip,
        accumulate=schedule.rows,
        objective=UnifiedConfig(tokenizer="tokens", image_weight=schedule.visual_weight),
        mixture=preset.mixture(mine(preset, sources), schedule.row_length, 1, PICTURES, MAX_EPOCHS),
    )


def mine(preset: Preset, sources: Mapping[str, SourceConfig]) -> dict[str, SourceConfig]:
    """Return the sources of a stage's rows: any-to-image has no share in the first."""
    return {row.name: sources[row.name] for row in preset.rows}
