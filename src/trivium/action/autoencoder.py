"""What learned codes of action chunks have in common: checked chunks, a network that starts as a linear code, a fit.

These are fitted before the run, as FAST is, and not in a stage: an id must mean the same motion in every stage and on
the robot, so the codes are frozen before anything reads them; and it takes seconds, where a stage would need a plan,
checkpoints and a place among the weights of every later one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from trivium.core.errors import CheckpointError, DataError
from trivium.core.rng import isolated, key

LIMIT = 1.5
"""Normalised actions are clipped to this, both ways, as FAST's are: most of what lies beyond is noise."""
LONGEST = 4096
"""Most steps or dimensions of a chunk: a file that asks for more is damaged, and would take the memory."""
HIDDEN = 256
BATCH = 512
STEPS = 1000
LR = 1e-3
WARMUP = 50
MOST_CHUNKS = 100_000
"""More are thinned out evenly before fitting; the fit would not see them all anyway."""

Chunks = Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]


def stacked(chunks: Chunks, shape: tuple[int, int] | None = None) -> Float32[np.ndarray, "m k a"]:
    """Return chunks as one array, all of the shape of the first where none is given.

    Raises:
        DataError: there are none where a shape is wanted, one has another shape, or holds NaN or infinity.
    """
    if shape is None:
        if not len(chunks):
            raise DataError("fit of action codes", "no chunks", "at least one", "Give a source that has actions.")
        first = np.shape(chunks[0])
        if len(first) != 2 or not 1 <= min(first) <= max(first) <= LONGEST:
            expected = f"steps x dimensions, 1 to {LONGEST} of each"
            raise DataError("action chunk 0", f"shape {first}", expected, "Change the horizon of the source.")
        shape = (first[0], first[1])
    for number, chunk in enumerate(chunks):
        if np.shape(chunk) != shape:
            raise DataError(
                f"action chunk {number}",
                f"shape {np.shape(chunk)}",
                f"{shape}, steps x dimensions",
                "Use one horizon in the source, the codes and the action head, and fit codes for every robot.",
            )
    many = np.asarray(chunks, np.float32).reshape(-1, *shape)
    if not np.isfinite(many).all():
        number, step, dim = (int(place) for place in np.argwhere(~np.isfinite(many))[0])
        raise DataError(
            f"action chunk {number}",
            f"{many[number, step, dim]} at step {step}, dimension {dim}",
            "finite numbers",
            "Mend or drop the episode; nothing is filled in.",
        )
    return many


def flatten(chunks: Float32[np.ndarray, "m k a"]) -> Float[Tensor, "m z"]:
    """Clip chunks to the limit and lay each out as one vector, step by step."""
    return torch.from_numpy(chunks.clip(-LIMIT, LIMIT).reshape(len(chunks), -1))


def unflatten(flat: Float[Tensor, "m z"], horizon: int) -> Float32[np.ndarray, "m k a"]:
    """Lay vectors out as chunks again, within the limit."""
    return flat.clamp(-LIMIT, LIMIT).reshape(len(flat), horizon, -1).float().numpy()


class Bent(nn.Module):
    """A linear map, and beside it a perceptron that starts at zero: so learning begins where linear codes end."""

    def __init__(self, width_in: int, width_out: int) -> None:
        """Build; `straight` is set by the caller."""
        super().__init__()
        self.straight = nn.Linear(width_in, width_out)
        self.bend = nn.Sequential(
            nn.Linear(width_in, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width_out)
        )
        nn.init.zeros_(self.bend[-1].weight)
        nn.init.zeros_(self.bend[-1].bias)

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


def fitted(chunks: Chunks, seed: int, make: Callable[[Float[Tensor, "m z"], int], nn.Module]) -> nn.Module:
    """Check chunks and make a module of them and their horizon, from the seed alone.

    Raises:
        DataError: there are none, they differ in shape, or one holds NaN or infinity.
    """
    many = stacked(chunks)
    if len(many) > MOST_CHUNKS:
        many = many[np.linspace(0, len(many) - 1, MOST_CHUNKS).astype(int)]
    with isolated(key(seed, "action codes")):
        return make(flatten(many), many.shape[1])


def mean_error(painted: Float[Tensor, "m z"], true: Float[Tensor, "m z"]) -> Float[Tensor, ""]:
    """Return the mean squared error."""
    return F.mse_loss(painted, true)


def check_robot(where: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Refuse codes that were fitted on chunks of another shape.

    Raises:
        CheckpointError: they are another robot's, or of another horizon.
    """
    if found != wanted:
        raise CheckpointError(
            where,
            f"codes of chunks of {found[0]} steps x {found[1]} dimensions",
            f"{wanted[0]} x {wanted[1]}: the file belongs to another robot or another horizon",
            "Fit codes again: it takes seconds from the training chunks.",
        )
