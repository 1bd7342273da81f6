"""What does a frozen part still cost? Operations, memory and time of a step, against the theoretical share.

Command     python bench/frozen.py [WEIGHTS]     (default build/weights)
Model       four layers of DINOv2-S at 112 px, six of SmolLM2-135M with its head, pixel shuffle between them; float32
Stages      connector (encoder frozen in front of what learns, language model behind it), encoder (through the frozen
            language model), everything
Theory      a matrix costs as much forwards, as for the gradient of its input, and as for its own: in front of the first
            learner 1/3 of a learning part and nothing kept, behind it 2/3. Attention has no weights: 3/3 behind it
Measured    operations of matrix products and attention by part (torch's counter), bytes that autograd keeps for the way
            back (parameters apart), seconds of a step without the optimizer (best of 5), on the CPU or a GPU
Output      a table for a person, then one JSON line for a log
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.log import console
from trivium.data.row import Row, collate
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.vla import Model, ModelConfig
from trivium.train.stage import apply_freeze
from trivium.vision.pretrained import PretrainedVisionConfig

STAGES = {
    "connector": ("connect",),
    "encoder": ("vision", "connect"),
    "everything": ("vision", "connect", "language.layers", "language.norm"),
}
ROWS, PICTURES, WORDS = 4, 8, 8
THEORY = {"connector": {"vision": 1 / 3, "language": 2 / 3}, "encoder": {"vision": 1, "language": 2 / 3}}


def batch_of(model: Model) -> Batch:
    """Make rows of captioned pictures, at random."""
    rng, per_image = np.random.default_rng(0), model.connect.num_tokens
    packs = []
    for row in range(ROWS):
        pack = []
        for place in range(PICTURES):
            words = rng.integers(5, 250, WORDS)
            tokens = np.concatenate([np.zeros(per_image, np.int64), words])
            kinds = np.repeat([int(Kind.IMAGE), int(Kind.TEXT)], [per_image, WORDS]).astype(np.int64)
            targets = np.full(len(tokens), IGNORE, np.int64)
            targets[per_image:-1] = words[1:]
            side = model.vision.image_size
            counts = {"image": per_image, "text": WORDS}
            picture = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
            fields: dict[str, Any] = {"tokens": tokens, "kinds": kinds, "targets": targets, "images": (picture,)}
            pack.append(("bench", Row(sample_id=f"{row}/{place}", length=len(tokens), counts=counts, **fields)))
        packs.append(pack)
    return collate(packs, PICTURES * (per_image + WORDS))


def kept_bytes(objective: nn.Module, batch: Batch) -> int:
    """Return what autograd keeps of a forward pass, parameters apart, every storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = objective(batch)
    assert losses, "the graph is held until here, or storages would be freed and counted twice"
    return sum(kept.values())


def operations(objective: VlaObjective, batch: Batch) -> dict[str, int]:
    """Return the operations of a forward and backward pass below the encoder and the language model's layers."""
    found = {}
    for part in ("vision", "language"):
        module: Any = objective.vision if part == "vision" else objective.language
        # Forward and backward of the part alone: what comes in needs a gradient where something in front learns.
        learns_in_front = part == "language" and any(p.requires_grad for p in objective.connect.parameters())
        counter = FlopCounterMode(display=False)
        if part == "vision":
            with counter:
                out = module(batch.images)
                if out.requires_grad:
                    out.sum().backward()
        else:
            x = module.embed(batch.tokens).detach().requires_grad_(learns_in_front)
            with counter:
                module(x, batch.documents, batch.positions).sum().backward()
        found[part] = counter.get_total_flops()
    objective.zero_grad()
    return found


def seconds(objective: VlaObjective, batch: Batch) -> float:
    """Return the best of five passes forwards and backwards."""
    best = float("inf")
    for _ in range(6):
        _wait()
        begin = time.perf_counter()
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        _wait()
        best = min(best, time.perf_counter() - begin)
        objective.zero_grad()
    return best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(weights: str) -> None:
    """Measure every stage, print the table and the line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = ModelConfig(
        vision=PretrainedVisionConfig(path=f"{weights}/dinov2-small", num_layers=4, image_size=112),
        connect=MlpConnectorConfig(shuffle=2),
        language=PretrainedLanguageConfig(path=f"{weights}/smollm2-135m", num_layers=6, num_extra_tokens=0),
        action=FlowConfig(horizon=8, width=64, depth=1, heads=2),
    ).build(4, 4)
    objective = VlaConfig(action_token_weight=0.0, flow_weight=0.0).build(model.to(device))
    batch = batch_of(model).to(device)
    rows: dict[str, dict[str, float]] = {}
    for name, learn in STAGES.items():
        apply_freeze(objective, learn)
        rows[name] = {f"{part} Gop": number / 1e9 for part, number in operations(objective, batch).items()}
        rows[name] |= {"kept MB": kept_bytes(objective, batch) / 1e6, "seconds": seconds(objective, batch)}
    table = Table(
        "stage", *rows["everything"], title=f"{device}, {torch.get_num_threads()} threads: share of everything"
    )
    for name, row in rows.items():
        cells = []
        for metric, value in row.items():
            share = f"{value:.3f} ({value / rows['everything'][metric]:.2f}"
            theory = THEORY.get(name, {}).get(metric.split()[0])
            cells.append(share + (f", theory {theory:.2f})" if theory else ")"))
        table.add_row(name, *cells)
    console.print(table)
    rounded = {name: {metric: round(value, 4) for metric, value in row.items()} for name, row in rows.items()}
    print(json.dumps({"bench": "frozen", "device": device, "rows": rounded, "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "build/weights")
