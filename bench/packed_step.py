"""A packed training step of the whole model against a padded one: real tokens a second on conversations about pictures.

Command     python bench/packed_step.py [conversations]
            16 to a padded batch; encoder, connector and language model learn, half a minute
Output      a table for a person, then one JSON line for a log
Peer        the same model, the same conversations, one a row, padded to the longest of the batch, attention and layers
            over the padding too; both score learned tokens alone, so padding is charged for the layers only. Whole
            AdamW steps on one thread; processor time is counted, not the clock.
Fixture     a picture of 112 pixels (16 tokens), a question of 30 letters on average, an answer so long that the whole
            has a mean of 409 tokens and 99 % below 1426 (log-normal), every fourth without a picture; a letter is a
            token; cut at the row
Limit       at least twice the real tokens a second
"""

import json
import sys
from statistics import median

import numpy as np
import torch
from rich.table import Table

import packed_text
from packed_text import CHUNK, ROW_LENGTH, SIGMA, packed, padded, seconds
from trivium.action.regress import RegressConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.log import console
from trivium.core.sample import Image, Sample, Text
from trivium.data.row import Row
from trivium.language import trunk
from trivium.language.model import TinyLanguageConfig
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.sequence import VlaLayout
from trivium.policy.vla import ModelConfig
from trivium.train.stage import StageConfig
from trivium.vision.vit import VitConfig

SIDE = 112


def build() -> VlaObjective:
    """Build a small model with random weights."""
    torch.manual_seed(0)
    config = ModelConfig(
        vision=VitConfig(image_size=SIDE, patch_size=14, width=192, depth=4, heads=3),
        connect=MlpConnectorConfig(shuffle=2),
        language=TinyLanguageConfig(width=256, num_layers=4, heads=4),
        action=RegressConfig(horizon=1, width=32, depth=1, heads=2),
    )
    objective = VlaConfig(action_token_weight=0.0, flow_weight=0.0, token_average="square").build(config.build(1, 1))
    return objective.to(torch.bfloat16)


def rows(number: int, layout: VlaLayout) -> list[Row]:
    """Make conversations of random letters (a letter is a token) with the lengths of the fixture."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(409) - SIGMA**2 / 2, SIGMA, number).round().clip(64, ROW_LENGTH).astype(int)
    made = []
    for i, size in enumerate(lengths.tolist()):
        pictures = [Image(pixels=rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))] if i % 4 else []
        asked = int(rng.integers(20, 41))
        answer = size - asked - layout.tokens_per_image * len(pictures) - 2  # the newline and the end
        texts = [Text(text="a" * asked, role="question"), Text(text="b" * max(answer, 1), role="answer")]
        made.append(layout.build(Sample(id=str(i), segments=(*pictures, *texts), source="bench", license="CC0-1.0")))
    return made


def measure(number: int) -> dict:
    """Take turns, so that a busy machine disturbs all alike."""
    torch.set_num_threads(1)
    objective = build()
    stage = StageConfig(name="a", steps=1, learn=("vision", "connect", "language.layers", "language.norm"), lr=1e-5)
    optimizer, _ = stage.build(objective)
    samples = rows(number, VlaLayout(objective.language.vocab, objective.connect.num_tokens, None))
    sides = {"packed": packed(samples, 1), "padded": padded(samples, number)}
    real = sum(row.length for row in samples)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(packed_text.ROUNDS + 1):
        for name, batches in sides.items():
            assert sum(batch.num_tokens for batch in batches) == real, name
            trunk.CHUNK = CHUNK if name == "packed" else 10**9  # padded attention sees the padding too
            spent = seconds(objective, optimizer, batches)
            if turn:  # the first allocates, and says nothing
                times[name].append(spent)
    ratios = sorted(a / b for a, b in zip(times["padded"], times["packed"], strict=True))
    return {
        "conversations": number,
        "real_tokens": real,
        "threads": torch.get_num_threads(),
        **{
            f"fill_{name}": round(
                real / sum(batch.documents.numel() for batch in batches if batch.documents is not None), 3
            )
            for name, batches in sides.items()
        },
        **{f"tokens_per_core_s_{name}": round(real / median(spent)) for name, spent in times.items()},
        "ratio": [round(ratio, 2) for ratio in ratios],
    }


if __name__ == "__main__":
    found = measure(int((*sys.argv[1:], "16")[0]))
    table = Table(title="packed against padded steps, real tokens a second", title_justify="left")
    for header in ("figure", "value"):
        table.add_column(header)
    for name, value in found.items():
        table.add_row(name, str(value))
    console.print(table)
    print(json.dumps(found))
