"""What learned codes of action chunks share: a network that starts as a linear code, a fit, and weights as text.

They are fitted before the run, as FAST is, and not in a stage: an id must mean the same motion in every stage and on
the robot, so the codes are frozen before anything reads them; and it takes seconds, where a stage would need a plan,
checkpoints and a place among the weights of every later one.
"""

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trivium.action.tokenizer import Reach, stack
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.rng import isolated, key

LIMIT = 1.5
"""Normalised actions are clipped to this, both ways, as FAST's are: most of what lies beyond is noise."""
HIDDEN = 256
BATCH = 512
STEPS = 600
LR = 3e-4
"""Higher moves the encoder faster than fine codes can follow: at 1e-3 what 32 tokens said got worse by learning."""
WARMUP = 50
MOST_CHUNKS = 100_000
"""More are thinned out evenly before fitting; the fit would not see them all anyway."""
MOST_WEIGHTS = 10 << 20
"""Numbers in a network: 53 MB as text, below what `choice.open_tokenizer` reads. 1,024 numbers a chunk need 3 M."""
LARGEST = 1e6
"""No fit makes a weight beyond it; below it no id and no latent overflows on its way through the network."""

Chunks = Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]
M = TypeVar("M", bound=nn.Module)


def flatten(chunks: Float[np.ndarray, "m k a"]) -> Float[Tensor, "m z"]:
    """Clip chunks to the limit and lay each out as one vector, step by step."""
    flat = chunks.reshape(len(chunks), chunks.shape[1] * chunks.shape[2])
    return torch.from_numpy(flat.clip(-LIMIT, LIMIT).astype(np.float32))


class Bent(nn.Module):
    """A linear map, and beside it a perceptron that starts at zero: so learning begins where linear codes end."""

    def __init__(self, width_in: int, width_out: int) -> None:
        """Build; `straight` is set by the caller."""
        super().__init__()
        self.straight = nn.Linear(width_in, width_out)
        first, middle, last = nn.Linear(width_in, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, width_out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.bend = nn.Sequential(first, nn.GELU(), middle, nn.GELU(), last)

    def forward(self, x: Float[Tensor, "m y"]) -> Float[Tensor, "m z"]:
        """Map vectors."""
        return self.straight(x) + self.bend(x)


def principal_axes(
    flat: Float[Tensor, "m z"],
) -> tuple[Float[Tensor, " z"], Float[Tensor, "z z"], Float[Tensor, " z"]]:
    """Return the mean, the orthonormal axes (rows, widest spread first) and the spread along each."""
    exact = flat.double()
    mean = exact.mean(0)
    values, vectors = torch.linalg.eigh((exact - mean).T @ (exact - mean) / len(flat))
    axes = vectors.T.flip(0)
    # An axis has no direction of its own: its largest part points up, or another LAPACK would give other codes.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign()
    return mean.float(), axes.float(), values.flip(0).clamp(min=0).sqrt().float()


def optimise(
    module: nn.Module, flat: Float[Tensor, "m z"], loss: Callable[[Float[Tensor, "m z"]], Float[Tensor, ""]]
) -> None:
    """Take `STEPS` of AdamW on random batches: linear warm-up, then a cosine to zero; leaves eval mode behind."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=0.0, betas=(0.9, 0.99))
    module.train()
    for step in range(STEPS):
        share = min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = LR * share
        batch = flat[torch.randint(len(flat), (min(BATCH, len(flat)),))]
        optimizer.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval()


def fitted(
    chunks: Chunks, seed: int, build: Callable[[Reach], M], learn: Callable[[M, Float[Tensor, "m z"]], None]
) -> tuple[Reach, M]:
    """Check chunks, build a module for their shape and let it learn, from the seed alone.

    Raises:
        ConfigError: the module would be too large to be written.
        DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
    """
    reach = Reach.of(chunks, LIMIT)
    if len(chunks) > MOST_CHUNKS:
        chunks = [chunks[i] for i in np.linspace(0, len(chunks) - 1, MOST_CHUNKS).astype(int)]
    with torch.device("meta"):
        count = _count(build(reach))
    if count > MOST_WEIGHTS:
        raise ConfigError(
            "model.tokenizer",
            f"{count:,} weights for chunks of {reach.horizon} steps x {reach.action_dim} dimensions",
            f"at most {MOST_WEIGHTS:,}",
            "Lower the horizon, quantizer.size, quantizer.num_levels or num_vectors.",
        )
    flat = flatten(stack(chunks, reach.horizon, reach.action_dim, numbered=True))
    with isolated(key(seed, "action codes")):
        module = build(reach)
        learn(module, flat)
    return reach, module.eval().requires_grad_(False)


def to_json(config: Config, reach: Reach, module: nn.Module) -> dict[str, Any]:
    """Return the settings, the reach and the weights."""
    return {"config": config.model_dump(mode="json"), "reach": reach.to_json(), "weights": to_text(module)}


def to_text(module: nn.Module) -> str:
    """Return all weights and buffers as base64 of little-endian float32, in the order of the state dict."""
    numbers = [value.detach().float().numpy().ravel() for value in module.state_dict().values()]
    return base64.b64encode(np.concatenate(numbers).astype("<f4").tobytes()).decode("ascii")


def from_text(build: Callable[[], M], text: Any) -> M:
    """Build a module and give it what `to_text` wrote.

    Its size is worked out without memory and compared with the text first, so that a file cannot ask for more memory
    than it has bytes.

    Raises:
        ValueError: not what it wrote.
    """
    with torch.device("meta"):
        count = _count(build())
    length = 4 * -(-4 * count // 3)
    if count > MOST_WEIGHTS or not isinstance(text, str) or len(text) != length:
        found = f"{len(text):,} characters" if isinstance(text, str) else type(text).__name__
        raise ValueError(f"weights of {found} where {length:,} characters belong")
    numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if len(numbers) != count or not (np.abs(numbers) <= LARGEST).all():  # also where one is NaN
        raise ValueError("weights that no fit makes")
    module, begin = build(), 0
    for value in module.state_dict().values():
        part = torch.from_numpy(numbers[begin : begin + value.numel()].astype(np.float32))
        value.copy_(part.view(value.shape))
        begin += value.numel()
    return module.eval().requires_grad_(False)


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.state_dict().values())
