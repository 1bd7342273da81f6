"""Samples a second from a LeRobot v3 set, shuffled, with history 2 and horizon 16, against the `lerobot` package.

Command     python bench/loading.py SET [--peer PYTHON] [--rounds 3] [--samples 2000] [--workers 2]
Output      a table for a person, then one JSON line for a log; rates are medians over the rounds

PYTHON is the interpreter of an environment with lerobot (0.4.4) and torchcodec; without it only ours is measured. Both
read the same files with the same number of workers in batches of 32, and both end with float pictures in 0..1, the
state and the chunk of actions as tensors of this process. The clock starts at the second batch, so that nobody pays for
starting workers. Peer and ours take turns within every round: what else the machine does falls on both.

- first epoch: nothing decoded yet; every sample of the set once
- later epochs: the set lies decoded in the cache
- no cache: room for 1 % of the set's frames, as with a set a hundred times larger than memory; every sample decodes
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from trivium.core.errors import TriviumError
from trivium.core.log import console
from trivium.core.sample import Action, Image, Sample, State
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import count
from trivium.data.loader import Loader
from trivium.data.plan import Plan
from trivium.data.row import Row
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.transform import Chain

BATCH, HISTORY, HORIZON = 32, 2, 16
PEER = """
import os, sys, time, json
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, view, fps, workers, samples = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
want = {"observation.images." + view: [-1 / fps, 0.0], "action": [i / fps for i in range(16)]}
data = LeRobotDataset("local/set", root=root, video_backend="torchcodec", delta_timestamps=want)
batches = iter(torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, num_workers=workers, drop_last=True))
next(batches)
start, seen = time.perf_counter(), 0
for batch in batches:
    seen += len(batch["action"])
    if seen >= samples:
        break
print(json.dumps(seen / (time.perf_counter() - start)))
os._exit(0)
"""


class Frames:
    """A layout without tokens: what a robot saw and did, one sample a row."""

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return one token a sample."""
        return {"action": 1}

    def build(self, sample: Sample) -> Row:
        """Return pictures, state and actions as they are."""
        state, action = sample.of(State)[0], sample.of(Action)[0]
        pictures = [image.pixels for image in sample.of(Image)]
        given = {"state": state.values, "actions": action.values, "valid": action.valid}
        return Row(sample_id=sample.id, length=1, counts={"action": 1}, images=pictures, **given)


def loader(path: str, view: str, cache_gb: float, workers: int, epochs: int) -> Loader:
    """Open the set anew, with nothing decoded, and plan some epochs of it."""
    source = LeRobotConfig(path=path, views=(view,), horizon=HORIZON, history=HISTORY, cache_gb=cache_gb)
    bucket = BucketConfig(name="set", source=source, weight=1.0, max_epochs=epochs + 1, split="all")
    mixture = MixtureConfig(
        buckets=(bucket,), row_length=1, rows_per_batch=BATCH, max_images_per_row=HISTORY, workers=workers
    )
    sources, chain = mixture.build(), Chain([])
    index = count(sources["set"], np.arange(len(sources["set"])), chain, Frames())
    plan = Plan(mixture, {"set": index}, epochs * (len(sources["set"]) // BATCH), seed=0)
    return Loader(plan, sources, chain, Frames(), 0)


def rate(made: Loader, start: int, stop: int) -> float:
    """Return samples a second from the second batch on."""
    batches = made.batches(start, stop, 1)
    next(batches)
    begin, seen = time.perf_counter(), 0
    for [batch] in batches:
        assert batch.images is not None, "the set has pictures"
        _ = batch.images.float().div_(255)
        seen += len(batch.ids)
    return seen / (time.perf_counter() - begin)


def ours(path: str, view: str, workers: int, samples: int) -> dict[str, float]:
    """Measure the three cases once."""
    whole = loader(path, view, 8.0, workers, 2)
    epoch = len(whole.plan) // 2
    found = {"first epoch": rate(whole, 0, epoch), "later epochs": rate(whole, epoch, 2 * epoch)}
    source = whole.sources["set"]
    assert isinstance(source, LeRobot), "opened as one"
    height, width = source.cameras[view]
    small = loader(path, view, 0.01 * 3e-9 * height * width * len(source), workers, 1)
    found["no cache"] = rate(small, 0, min(samples // BATCH, len(small.plan)))
    return found


def peer(python: str, path: str, view: str, fps: float, workers: int, samples: int) -> float:
    """Measure the package's own loader once, in its own environment."""
    words = [python, "-c", PEER, path, view, str(fps), str(workers), str(samples)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Take turns and return medians, all rounds, and ratios."""
    info = json.loads((Path(options.set) / "meta/info.json").read_text())
    view, fps = next(name.rpartition(".")[2] for name in info["features"] if ".images." in name), info["fps"]
    rounds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        if options.peer:
            one = peer(options.peer, options.set, view, fps, options.workers, options.samples)
            rounds.setdefault("lerobot", []).append(one)
        for name, value in ours(options.set, view, options.workers, options.samples).items():
            rounds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    about = info["features"][f"observation.images.{view}"]
    return {
        "set": options.set,
        "frames": info["total_frames"],
        "shape": about["shape"],
        "codec": (about.get("info") or {}).get("video.codec"),
        "workers": options.workers,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "samples_per_s": {name: round(value, 1) for name, value in medians.items()},
        "rounds": {name: [round(value, 1) for value in values] for name, values in rounds.items()},
        "ratio": {name: round(medians[name] / medians["lerobot"], 2) for name in medians} if options.peer else {},
    }


def table(found: dict[str, Any]) -> Table:
    """Lay medians, spread and ratios out."""
    drawn = Table(title=f"{found['set']}: {found['frames']:,} frames, {found['codec']}, {found['workers']} workers")
    for header in ("loader", "samples/s", "lowest", "highest", "times the peer"):
        drawn.add_column(header, justify="left" if header == "loader" else "right")
    for name, value in found["samples_per_s"].items():
        low, high = min(found["rounds"][name]), max(found["rounds"][name])
        times = f"{found['ratio'][name]:.1f}" if found["ratio"] else "-"
        drawn.add_row(name, f"{value:,.0f}", f"{low:,.0f}", f"{high:,.0f}", times)
    return drawn


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("set")
    asked.add_argument("--peer", default="")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--samples", type=int, default=2000)
    asked.add_argument("--workers", type=int, default=2)
    try:
        result = measure(asked.parse_args())
    except TriviumError as trouble:
        sys.exit(str(trouble))
    console.print(table(result))
    print(json.dumps(result))
