"""MAE and contrastive steps beside the same maths in transformers' own modules, and what a gradient cache costs.

Command     python bench/vision_speed.py [ROUNDS]
Peers       ViTMAEForPreTraining with equal sizes; ViTModel with CLIP's loss as transformers has it (the caption's side
            and the projections are the same modules on both sides)
Output      a table for a person, then one JSON line for a log: medians of rounds taken in turn, one thread, float32;
            a step is forward and backward, the normalisation of pixels included on both sides
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from trivium.core.batch import Batch
from trivium.core.log import console
from trivium.language.model import TinyLanguageConfig
from trivium.vision.encoder import normalise
from trivium.vision.mae import MaeConfig
from trivium.vision.objective import VisionObjective, VisionObjectiveConfig
from trivium.vision.vit import VitConfig

BATCH, SIZE, PATCH, WIDTH, DEPTH, HEADS, WORDS = 32, 112, 14, 192, 6, 3, 24
DECODER = {"width": 128, "depth": 2, "heads": 4}
PEER_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "image_size": SIZE,
    "patch_size": PATCH,
}
Step = Callable[[], Tensor]


def ours(**changes: Any) -> VisionObjective:
    """Build our objective on a small ViT and a frozen reader of captions."""
    torch.manual_seed(0)
    vision = VitConfig(image_size=SIZE, patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS).build()
    language = TinyLanguageConfig(width=64, num_layers=1, heads=2).build().requires_grad_(False)
    model: Any = SimpleNamespace(vision=vision, language=language)
    return VisionObjectiveConfig(decoder=MaeConfig(**DECODER), **changes).build(model)


def batch() -> Batch:
    """Make pictures, each with a caption of its own."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.arange(BATCH).unsqueeze(1).expand(BATCH, WORDS)
    return Batch(
        images=torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
        images_document=torch.arange(BATCH),
        tokens=torch.randint(1, 200, (BATCH, WORDS), generator=generator),
        documents=documents,
        positions=torch.arange(WORDS).expand(BATCH, WORDS),
    )


def step_of(objective: VisionObjective, given: Batch) -> Step:
    """Return a whole step of ours."""

    def step() -> Tensor:
        losses = objective(given)
        return losses.total(losses.counts())

    return step


def peer_mae(given: Batch) -> tuple[nn.Module, Step]:
    """Build transformers' MAE with our sizes."""
    torch.manual_seed(0)
    config = ViTMAEConfig(
        **PEER_SIZES,
        decoder_hidden_size=DECODER["width"],
        decoder_num_hidden_layers=DECODER["depth"],
        decoder_num_attention_heads=DECODER["heads"],
        decoder_intermediate_size=4 * DECODER["width"],
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config).train()
    images = given.images
    assert images is not None, "pictures"
    return model, lambda: model(normalise(images)).loss


def peer_contrastive(given: Batch, mine: VisionObjective) -> tuple[nn.Module, Step]:
    """Build transformers' ViT and loss; captions are read by our reader, projections are ours."""
    torch.manual_seed(0)
    config = ViTConfig(
        **PEER_SIZES,
    )
    model = ViTModel(config, add_pooling_layer=False).train()
    images, tokens, documents, positions = given.images, given.tokens, given.documents, given.positions
    assert images is not None, "pictures"
    assert tokens is not None, "captions"
    assert documents is not None, "documents"
    assert positions is not None, "positions"

    def step() -> Tensor:
        seen = model(normalise(images)).last_hidden_state[:, 1:].mean(1)
        read = mine.language(mine.language.embed(tokens), documents, positions).mean(1)
        x, y = F.normalize(mine.contrast.image(seen), dim=-1), F.normalize(mine.contrast.text(read), dim=-1)
        return image_text_contrastive_loss(mine.contrast.log_scale.exp() * y @ x.T)

    return model, step


def timed(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, forward and backward, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step().backward()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main(rounds: int) -> None:
    """Time all, print the table and the line."""
    torch.set_num_threads(1)
    given = batch()
    mae, pairs = ours(contrastive=0.0), ours(mae=0.0)
    (mae_peer, mae_step), (pairs_peer, pairs_step) = peer_mae(given), peer_contrastive(given, pairs)
    seconds = timed(
        {
            "mae": step_of(mae, given),
            "mae, transformers": mae_step,
            "contrastive": step_of(pairs, given),
            "contrastive, transformers": pairs_step,
            "contrastive in chunks of 8": step_of(ours(mae=0.0, chunk=8), given),
        },
        rounds,
    )
    sizes = {
        "mae": sum(p.numel() for p in mae.parameters()),
        "mae, transformers": sum(p.numel() for p in mae_peer.parameters()),
        "contrastive": sum(p.numel() for p in pairs.vision.parameters()),
        "contrastive, transformers": sum(p.numel() for p in pairs_peer.parameters()),
    }
    table = Table(title=f"{BATCH} pictures of {SIZE} px, ViT {WIDTH} x {DEPTH}, medians of {rounds}")
    for header in ("step", "ms", "of the peer", "parameters"):
        table.add_column(header, justify="right" if header != "step" else "left")
    ratios = {}
    for name, found in seconds.items():
        peer = f"{name.split(' ')[0].rstrip(',')}, transformers"
        ratios[name] = round(found / seconds[peer], 3)
        size = f"{sizes[name]:,}" if name in sizes else ""
        table.add_row(name, f"{1000 * found:.1f}", f"{ratios[name]:.2f}", size)
    console.print(table)
    print(json.dumps({"bench": "vision_speed", "rounds": rounds, "of_the_peer": ratios, "torch": torch.__version__}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
