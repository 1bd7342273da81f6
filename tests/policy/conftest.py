"""A tiny model, its layout, and samples of every sort."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trivium.action.fast import FastConfig, FastTokenizer
from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.sample import Action, Image, Sample, Segment, State, Text
from trivium.language.model import TinyLanguageConfig
from trivium.policy.context import PatchContextConfig
from trivium.policy.sequence import VlaLayout
from trivium.policy.vla import Model, ModelConfig
from trivium.vision.vit import VitConfig

HORIZON, ACTION, STATE, SIDE = 4, 2, 3, 16

Make = Callable[..., Sample]


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(
        vision=VitConfig(image_size=SIDE, patch_size=4, width=32, depth=1, heads=2),
        connect=MlpConnectorConfig(shuffle=2),
        language=TinyLanguageConfig(width=32, num_layers=2, heads=2, num_extra_tokens=102),
        action=FlowConfig(horizon=HORIZON, width=32, depth=1, heads=2, num_draws=2),
        context=PatchContextConfig(num_views=2),
    )


@pytest.fixture
def model(config: ModelConfig) -> Model:
    """Build a model whose zero-initialised layers are awake, so that gradients and influence reach everything."""
    torch.manual_seed(0)
    model = config.build(ACTION, STATE)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def fast() -> FastTokenizer:
    rng = np.random.default_rng(0)
    chunks = [rng.uniform(-1, 1, (1, ACTION)) * np.ones((HORIZON, 1)) for _ in range(100)]
    return FastConfig(vocab_size=100).fit(chunks)


@pytest.fixture
def layout(model: Model, fast: FastTokenizer) -> VlaLayout:
    return VlaLayout(model.language.vocab, model.connect.num_tokens, fast)


@pytest.fixture(scope="session")
def make() -> Make:
    """Give samples by their parts: number of pictures, texts as (role, words), state and action."""

    def build(
        name: str, *texts: tuple[str, str], images: int = 1, state: bool = True, action: bool = True, valid: int = 4
    ) -> Sample:
        rng = np.random.default_rng([ord(c) for c in name])
        segments: list[Segment] = [Text(role=role, text=words) for role, words in texts]
        if action:
            values = np.repeat(rng.uniform(-1, 1, (1, ACTION)), HORIZON, 0).astype(np.float32)
            segments.append(Action(values=values, valid=np.arange(HORIZON) < valid, names=("x", "y")))
        if state:
            segments.append(State(values=rng.normal(size=STATE).astype(np.float32), names=("a", "b", "c")))
        pixels = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(images)]
        pictures = [Image(pixels=picture, view=f"view{i}") for i, picture in enumerate(pixels)]
        robot = state or action  # its order is fixed, so give it the pictures last; others are laid out as they stand
        segments = [*segments, *pictures] if robot else [*pictures, *segments]
        return Sample(id=name, segments=tuple(segments), source="test", license="CC0-1.0")

    return build
