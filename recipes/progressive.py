"""Progressive scaling: an encoder learns through a small language model, and a bigger one takes it over.

Commands    trivium demo-data data/quickstart --episodes 150
            python recipes/progressive.py > build/small.yaml && trivium train build/small.yaml    (the expensive stage)
            trivium train recipes/progressive.py                                                 (the bigger model)
Hardware    2 CPU cores, no GPU, 4 GB; not timed as a whole, see bench/progressive.py for the experiment
Expected    the bigger model's connector stage begins with an encoder that knows where things are, and needs fewer steps

InternVL 2.5 trained its encoder with a 20 B language model and gave it to one of 72 B unchanged; the new model then
needs a connector and no encoder stage (https://arxiv.org/abs/2412.05271). `start` of a run is that hand-over.
"""

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.config import to_yaml
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.transform import NormalizeConfig, RandomShiftConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import ModelConfig
from trivium.run import RobotConfig, Run, Stage
from trivium.synth.ground import GroundConfig
from trivium.vision.pretrained import PretrainedVisionConfig

DATA, WEIGHTS, HORIZON = "data/quickstart", "build/weights", 8
ROBOT = LeRobotConfig(path=f"{DATA}/robot", views=("top",), horizon=HORIZON)
SOURCES = (
    ("robot", ROBOT, 0.7),
    ("captions", ImageTextConfig(path=f"{DATA}/captions", words=CaptionColumns(), group_column="episode"), 0.15),
    ("questions", ImageTextConfig(path=f"{DATA}/spatial_qa", words=QuestionColumns(), group_column="episode"), 0.15),
)


def small() -> Run:
    """The expensive stage with a language model of three layers: connector first, then the encoder through it."""
    return run(
        "progressive-small",
        3,
        words("connector", 30, ("connect", "state"), {}),
        words("encoder", 120, ("vision", "connect", "state"), {"vision": 1e-4}),
    )


def recipe() -> Run:
    """The bigger language model: the encoder comes from the small run, the connector is new."""
    big = run(
        "progressive",
        8,
        words("connector", 60, ("connect", "state"), {}),
        words("joint", 100, ("connect", "state", "language.layers", "language.norm"), {"language": 1e-4}),
    )
    return big.replace(start={"vision": "runs/progressive-small"})


def run(name: str, num_layers: int, *stages: Stage) -> Run:
    """Return a run with so many layers of the language model; the encoder is the same for all of them."""
    return Run(
        name=name,
        robot=RobotConfig(source=ROBOT, state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(), GroundConfig(), RandomShiftConfig(pixels=4)),
        model=ModelConfig(
            vision=PretrainedVisionConfig(path=f"{WEIGHTS}/dinov2-small", num_layers=4, image_size=112),
            connect=MlpConnectorConfig(shuffle=2),
            language=PretrainedLanguageConfig(
                path=f"{WEIGHTS}/smollm2-135m", num_layers=num_layers, num_extra_tokens=258
            ),
            action=FlowConfig(horizon=HORIZON, start_noise=0.0),
            context=PatchContextConfig(),
            tokenizer=FastConfig(vocab_size=256),
        ),
        stages=stages,
        rollout=None,
    )


def words(name: str, steps: int, learn: tuple[str, ...], lr_groups: dict[str, float]) -> Stage:
    """Make a stage that learns by words: what is seen, and where."""
    return Stage(
        name=name,
        steps=steps,
        learn=learn,
        lr=1e-3,
        lr_groups=lr_groups,
        warmup_steps=5,
        objective=VlaConfig(action_token_weight=0.0, flow_weight=0.0),
        mixture=MixtureConfig(
            buckets=tuple(
                BucketConfig(name=bucket, source=source, weight=weight, max_epochs=10)
                for bucket, source, weight in SOURCES
            ),
            row_length=384,
            rows_per_batch=2,
            max_images_per_row=12,
            workers=1,
        ),
    )


if __name__ == "__main__":
    print(to_yaml(small()), end="")
