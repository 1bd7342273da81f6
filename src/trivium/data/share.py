"""Sharing the rows of a batch among ranks, so that none waits long for another."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from trivium.core.errors import ConfigError

ATTENTION_TOKENS = 24_576
"""Length of a document whose attention costs as much as all its other arithmetic: 12 times the width of the model for
causal attention (2 n^2 d against 24 n d^2 multiplications and additions in a layer), here for a width of 2,048."""
IMAGE_TOKENS = 150
"""Tokens that one picture costs the vision encoder: 1,024 patches through 300 M parameters, against 2 B a token."""


class Pack(list[tuple[str, int]]):
    """Samples of one row: name of the bucket and number within its source; `work` is what the row costs a rank."""

    def __init__(self, samples: Sequence[tuple[str, int]], work: float) -> None:
        """Hold the samples and their cost.

        Args:
            samples: in the order of the row.
            work: as `work` says, in tokens.
        """
        super().__init__(samples)
        self.work = work


def work(lengths: Integer[np.ndarray, " n"], images: Integer[np.ndarray, " n"]) -> float:
    """Return the cost of a row beyond the fixed cost of its length, in tokens' worth of arithmetic.

    Attention is block-diagonal, so it costs the sum of the squares of the documents' lengths; the rest of the trunk
    costs its tokens; the vision encoder costs its pictures. Rows are equally long, yet full ones hold more targets.
    """
    size = lengths.astype(np.float64)
    return float(size.sum() + (size**2).sum() / ATTENTION_TOKENS + IMAGE_TOKENS * int(images.sum(dtype=np.int64)))


def share(rows: Sequence[Pack], rank: int, world: int) -> list[Pack]:
    """Return the rows of one rank: as many as every other rank gets, and about as much work.

    The costliest row goes first, each to the rank with the least work that still has room (longest processing time
    first). Every rank works the same split out for itself; all ranks together hold exactly `rows`, each once, and
    within a rank they keep their order.

    Args:
        rows: a whole micro-batch, as `Plan.batch` returns it.
        rank: this process, from 0.
        world: number of processes.

    Raises:
        ConfigError: the rows cannot be shared equally.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    if len(rows) % world:
        fits = [number for number in range(1, len(rows) + 1) if len(rows) % number == 0]
        raise ConfigError(
            "mixture.rows_per_batch",
            f"{len(rows)} rows for {world} processes",
            f"a multiple of {world}: every process takes as many rows",
            f"Change rows_per_batch, or start one of {', '.join(map(str, fits))} processes.",
        )
    loads, chosen = [0.0] * world, [list[int]() for _ in range(world)]
    for j in sorted(range(len(rows)), key=lambda j: (-rows[j].work, j)):
        free = (r for r in range(world) if len(chosen[r]) < len(rows) // world)
        least = min(free, key=lambda r: (loads[r], r))
        loads[least] += rows[j].work
        chosen[least].append(j)
    return [rows[j] for j in sorted(chosen[rank])]
