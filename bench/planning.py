"""How fast an index and a plan are made, how much memory they take, and how full rows become.

Command     python bench/planning.py [samples]      (1,000,000 by default; a minute on one core)
Output      a table for a person, then one JSON line for a log
Limits      an index of a million samples in 30 s and 64 bytes a sample; planning and packing at 300,000 samples/s and
            98 % fill at 4,096 tokens. Planning is held against what it cannot do without in numpy: a permutation, a
            running sum of lengths and one sort by virtual time.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from trivium.core.log import console
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import Index, count
from trivium.data.plan import Plan
from trivium.data.source.episode import EpisodeConfig, EpisodeSource, Trajectories
from trivium.data.source.source import Source
from trivium.data.source.text import TextConfig
from trivium.data.transform import Chain
from trivium.language.continual import TextLayout
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.policy.sequence import VlaLayout

WEIGHTS = Path("build/weights/smollm2-135m/tokenizer.json")
NUM_EPISODE_FRAMES = 200
WORDS = [
    *("the", "robot", "arm", "moves", "its", "gripper", "to", "left", "right", "above"),
    *("a", "red", "blue", "block", "and", "opens", "drawers", "slowly", "then"),
]


class Frames(EpisodeSource):
    """Robot frames made of numbers alone; pictures are never asked for."""

    def picture(self, view: str, place: int, frame: int) -> np.ndarray:
        """Say that counting decodes nothing."""
        raise AssertionError("counting decoded a picture")


def episodes(size: int) -> Frames:
    """Make a set of `size` frames with 50 sentences."""
    rng = np.random.default_rng(0)
    number = np.arange(-(-size // NUM_EPISODE_FRAMES))
    found = Trajectories(
        fps=20.0,
        number=number,
        end=np.minimum((number + 1) * NUM_EPISODE_FRAMES, size),
        state=rng.normal(size=(size, 7)).astype(np.float32),
        action=rng.normal(size=(size, 7)).astype(np.float32),
        state_names=tuple("abcdefg"),
        action_names=tuple("abcdefg"),
        tasks=tuple(f"pick up block {j} and put it into the drawer" for j in range(50)),
        task=np.repeat(number % 50, NUM_EPISODE_FRAMES)[:size].astype(np.int32),
        embodiment="arm",
    )
    config = EpisodeConfig(path="made", views=("top",), horizon=16)
    source = Frames(config, "made", "none", found, {"top": (224, 224)})
    source.fingerprint = f"made {size}"
    return source


def lines(size: int, folder: Path) -> Source:
    """Write and open a file of `size` lines of 8 to 24 words."""
    rng = np.random.default_rng(0)
    path = folder / "lines.jsonl"
    with path.open("w") as file:
        for number in rng.integers(8, 24, size).tolist():
            file.write(json.dumps({"text": " ".join(rng.choice(WORDS, number).tolist())}) + "\n")
    return TextConfig(path=str(path)).build()


def vocab() -> Vocab:
    """Return the tokenizer of the demo where it is there, else bytes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(WEIGHTS)) if WEIGHTS.is_file() else byte_tokenizer()
    return Vocab(tokenizer, 0, max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1, 0)


def indexing(source: Source, layout: Any) -> dict[str, float]:
    """Count a whole source once."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    index = count(source, np.arange(len(source)), Chain([]), layout)
    seconds, core_seconds = time.perf_counter() - start, sum(os.times()[:4]) - used
    return {
        "s": round(seconds, 2),
        "core_s": round(core_seconds, 2),
        "bytes_a_sample": round(index.num_bytes / len(source), 2),
    }


def planning(size: int) -> dict[str, float]:
    """Plan and pack `size` samples of the log-normal fixture in three buckets, and time numpy's part alone."""
    sigma = 0.6194
    lengths = np.random.default_rng(0).lognormal(np.log(409) - sigma**2 / 2, sigma, size)
    lengths = np.clip(lengths.round(), 1, 4096).astype(np.uint16)
    parts = np.array_split(lengths, 3)
    buckets = tuple(
        BucketConfig(name=name, source=TextConfig(path="never opened"), weight=weight, max_epochs=9.0)
        for name, weight in zip("abc", (1.0, 2.0, 3.0), strict=True)
    )
    indexes = {
        name: Index(fingerprint=name, samples=np.arange(len(p)), images=np.zeros(len(p), np.uint8), tokens={"text": p})
        for name, p in zip("abc", parts, strict=True)
    }
    rows = int(lengths.sum(dtype=np.int64) / 4096)
    mixture = MixtureConfig(buckets=buckets, row_length=4096, rows_per_batch=8, max_images_per_row=0)
    start = time.process_time()  # one process: what others do on this machine does not count
    plan = Plan(mixture, indexes, rows // 8, seed=0)
    seconds = time.process_time() - start
    planned = sum(row.samples for row in plan.table())
    start = time.process_time()
    order = np.random.default_rng(0).permutation(planned) % size
    np.argsort(np.cumsum(lengths[order], dtype=np.int64) / 0.5, kind="stable")
    limit = time.process_time() - start
    start = time.process_time()
    for number in range(200):
        plan.batch(number)
    return {
        "samples": planned,
        "samples_a_core_s": round(planned / seconds),
        "limit_samples_a_core_s": round(planned / limit),
        "ratio_to_limit": round(limit / seconds, 4),
        "fill": round(1 - plan.padding, 4),
        "bytes_a_sample": round(plan.num_bytes / planned, 2),
        "worst_share_error": max(abs(row.planned - row.asked) for row in plan.table()),
        "batch_ms": round((time.process_time() - start) * 1000 / 200, 3),
    }


def measure(size: int) -> dict[str, Any]:
    """Run all parts."""
    words = vocab()
    found: dict[str, Any] = {"samples": size, "plan": planning(size)}
    found["index: robot frames"] = indexing(episodes(size), VlaLayout(words, 64, None))
    with tempfile.TemporaryDirectory() as folder:
        found["index: lines of text"] = indexing(lines(size, Path(folder)), TextLayout(words.encode, words.end))
    return found


def table(found: dict[str, Any]) -> Table:
    """Lay the figures out."""
    rows = Table(title=f"{found['samples']:,} samples")
    for header in ("part", "figure", "value"):
        rows.add_column(header, justify="right" if header == "value" else "left")
    for part, figures in found.items():
        for name, value in figures.items() if isinstance(figures, dict) else ():
            rows.add_row(part, name, f"{value:,.6g}" if isinstance(value, float) else f"{value:,}")
    return rows


if __name__ == "__main__":
    result = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    console.print(table(result))
    print(json.dumps(result))
