"""All six kinds of stage from random weights: what to copy when you start a recipe of your own.

Commands    trivium demo-data data/quickstart --episodes 150 && trivium train recipes/scratch.py
Hardware    2 CPU cores, no GPU, no pretrained weights; not timed yet
"""

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.action.prior import ActionPriorConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.source.text import TextConfig
from trivium.data.transform import NormalizeConfig, RandomShiftConfig
from trivium.eval.rollout import RolloutConfig
from trivium.language.continual import ContinualConfig
from trivium.language.model import TinyLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import ModelConfig
from trivium.run import CheckConfig, ObjectiveConfig, RobotConfig, Run, Stage
from trivium.synth.ground import GroundConfig
from trivium.vision.mae import MaeConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.vit import VitConfig

DATA = "data/quickstart"
TASKS = ("button-press-topdown-v3", "faucet-open-v3", "door-unlock-v3")
HORIZON = 8

ROBOT = LeRobotConfig(path=f"{DATA}/robot", views=("top",), horizon=HORIZON)
CAPTIONS = ImageTextConfig(path=f"{DATA}/captions", words=CaptionColumns(), group_column="episode", license="MIT")
QUESTIONS = ImageTextConfig(path=f"{DATA}/spatial_qa", words=QuestionColumns(), group_column="episode", license="MIT")
CORPUS = TextConfig(path=f"{DATA}/text/corpus.jsonl", max_chars=400)

WORDS = VlaConfig(action_token_weight=0.0, flow_weight=0.0)
ALL = ("vision", "connect", "language", "action", "state", "context")


def recipe() -> Run:
    """Each modality by itself, then three steps of alignment."""
    robot, captions, questions = bucket("robot", ROBOT), bucket("captions", CAPTIONS), bucket("questions", QUESTIONS)
    motion, corpus = bucket("motion", ROBOT.replace(views=())), bucket("corpus", CORPUS)
    pictures = VisionObjectiveConfig(projection_width=64, decoder=MaeConfig(width=64, depth=1))
    return Run(
        name="scratch",
        precision="float32",
        robot=RobotConfig(source=ROBOT, state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(), GroundConfig(), RandomShiftConfig(pixels=4)),
        model=ModelConfig(
            vision=VitConfig(image_size=112, patch_size=14, width=96, depth=2, heads=3),
            connect=MlpConnectorConfig(shuffle=2),
            language=TinyLanguageConfig(width=96, num_layers=2, heads=3, num_extra_tokens=258),
            action=FlowConfig(horizon=HORIZON, width=96, depth=2, heads=3, start_noise=0.0),
            context=PatchContextConfig(),
            tokenizer=FastConfig(vocab_size=256),
        ),
        stages=(
            stage("vision", 20, ("vision", "contrast", "decoder"), pictures, captions),
            stage("language", 20, ("language",), ContinualConfig(), corpus),
            stage("action", 40, ("action",), ActionPriorConfig(), motion),
            stage("connector", 10, ("connect", "state"), WORDS, robot, captions, questions),
            stage("encoder", 10, ("vision", "connect", "state"), WORDS, robot, captions, questions),
            stage("joint", 30, ALL, VlaConfig(flow_weight=5.0), robot, questions),
        ),
        health=CheckConfig(num_samples=400),
        rollout=RolloutConfig(tasks=TASKS, views=("top",), episodes=6, execute=5, max_steps=100),
    )


def bucket(name: str, source: LeRobotConfig | ImageTextConfig | TextConfig) -> BucketConfig:
    """Give a source its place in a mixture; all of them weigh the same here."""
    return BucketConfig(name=name, source=source, weight=1.0, max_epochs=20)


def stage(name: str, steps: int, learn: tuple[str, ...], objective: ObjectiveConfig, *buckets: BucketConfig) -> Stage:
    """Make a stage; fresh weights all learn at one rate."""
    return Stage(
        name=name,
        steps=steps,
        learn=learn,
        lr=1e-3,
        warmup_steps=5,
        objective=objective,
        mixture=MixtureConfig(buckets=buckets, row_length=512, rows_per_batch=2, max_images_per_row=12, workers=1),
    )
