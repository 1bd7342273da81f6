"""Does a vision stage teach an encoder where things are? A linear probe of the object, before and after.

Command     python bench/vision_probe.py DATA [SECONDS]
Data        a folder of `trivium demo-data`: robot/ and captions/ (the words of captions need build/weights)
Arms        MAE alone and CLIP alone, each on a small ViT from scratch and on four layers of DINOv2; three seeds of
            weights, order and masks each, SECONDS of processor time an arm (one thread, float32)
Protocol    70 % of the episodes are trained on; frames of the others are probed, split by episode once more. The
            control is the SAME encoder before training. Margins are paired by episode (1000 bootstrap draws over
            folds and episodes); the line of an arm is the mean margin of its seeds under the same draws
Output      a table for a person, then one JSON line for a log
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.table import Table

from trivium.core.batch import Batch
from trivium.core.log import console, note
from trivium.core.rng import numpy_rng, seed_all
from trivium.core.sample import Image, Text
from trivium.data.bucket import select
from trivium.data.row import collate
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import ImageTextConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.probe.curve import Shares, estimate, resample
from trivium.probe.features import pool_grid
from trivium.probe.probes import Problem, linear
from trivium.probe.reduce import reduce
from trivium.probe.split import check_mask, split_by_episode
from trivium.probe.tasks import number_tasks, object_position
from trivium.train.gradient import differentiate
from trivium.train.schedule import lr_share
from trivium.train.stage import StageConfig
from trivium.vision.encoder import Encoder
from trivium.vision.mae import MaeConfig
from trivium.vision.objective import VisionObjective, VisionObjectiveConfig
from trivium.vision.pretrained import PretrainedVisionConfig
from trivium.vision.vit import VitConfig

SEEDS, BATCH, NUM_FRAMES, NUM_PROBED, STEPS = 3, 32, 3000, 900, 10_000
ENCODERS = {
    "ViT 96 x 4 from scratch": VitConfig(image_size=112, patch_size=14, width=96, depth=4, heads=3),
    "DINOv2 4 layers": PretrainedVisionConfig(path="build/weights/dinov2-small", num_layers=4, image_size=112),
}
RATES = {"ViT 96 x 4 from scratch": 1e-3, "DINOv2 4 layers": 1e-4}
ARMS: dict[str, dict[str, Any]] = {"MAE": {"contrastive": 0.0}, "CLIP": {"mae": 0.0}}
FOLDS, COMPONENTS, DRAWS = 4, 256, 1000


class Data:
    """Frames and captions of the training episodes, and frames of the others to probe."""

    def __init__(self, folder: Path) -> None:
        robot = LeRobotConfig(path=str(folder / "robot"), views=("top",), horizon=1).build()
        train, held = (select(robot, side, 0.3) for side in ("train", "val"))
        spread = np.linspace(0, len(train) - 1, NUM_FRAMES).astype(int)
        self.frames = np.stack([robot.read(int(i)).of(Image)[0].pixels for i in train[spread]])
        rows = held[np.linspace(0, len(held) - 1, NUM_PROBED).astype(int)]
        self.probed = [robot.read(int(i)) for i in rows]
        self.episodes = robot.groups()[rows]
        known = set(np.unique(robot.groups()[train]).tolist())
        captions = ImageTextConfig(path=str(folder / "captions"), group_column="episode").build()
        places = [i for i, episode in enumerate(captions.groups().tolist()) if episode in known]
        self.captions = [captions.read(i) for i in places]
        note(f"{len(known)} episodes to train on, {len(self.captions)} captions; {len(set(self.episodes))} to probe")

    def batches(self, arm: str, objective: VisionObjective, encode, seed: int) -> Iterator[Batch]:
        """Yield batches without end."""
        rng = numpy_rng(seed, "bench", arm)
        layout = objective.config.layout(objective.vision.num_patches, encode)
        while True:
            if arm == "MAE":
                picked = self.frames[rng.choice(len(self.frames), BATCH, replace=False)]
                yield Batch(images=torch.from_numpy(picked).permute(0, 3, 1, 2).contiguous())
            else:
                picked = [self.captions[i] for i in rng.choice(len(self.captions), BATCH, replace=False)]
                yield collate([[("captions", layout.build(sample))] for sample in picked], 400)


@torch.no_grad()
def features(encoder: Encoder, data: Data) -> np.ndarray:
    """Return the patches of every probed frame, averaged in 4 x 4 regions."""
    encoder.eval()
    pixels = np.stack([sample.of(Image)[0].pixels for sample in data.probed])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    patches = torch.cat([encoder(part) for part in images.split(64)]).numpy()
    return pool_grid(patches, encoder.grid)


def learn(
    arm: str, encoder: Encoder, language, rate: float, data: Data, seed: int, seconds: float
) -> tuple[int, float]:
    """Train for some seconds; return the steps taken and the last loss."""
    decoder = MaeConfig(width=96, depth=1, heads=3)
    config = VisionObjectiveConfig(decoder=decoder, projection_width=128, **ARMS[arm])
    model: Any = SimpleNamespace(vision=encoder, language=language)
    objective = config.build(model)
    own = "decoder" if arm == "MAE" else "contrast"
    stage = StageConfig(name="see", steps=STEPS, learn=("vision", own), lr=1e-3, lr_groups={"vision": rate})
    optimizer, _ = stage.build(objective)
    begin, steps, losses = time.process_time(), 0, [0.0]
    for batch in data.batches(arm, objective, language.vocab.encode, seed):
        # The schedule walks with the clock, so that it ends low however fast the machine is.
        gone = (time.process_time() - begin) / seconds
        if gone >= 1:
            break
        optimizer.begin_step()
        seen = differentiate(objective, [batch], optimizer)
        optimizer.step(seen.total, lr_share(int(gone * 1000), 1000, 50, 0.02))
        steps, losses = steps + 1, [*losses[-19:], seen.total]
    return steps, sum(losses) / len(losses)


class Probe:
    """The linear probe of the health check over one split, and its score under every bootstrap draw."""

    def __init__(self, data: Data) -> None:
        self.values = object_position(data.probed, "object").values
        self.tasks = number_tasks([sample.of(Text)[0].text for sample in data.probed])
        _, self.number = np.unique(data.episodes, return_inverse=True)
        unseen = np.zeros(len(self.number), bool)
        self.folds = split_by_episode(self.number, self.tasks, unseen, FOLDS, numpy_rng(0, "split"))
        fold_of = np.empty(self.number.max() + 1, int)
        for place, fold in enumerate(self.folds):
            fold_of[self.number[fold.test]] = place
        self.weights = resample(fold_of, DRAWS, numpy_rng(0, "draws"))
        around = self.around(self.values)
        self.live = around.std(0) > 0.01 * around.std(0).max()

    def around(self, values: np.ndarray) -> np.ndarray:
        """Subtract the mean of each task: telling tasks apart earns nothing."""
        means = np.stack([values[self.tasks == task].mean(0) for task in range(self.tasks.max() + 1)])
        return values - means[self.tasks]

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """Return R2 under every draw, the estimate itself first."""
        values = self.values[:, self.live]
        error = np.zeros_like(values)
        for place, fold in enumerate(self.folds):
            x, _ = reduce(matrix, fold.train, COMPONENTS, place)
            inner = check_mask(self.number[fold.train], 0.25, numpy_rng(0, "inner", place))
            guess = linear(Problem(x[fold.train], values[fold.train], inner, x[fold.test], 0)).test
            error[fold.test] = (guess - values[fold.test]) ** 2
        sums = np.zeros((2, self.number.max() + 1, values.shape[1]))
        np.add.at(sums[0], self.number, error)
        np.add.at(sums[1], self.number, self.around(values) ** 2)
        return Shares(sums[0], sums[1]).score(self.weights)


def main(folder: Path, seconds: float) -> None:
    """Train and probe all arms, print the table and the line."""
    torch.set_num_threads(1)
    data = Data(folder)
    probe = Probe(data)
    language = PretrainedLanguageConfig(path="build/weights/smollm2-135m", num_layers=1, num_extra_tokens=0).build()
    language.requires_grad_(False)
    table = Table(title=f"R2 of object position, linear probe; {seconds:g} s of processor time an arm")
    for header in ("encoder", "learned by", "seed", "steps", "loss", "before", "after", "margin, 95 %"):
        table.add_column(header)
    lines = []
    for name, config in ENCODERS.items():
        for arm in ARMS:
            pairs = []
            for seed in range(SEEDS):
                seed_all(seed)
                encoder = config.build()
                before = probe.score(features(encoder, data))
                steps, loss = learn(arm, encoder, language, RATES[name], data, seed, seconds)
                pairs.append((before, probe.score(features(encoder, data))))
                lines.append(_line([name, arm, str(seed), steps, round(loss, 3)], *pairs[-1]))
            mean = [np.mean([pair[side] for pair in pairs], 0) for side in (0, 1)]
            lines.append(_line([name, arm, "all", 0, 0.0], *mean))
            for line in lines[-SEEDS - 1 :]:
                *head, low, value, high = line
                table.add_row(*map(str, head), f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
            note(" ".join(map(str, lines[-1])))
    console.print(table)
    print(json.dumps({"bench": "vision_probe", "seconds": seconds, "rows": lines, "torch": torch.__version__}))


def _line(head: list, before: np.ndarray, after: np.ndarray) -> list:
    margin = estimate(after - before)
    figures = (before[0], after[0], margin.low, margin.value, margin.high)
    return [*head, *(round(float(figure), 3) for figure in figures)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 30)
