"""A packed step of a language model against a padded one: real tokens a second on log-normal lengths.

Command     python bench/packed_text.py [documents] [layers]
            16 documents a padded batch and a small random model, half a minute; with `layers`, so many of SmolLM2's
Output      a table for a person, then one JSON line for a log
Peer        the same model, the same documents, one a row, padded to the longest of the batch: what a collator with
            padding does. All take whole AdamW steps on one thread, and processor time is counted, not the clock.
            Padded twice: with our head, on real tokens alone, so that padding is charged for the layers only; and as
            transformers' own models do it, with the head on every position.
Fixture     mean 409 tokens, 99 % below 1426 (log-normal), cut at the row
Limit       at least twice the real tokens a second
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.table import Table

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.log import console
from trivium.core.objective import Loss, Losses, Objective
from trivium.data.pack import Packer
from trivium.data.row import Row, collate
from trivium.language import trunk
from trivium.language.continual import ContinualObjective
from trivium.language.model import PretrainedLanguageConfig, TinyLanguageConfig
from trivium.train.gradient import differentiate
from trivium.train.optim import Optimizer
from trivium.train.stage import StageConfig

CHUNK = trunk.CHUNK
WEIGHTS = Path("build/weights/smollm2-135m")
ROW_LENGTH = 2048
NUM_BATCHES = 1
"""Padded batches in a round."""
ROUNDS = 3
SIGMA = 0.6194


def rows(number: int, vocab_size: int) -> list[Row]:
    """Make documents of random words with the lengths of the fixture."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(409) - SIGMA**2 / 2, SIGMA, number).round().clip(2, ROW_LENGTH).astype(int)
    made = []
    for i, size in enumerate(lengths.tolist()):
        tokens = rng.integers(0, vocab_size, size)
        kinds = np.full(size, int(Kind.TEXT), np.int64)
        targets = np.append(tokens[1:], IGNORE)
        made.append(
            Row(sample_id=str(i), length=size, counts={"text": size}, tokens=tokens, kinds=kinds, targets=targets)
        )
    return made


def padded(documents: list[Row], batch: int) -> list[Batch]:
    """Give every document a row as long as the longest of its batch."""
    parts = [documents[i : i + batch] for i in range(0, len(documents), batch)]
    return [collate([[("a", row)] for row in part], max(row.length for row in part)) for part in parts]


def packed(documents: list[Row], num_batches: int) -> list[Batch]:
    """Pack the same documents best-fit, into as many batches."""
    packer = Packer(ROW_LENGTH, max_images=0)
    packer.add(((i, row.length, 0) for i, row in enumerate(documents)), len(documents))
    packer.flush()
    items, sizes = packer.take()
    packs = np.split(items, np.cumsum(sizes)[:-1])
    parts = [packs[i::num_batches] for i in range(num_batches)]
    return [collate([[("a", documents[j]) for j in pack] for pack in part], ROW_LENGTH) for part in parts]


class EveryPosition(ContinualObjective):
    """Scores padding too and throws it away."""

    def forward(self, batch: Batch) -> Losses:
        """Run rows and head over every position."""
        assert batch.tokens is not None and batch.targets is not None, "rows of text"  # noqa: PT018
        assert batch.documents is not None and batch.positions is not None, "rows of text"  # noqa: PT018
        hidden = self.language(self.language.embed(batch.tokens), batch.documents, batch.positions)
        losses = self.language.token_losses(hidden.flatten(0, 1), batch.targets.flatten().clamp(min=0))
        kept = losses[batch.targets.flatten() != IGNORE]
        return Losses(text=Loss(kept.sum(), float(kept.numel())))


def learner(layers: int) -> tuple[ContinualObjective, ContinualObjective, Optimizer]:
    """Build the model, its two ways to take a step, and what trains it."""
    torch.manual_seed(0)
    config = PretrainedLanguageConfig(path=str(WEIGHTS), num_layers=layers, num_extra_tokens=0)
    language = config.build() if layers else TinyLanguageConfig(width=256, num_layers=4, heads=4).build()
    objective = ContinualObjective(language).to(torch.bfloat16)
    stage = StageConfig(name="a", steps=1, learn=("language.layers", "language.norm"), lr=1e-5)
    return objective, EveryPosition(language), stage.build(objective)[0]


def seconds(objective: Objective, optimizer: Optimizer, batches: list[Batch]) -> float:
    """Time a step for each batch."""
    start = time.process_time()  # of this process alone: what others do on this machine does not count
    for batch in batches:
        optimizer.begin_step()
        seen = differentiate(objective, [batch], optimizer)
        optimizer.step(seen.total, 1.0)
    return time.process_time() - start


def measure(batch: int, layers: int) -> dict:
    """Take turns, so that a busy machine disturbs all alike."""
    torch.set_num_threads(1)
    ours, everywhere, optimizer = learner(layers)
    documents = rows(batch * NUM_BATCHES, ours.language.vocab.extra_start)
    full, apart = packed(documents, NUM_BATCHES), padded(documents, batch)
    sides = {"packed": (ours, full), "padded": (ours, apart), "padded_whole_head": (everywhere, apart)}
    real = sum(row.length for row in documents)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name, (objective, batches) in sides.items():
            assert sum(one.num_tokens for one in batches) == real, name
            # A padded step as others take it computes attention over the padding too.
            trunk.CHUNK = CHUNK if name == "packed" else 10**9
            spent = seconds(objective, optimizer, batches)
            if turn:  # the first allocates, and says nothing
                times[name].append(spent)
    found = {
        "documents": len(documents),
        "model": f"SmolLM2-135M, {layers} layers" if layers else "random, 4 layers, width 256, 257 words",
        "threads": torch.get_num_threads(),
        "real_tokens": real,
    }
    for name, batches in (("packed", full), ("padded", apart)):
        found[f"fill_{name}"] = round(
            real / sum(one.documents.numel() for one in batches if one.documents is not None), 3
        )
    for name, spent in times.items():
        found[f"tokens_per_core_s_{name}"] = round(real / median(spent))
    for name in ("padded", "padded_whole_head"):
        ratios = sorted(a / b for a, b in zip(times[name], times["packed"], strict=True))
        found[f"ratio_to_{name}"] = [round(ratio, 2) for ratio in ratios]
    return found


if __name__ == "__main__":
    found = measure(*[int(word) for word in (*sys.argv[1:], *("16", "0")[len(sys.argv) - 1 :])])
    table = Table(title="packed against padded, real tokens a second", title_justify="left")
    for header in ("figure", "value"):
        table.add_column(header)
    for name, value in found.items():
        table.add_row(name, str(value))
    console.print(table)
    print(json.dumps(found))
