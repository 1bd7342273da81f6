"""Pictures as words: an image tokenizer, then one model that reads, acts and foresees the next frame.

Commands    trivium demo-data data/quickstart --episodes 150 && trivium train recipes/unified.py
Hardware    one CPU core for 6 minutes (335 s of CPU time), no GPU, no pretrained weights
Expected    the next frame in 2.4 bits a token, where its ids have 7.0 on their own and 4.8 with the present frame to
            copy from; but a frame costs as much alone (2.4): at this size it learns what frames look like, not yet
            what follows from which. bench/unified.py measures it, the report shows the pictures
"""

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig
from trivium.data.source.text import TextConfig
from trivium.data.transform import NormalizeConfig
from trivium.language.model import TinyLanguageConfig
from trivium.nn.codebook import VqConfig
from trivium.policy.unified import UnifiedConfig
from trivium.policy.vla import ModelConfig
from trivium.run import CheckConfig, RobotConfig, Run, Stage
from trivium.vision.image_tokens import ImageTokensConfig
from trivium.vision.tokenizer import ImageNetConfig
from trivium.vision.vit import VitConfig

DATA = "data/quickstart"
HORIZON = 8
CODES = 256
"""Codes of pictures; the vocabulary has two more ids for them, where a picture begins and ends."""

ROBOT = LeRobotConfig(path=f"{DATA}/robot", views=("top",), horizon=HORIZON)
CAPTIONS = ImageTextConfig(path=f"{DATA}/captions", words=CaptionColumns(), group_column="episode", license="MIT")
CORPUS = TextConfig(path=f"{DATA}/text/corpus.jsonl", max_chars=300)


def recipe() -> Run:
    """Two stages; the tokenizer of the first is what the second looks through."""
    return Run(
        name="unified",
        precision="float32",
        robot=RobotConfig(source=ROBOT, state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(),),
        model=ModelConfig(
            # Encoder, connector and head are not trained here: pictures and actions are words.
            vision=VitConfig(image_size=112, patch_size=14, width=48, depth=1, heads=2),
            connect=MlpConnectorConfig(shuffle=2),
            language=TinyLanguageConfig(
                width=192, num_layers=4, heads=4, num_extra_tokens=130, spans={"image": CODES + 2, "state": 64}
            ),
            action=FlowConfig(horizon=HORIZON, width=48, depth=1, heads=2),
            tokenizer=FastConfig(vocab_size=128),
        ),
        stages=(tokens(), world()),
        health=CheckConfig(num_samples=100),
        rollout=None,
    )


def tokens() -> Stage:
    """Learn to paint pictures again from 49 ids each."""
    return Stage(
        name="tokens",
        steps=300,
        learn=("tokenizer",),
        lr=1e-3,
        warmup_steps=20,
        weight_decay=0.01,
        objective=ImageTokensConfig(network=ImageNetConfig(quantizer=VqConfig(size=CODES), patch_size=16, width=96)),
        mixture=MixtureConfig(
            buckets=(BucketConfig(name="frames", source=ROBOT, weight=1.0, max_epochs=20),),
            row_length=8 * 49,
            rows_per_batch=1,
            max_images_per_row=8,
            workers=0,
        ),
    )


def world() -> Stage:
    """Learn everything by its next token, the frame `HORIZON` steps ahead too."""
    return Stage(
        name="world",
        steps=900,
        learn=("language",),
        lr=2e-3,
        warmup_steps=20,
        weight_decay=0.1,
        objective=UnifiedConfig(tokenizer="tokens"),
        mixture=MixtureConfig(
            buckets=(
                BucketConfig(name="robot", source=ROBOT.replace(future=HORIZON), weight=0.9, max_epochs=20),
                BucketConfig(name="captions", source=CAPTIONS, weight=0.05, max_epochs=20),
                BucketConfig(name="corpus", source=CORPUS, weight=0.05, max_epochs=20),
            ),
            row_length=480,
            rows_per_batch=2,
            max_images_per_row=12,
            workers=0,
        ),
    )
