"""Sharing the rows of a batch among ranks."""

from collections.abc import Sequence

Pack = list[tuple[str, int]]


def share(rows: Sequence[Pack], rank: int, world: int) -> list[Pack]:
    """Return the rows of one rank."""
    assert 0 <= rank < world, f"rank {rank} of {world}"
    return list(rows[rank::world])
