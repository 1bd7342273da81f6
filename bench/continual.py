"""What a language model learns of a domain and forgets of general text, with and without replay.

Command     python recipes/continual.py && trivium demo-data data/quickstart --episodes 150
            python bench/continual.py [corpus.jsonl] [general.jsonl] [seeds]       (8 core-minutes)
Output      a table for a person, then one JSON line for a log
Set-up      SmolLM2-135M whole, bfloat16; its last four layers learn the manual (templates of one kind: as narrow
            as a domain can be), 30 steps of 512 tokens, lr 1e-3. General text is what recipes/continual.py gathers.
            Replay 0 or 20 % of the tokens, so that the domain gets fewer; held-out documents, the same for all.
            Intervals are over the documents of one run (paired with before); seeds stand beside one another.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from trivium.core.log import console, note
from trivium.core.rng import Rng, isolated, numpy_rng
from trivium.data.bucket import BucketConfig, MixtureConfig, select
from trivium.data.index import count
from trivium.data.loader import Loader
from trivium.data.plan import Plan
from trivium.data.source.source import Source
from trivium.data.source.text import TextConfig
from trivium.data.transform import Chain
from trivium.language.continual import ContinualConfig, ContinualObjective
from trivium.language.heldout import TextScore, change, score
from trivium.language.model import LanguageModel, PretrainedLanguageConfig
from trivium.train.loop import run_stage
from trivium.train.stage import StageConfig
from trivium.train.state import State

WEIGHTS = "build/weights/smollm2-135m"
REPLAY = (0.0, 0.2)
STEPS, ROW_LENGTH = 30, 512
NUM_TOKENS = 3000
"""Of held-out text, for each of the two."""


def measure(language: LanguageModel, sources: dict[str, Source]) -> dict[str, TextScore]:
    """Score the held-out documents of both texts."""
    language.eval()
    found = {}
    for name, source in sources.items():
        held = select(source, "val", 0.1)
        held = held[numpy_rng(0, "held-out", name).permutation(len(held))]
        samples = [source.read(int(i)) for i in held[: NUM_TOKENS // 20]]
        found[name] = score(name, language, samples, source.groups()[held[: len(samples)]], NUM_TOKENS)
    return found


def train(
    language: LanguageModel, sources: dict[str, Source], paths: dict[str, TextConfig], replay: float, seed: int
) -> float:
    """Train in place; return the core-seconds it took."""
    weights = {"domain": 1.0 - replay, "general": replay}
    buckets = tuple(
        BucketConfig(name=name, source=paths[name], weight=weight, max_epochs=20)
        for name, weight in weights.items()
        if weight
    )
    mixture = MixtureConfig(buckets=buckets, row_length=ROW_LENGTH, rows_per_batch=1, max_images_per_row=0, workers=0)
    layout, chain = ContinualConfig().layout(language.vocab), Chain([])
    used = {bucket.name: sources[bucket.name] for bucket in buckets}
    indexes = {name: count(source, select(source, "train", 0.1), chain, layout) for name, source in used.items()}
    plan = Plan(mixture, indexes, STEPS, seed)
    objective = ContinualObjective(language)
    stage = StageConfig(name="read", steps=STEPS, learn=("language.layers.26-29",), lr=1e-3, warmup_steps=3)
    optimizer, _ = stage.build(objective)
    state = State(Rng(seed))
    state.begin_stage("read", 0, plan.fingerprint)
    batches = Loader(plan, used, chain, layout, seed).batches(0, STEPS, 1)
    start = time.process_time()
    run_stage(objective, batches, optimizer, state, stage, save=lambda now: None, record=lambda now, reading: None)
    return time.process_time() - start


def experiment(corpus: str, general: str, seeds: int) -> dict:
    """Run every replay share under every seed, from the same weights."""
    torch.set_num_threads(1)
    paths = {
        "domain": TextConfig(path=corpus, max_chars=600),
        "general": TextConfig(path=general, max_chars=600),
    }
    sources: dict[str, Source] = {name: config.build() for name, config in paths.items()}
    start = time.process_time()
    language = PretrainedLanguageConfig(path=WEIGHTS, num_layers=30, num_extra_tokens=0).build().to(torch.bfloat16)
    weights = {name: value.clone() for name, value in language.state_dict().items()}
    before = measure(language, sources)
    rows = []
    for replay in REPLAY:
        for seed in range(seeds):
            language.load_state_dict(weights)
            with isolated(seed):
                spent = train(language, sources, paths, replay, seed)
            after = measure(language, sources)
            row = {"replay": replay, "seed": seed, "core_s": round(spent, 1)}
            for name, scored in after.items():
                row[name] = round(scored.bits_per_byte, 4)
                row[f"{name}_change"] = [round(value, 4) for value in change(before[name], scored)]
            rows.append(row)
            note(json.dumps(row))
    return {
        "before": {name: [round(s.bits_per_byte, 4), round(s.low, 4), round(s.high, 4)] for name, s in before.items()},
        "documents": {name: len(s.bytes) for name, s in before.items()},
        "scored_tokens": {name: s.tokens for name, s in before.items()},
        "steps": STEPS,
        "tokens_a_step": ROW_LENGTH,
        "core_s": round(time.process_time() - start),
        "runs": rows,
    }


def lay_out(found: dict) -> Table:
    """Lay the runs out, and the mean of each replay share with the spread of its seeds."""
    table = Table(title="bits a byte of held-out text", title_justify="left")
    for header in ("replay", "seed", "domain", "change", "general", "change"):
        table.add_column(header)
    table.add_row("before", "", f"{found['before']['domain'][0]:.3f}", "", f"{found['before']['general'][0]:.3f}", "")
    for row in found["runs"]:
        cells = []
        for name in ("domain", "general"):
            middle, low, high = row[f"{name}_change"]
            cells += [f"{row[name]:.3f}", f"{middle:+.3f}, {low:+.3f} to {high:+.3f}"]
        table.add_row(f"{row['replay']:.0%}", str(row["seed"]), *cells)
    for replay in REPLAY:
        runs = [row for row in found["runs"] if row["replay"] == replay]
        cells = []
        for name in ("domain", "general"):
            gaps = np.array([row[f"{name}_change"][0] for row in runs])
            cells += [
                f"{np.mean([row[name] for row in runs]):.3f}",
                f"{gaps.mean():+.3f}, seeds {gaps.min():+.3f} to {gaps.max():+.3f}",
            ]
        table.add_row(f"{replay:.0%}", "mean", *cells)
    return table


if __name__ == "__main__":
    given = (
        *sys.argv[1:],
        *("data/quickstart/text/corpus.jsonl", "data/continual/general.jsonl", "3")[len(sys.argv) - 1 :],
    )
    for path in map(Path, given[:2]):
        assert path.is_file(), f"no {path}: see the commands above"
    result = experiment(given[0], given[1], int(given[2]))
    console.print(lay_out(result))
    print(json.dumps(result))
