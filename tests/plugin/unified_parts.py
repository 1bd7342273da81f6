"""A small image tokenizer, and samples of every sort for a unified model: robots with a later frame, words, films."""

import numpy as np
import torch

from trivium.action.fast import FastConfig
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.language.model import TinyLanguageConfig
from trivium.nn.fsq import FsqConfig
from trivium.policy.unified import UnifiedConfig, UnifiedObjective
from trivium.policy.unified_layout import Pictures, UnifiedLayout
from trivium.vision.tokenizer import ImageNetConfig

SIDE, BINS = 16, 32
NETWORK = ImageNetConfig(quantizer=FsqConfig(levels=(4, 4, 4)), patch_size=8, width=16)
CODES, TOKENS = 64, 4
CONFIG = UnifiedConfig(tokenizer="tokens")
LANGUAGE = TinyLanguageConfig(
    width=32, num_layers=2, heads=2, num_extra_tokens=102, spans={"image": CODES + 2, "state": BINS}
)


def build(config: UnifiedConfig = CONFIG) -> tuple[UnifiedObjective, UnifiedLayout]:
    """Build an objective and its layout, the same ones every time."""
    torch.manual_seed(0)
    painter = NETWORK.build(SIDE)
    objective = UnifiedObjective(LANGUAGE.build(), painter, config)
    rng = np.random.default_rng(0)
    fast = FastConfig(vocab_size=100).fit([rng.uniform(-1, 1, (1, 2)) * np.ones((4, 1)) for _ in range(100)])
    pictures = Pictures(SIDE, painter.tokens_per_image, painter.vocab_size)
    return objective, config.layout(objective.language.vocab, pictures, fast)


def picture(seed: int, time_s: float = 0.0) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image(pixels=pixels, time_s=time_s)


def robot(seed: int, later: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.uniform(-1, 1, (1, 2)), 4, 0).astype(np.float32)
    segments = [
        picture(seed),
        Text(role="instruction", text="push"),
        State(values=rng.uniform(-1, 1, 3).astype(np.float32), names=("a", "b", "c")),
        Action(values=values, valid=np.ones(4, bool), names=("x", "y")),
        *([picture(seed + 100, 0.5)] if later else []),
    ]
    return Sample(id=f"robot{seed}", segments=tuple(segments), source="test", license="CC0-1.0")


def caption(seed: int, words: str = "a cup") -> Sample:
    segments = (picture(seed), Text(role="caption", text=words))
    return Sample(id=f"caption{seed}", segments=segments, source="test", license="CC0-1.0")


def film() -> Sample:
    told = [Text(text="<0.5 s>", time_s=0.5), picture(7, 0.5), Text(text="look", time_s=0.7)]
    told += [Text(text="<1.5 s>", time_s=1.5), picture(8, 1.5), Text(text="it is open", time_s=2.0)]
    return Sample(id="film", segments=tuple(told), source="test", license="CC0-1.0")


SAMPLES = (robot(0), robot(1, later=False), caption(2), film())
