"""InternVL 2.5's curriculum: connector, encoder through the frozen language model (8B and 26B), then everything.

Commands    trivium demo-data data/quickstart --episodes 150
            trivium train recipes/internvl25.py                  (the rehearsal: the 8B's stages with parts of the demo)
            python recipes/internvl25.py 8b > internvl-8b.yaml && trivium train internvl-8b.yaml        (as published)
Hardware    rehearsal: 2 CPU cores, 4 GB, not timed; published: 512 GPUs of 80 GB with one packed row each.
            ESTIMATE for 8B (142 B tokens; 4 or 6 x parameters x tokens, at 35 % of an H100's peak): 5,000 GPU-hours
Expected    rehearsal: the losses of all stages fall a little, for 20 steps at published rates teach little;
            published: scores of https://arxiv.org/abs/2412.05271; no size was trained here

All figures come from `trivium data presets internvl2.5-SIZE-stage1` (1.5, 2); warm-up is that of the published scripts.
Weights: OpenGVLab's InternViT and the language models in folders of their hub names below `weights`. InternLM 2.5 (2B,
8B, 26B) brings code of its own, which is never run: put a copy in Llama's layout there. Data: InternVL's meta files
below `data`. The demonstrations serve the health check alone.
"""

import math
import re
import sys
from typing import Any

from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.config import to_yaml
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.jpeg import JpegConfig
from trivium.data.preset.catalog import PRESETS, preset
from trivium.data.source.conversation import ConversationConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.tile import TileConfig
from trivium.data.transform import NormalizeConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.vla import ModelConfig
from trivium.run import RobotConfig, Run, Stage
from trivium.vision.pretrained import PretrainedVisionConfig

DEMO = "data/quickstart"
ROW, TILES = 16_384, 48
SMALL, LARGE = ("InternViT-300M-448px-V2_5", 24), ("InternViT-6B-448px-V2_5", 45)
PARTS: dict[str, tuple[tuple[str, int], tuple[str, int]]] = {
    "1b": (SMALL, ("Qwen2.5-0.5B-Instruct", 24)),
    "2b": (SMALL, ("internlm2_5-1_8b-chat", 24)),
    "4b": (SMALL, ("Qwen2.5-3B-Instruct", 36)),
    "8b": (SMALL, ("internlm2_5-7b-chat", 32)),
    "26b": (LARGE, ("internlm2_5-20b-chat", 48)),
    "38b": (LARGE, ("Qwen2.5-32B-Instruct", 64)),
    "78b": (LARGE, ("Qwen2.5-72B-Instruct", 80)),
}
"""Encoder and language model with their layers, by size."""


def recipe(size: str = "", weights: str = "build/weights", data: str = "data/internvl") -> Run:
    """Return the run of a published size, or the rehearsal for ""."""
    return published(size, weights, data) if size else rehearsal(weights, data)


def published(size: str, weights: str, data: str) -> Run:
    """Return the stages of a size as published."""
    (encoder, blocks), (language, layers) = PARTS[size]
    pretrain = {"pretrain": ConversationConfig(path=f"{data}/pretrain.json")}
    names = ("single-image", "multi-image", "video", "text")
    finetune = {name: ConversationConfig(path=f"{data}/{name}.json") for name in names}
    stages = [stage(size, "1", "connector", ("connect",), pretrain)]
    if f"internvl2.5-{size}-stage1.5" in [known.name for known in PRESETS]:
        stages.append(stage(size, "1.5", "encoder", ("vision", "connect"), pretrain))
    stages.append(stage(size, "2", "everything", ("vision", "connect", "language"), finetune))
    return Run(
        name=f"internvl25-{size}",
        robot=RobotConfig(
            source=LeRobotConfig(path=f"{DEMO}/robot", views=("top",), horizon=8), state_dim=4, action_dim=4
        ),
        transforms=(JpegConfig(lowest=75), TileConfig(size=448, max_tiles=12, robots=True), NormalizeConfig()),
        model=ModelConfig(
            vision=PretrainedVisionConfig(
                path=f"{weights}/{encoder}",
                num_layers=blocks,
                image_size=448,
                drop_path=said(size, "2")["encoder drop-path"],
            ),
            connect=MlpConnectorConfig(shuffle=2),
            language=PretrainedLanguageConfig(path=f"{weights}/{language}", num_layers=layers, num_extra_tokens=0),
            action=FlowConfig(horizon=8, width=64, depth=1, heads=2),
        ),
        stages=tuple(stages),
        rollout=None,
    )


def stage(size: str, number: str, name: str, learn: tuple[str, ...], sources: dict[str, Any]) -> Stage:
    """Return one published stage; a budget of tokens becomes steps."""
    figures, last = said(size, number), said(size, "2")
    rows = int(figures.get("packed batch", last["packed batch"]))
    mixture = preset(f"internvl2.5-{size}-stage{number}").mixture(sources, ROW, rows, TILES, max_epochs=4.0)
    steps = mixture.steps_for(int(figures["tokens seen"]))
    return Stage(
        name=name,
        steps=steps,
        learn=learn,
        lr=figures["learning rate"],
        weight_decay=figures["weight decay"],
        warmup_steps=math.ceil(0.03 * steps) if number == "2" else 100,
        final_lr_share=0.0,
        objective=VlaConfig(token_average="square", action_token_weight=0.0, flow_weight=0.0),
        mixture=mixture,
    )


def said(size: str, number: str) -> dict[str, float]:
    """Return the published figures of a stage as numbers: "176 B (4 epochs)" is 176e9."""
    figures: dict[str, float] = {}
    for setting in preset(f"internvl2.5-{size}-stage{number}").settings:
        found = re.match(r"([0-9,.e-]+)( B)?", setting.value)
        assert found, f"{setting.name}: {setting.value!r} begins with no number"
        figures[setting.name] = float(found[1].rstrip(",").replace(",", "")) * (1e9 if found[2] else 1)
    return figures


def rehearsal(weights: str, data: str) -> Run:
    """Return the stages of 8B with the small parts of the demo, a few steps each."""
    whole = published("8b", weights, data)
    drop_path = said("8b", "2")["encoder drop-path"]
    sources: tuple[tuple[str, ImageTextConfig], ...] = (
        ("captions", ImageTextConfig(path=f"{DEMO}/captions", words=CaptionColumns(), group_column="episode")),
        ("questions", ImageTextConfig(path=f"{DEMO}/spatial_qa", words=QuestionColumns(), group_column="episode")),
    )
    mixture = MixtureConfig(
        buckets=tuple(BucketConfig(name=name, source=source, weight=1.0, max_epochs=4) for name, source in sources),
        row_length=384,
        rows_per_batch=2,
        max_images_per_row=12,
        workers=0,
    )
    return whole.replace(
        name="internvl25-rehearsal",
        transforms=(JpegConfig(lowest=75), TileConfig(size=112, max_tiles=4, robots=True), NormalizeConfig()),
        model=whole.model.replace(
            vision=PretrainedVisionConfig(
                path=f"{weights}/dinov2-small", num_layers=4, image_size=112, drop_path=drop_path
            ),
            language=PretrainedLanguageConfig(path=f"{weights}/smollm2-135m", num_layers=3, num_extra_tokens=0),
        ),
        stages=tuple(one.replace(steps=20, warmup_steps=2, mixture=mixture) for one in whole.stages),
    )


if __name__ == "__main__":
    print(to_yaml(recipe(*sys.argv[1:])), end="")
