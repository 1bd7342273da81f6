"""An image tokenizer on simulator frames: how well pictures come back from their tokens, codebook against grid.

Command     python bench/image_tokens.py DATA/robot [SECONDS] [FOLDER]
Limit       the mean picture of the training frames (what a tokenizer that says nothing would paint)
Seconds     are of CPU time, on one thread: what stands beside does not matter
Output      a table for a person, then one JSON line for a log; in FOLDER true and painted pictures side by side
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from rich.table import Table

from trivium.core.batch import Batch
from trivium.core.log import console
from trivium.core.rng import seed_all
from trivium.core.sample import Image
from trivium.data.bucket import Split, select
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.nn.quantizer import usage
from trivium.vision.image_tokens import ImageTokensObjective
from trivium.vision.tokenizer import ImageNetConfig, ImageTokenizer

SEED = 0
BATCH = 8
VAL_SHARE = 0.1
FRAMES = 2000
TESTED = 256
LR = 1e-3


def frames(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return frames of training episodes and of held-out ones, spread evenly."""
    source = LeRobotConfig(path=path, views=("top",), horizon=8).build()
    assert isinstance(source, LeRobot)
    found = []
    sides: tuple[tuple[Split, int], ...] = (("train", FRAMES), ("val", TESTED))
    for split, wanted in sides:
        samples = select(source, split, VAL_SHARE)
        chosen = samples[np.linspace(0, len(samples) - 1, wanted).astype(int)]
        pixels = np.stack([source.read(int(place)).of(Image)[0].pixels for place in chosen])
        found.append(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    return found[0], found[1]


def psnr(painted: torch.Tensor, true: torch.Tensor) -> float:
    """Return the mean over pictures of the peak signal-to-noise ratio in dB."""
    error = (painted.float() - true.float()).square().mean((1, 2, 3)).clamp(min=1e-3)
    return float((10 * torch.log10(255**2 / error)).mean())


def teach(network: ImageNetConfig, pictures: torch.Tensor, seconds: float) -> tuple[ImageTokenizer, int]:
    """Train for so many CPU seconds: AdamW, linear warm-up, then a cosine to zero over the time."""
    seed_all(SEED)
    objective = ImageTokensObjective(network.build(pictures.shape[-1]), None, 0.0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=LR, weight_decay=0.01, betas=(0.9, 0.95))
    generator, steps, begun = torch.Generator().manual_seed(SEED), 0, time.process_time()
    while (share := (time.process_time() - begun) / seconds) < 1:
        batch = Batch(images=pictures[torch.randint(len(pictures), (BATCH,), generator=generator)])
        optimizer.param_groups[0]["lr"] = LR * min(1, (steps + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * share))
        losses = objective(batch)
        optimizer.zero_grad()
        losses.total(losses.counts()).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return objective.tokenizer.eval(), steps


def main(path: str, seconds: float, folder: Path) -> None:
    """Train one tokenizer a quantizer, look at what it learned on held-out episodes, and print."""
    torch.set_num_threads(1)
    train, test = frames(path)
    baseline = psnr(train.float().mean(0).expand(test.shape), test)
    result: dict[str, float] = {"seconds": seconds, "mean_picture_db": baseline}
    table = Table(
        "quantizer", "tokens", "steps", "PSNR dB", "perplexity", "of", "dead", title=f"{seconds:.0f} CPU s each"
    )
    table.add_row("mean picture", "0", "", f"{baseline:.1f}", "", "", "")
    for name, quantizer in (("vq", VqConfig(size=512)), ("fsq", FsqConfig(levels=(8, 8, 8)))):
        tokenizer, steps = teach(ImageNetConfig(quantizer=quantizer, width=96), train, seconds)
        ids = tokenizer.encode(test)
        painted = tokenizer.decode(ids)
        use, quality = usage(ids, tokenizer.vocab_size), psnr(painted, test)
        figures = str(steps), f"{quality:.1f}", f"{use.perplexity:.0f}", str(tokenizer.vocab_size), f"{use.dead:.0%}"
        table.add_row(name, str(tokenizer.tokens_per_image), *figures)
        result |= {f"{name}_db": quality, f"{name}_perplexity": use.perplexity, f"{name}_dead": use.dead}
        result |= {f"{name}_steps": steps}
        shown = torch.cat([torch.cat([a, b], 1) for a, b in zip(test[::40], painted[::40], strict=True)], 2)
        folder.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(shown.permute(1, 2, 0).numpy()).save(folder / f"image_tokens_{name}.png")
    console.print(table)
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        arguments[0],
        float(arguments[1]) if len(arguments) > 1 else 110.0,
        Path(arguments[2]) if len(arguments) > 2 else Path("build/bench"),
    )
