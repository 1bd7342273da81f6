"""Statistics of numeric columns per robot and dimension, from the tables alone: no video is decoded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from trivium.core.errors import DataError
from trivium.data.chain import Transform
from trivium.data.column import QUANTILES, ColumnStats
from trivium.data.quantile import quantiles
from trivium.data.source.source import Source

BLOCK = 1 << 18
"""Rows measured at once, so that memory is bounded. Up to so many rows, mean and standard deviation are NumPy's to the
bit; of more they are joined block by block. Quantiles are exact at any number."""
CHUNKS = 1 << 13
"""Action chunks rewritten at once."""

Part = tuple[Source, Int[np.ndarray, " _"]]
"""A source, and the samples of it that count."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """Mean, variance and bounds of some rows; those of several blocks, machines or sets join into one."""

    count: int
    mean: Float[np.ndarray, " d"]
    variance: Float[np.ndarray, " d"]
    min: Float[np.ndarray, " d"]
    max: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n d"]) -> "Moments":
        """Measure rows, in float64."""
        rows = rows.astype(np.float64)
        return cls(count=len(rows), mean=rows.mean(0), variance=rows.var(0), min=rows.min(0), max=rows.max(0))

    def join(self, other: "Moments") -> "Moments":
        """Return the moments of both together (Chan, Golub and LeVeque 1979): no sum of squares, nothing cancels."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        within = self.variance * (1 - share) + other.variance * share
        return Moments(
            count=count,
            mean=self.mean + apart * share,
            variance=within + apart**2 * (share * (1 - share)),
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
        )


def measure(parts: Iterable[Part], front: Transform | None = None) -> dict[str, dict[str, ColumnStats]]:
    """Measure every numeric column, pooled over the sources of one robot.

    Where a step rewrites the commands, every command of every chunk is measured as the step leaves it, so a command
    counts once for each chunk that holds it; otherwise each counts once, as recorded.

    Args:
        parts: sources with the samples to count (the training side of a split).
        front: the steps in front of the normalisation.

    Raises:
        DataError: two sources of one robot disagree about the dimensions of a column.
    """
    pooled: dict[tuple[str, str], list[Part]] = {}
    for source, samples in parts:
        for column in source.columns():
            pooled.setdefault((source.embodiment, column), []).append((source, samples))
    stats: dict[str, dict[str, ColumnStats]] = {}
    for (embodiment, column), found in pooled.items():
        stats.setdefault(embodiment, {})[column] = _measure(embodiment, column, found, front)
    return stats


def _measure(embodiment: str, column: str, found: Sequence[Part], front: Transform | None) -> ColumnStats:
    first = found[0][0]
    names = first.names(column)
    for source, _ in found[1:]:
        if source.names(column) != names:
            raise DataError(
                f"source {source.name}: {column} of robot {embodiment!r}",
                f"dimensions {source.names(column)}",
                f"{names}, as in source {first.name} of the same robot",
                "Give the sets different robot_type in meta/info.json, or bring them to the same dimensions.",
            )
    if not any(len(samples) for _, samples in found):
        raise DataError(
            f"source {first.name}: {column}", "no samples to measure", "at least one", "Raise the share of this split."
        )
    rewritten = front if column == "action" and front is not None and front.rewrites else None
    rows = partial(_blocks, column, found, rewritten)
    moments: Moments | None = None
    for block in rows():
        moments = Moments.of(block) if moments is None else moments.join(Moments.of(block))
    assert moments is not None, "no rows"
    by_share = quantiles(rows, list(QUANTILES.values()))
    return ColumnStats(
        names=names,
        count=moments.count,
        mean=moments.mean,
        std=np.sqrt(moments.variance),
        min=moments.min,
        max=moments.max,
        **dict(zip(QUANTILES, by_share, strict=True)),
    )


def _blocks(column: str, found: Sequence[Part], rewritten: Transform | None) -> Iterator[np.ndarray]:
    """Yield the rows of a column, `BLOCK` at a time whatever the sources, the last block shorter."""
    held: list[np.ndarray] = []
    for part in found:
        for rows in _rows(column, part, rewritten):
            held.append(rows)
            while sum(map(len, held)) >= BLOCK:
                joined = np.concatenate(held)
                yield joined[:BLOCK]
                held = [joined[BLOCK:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


def _rows(column: str, part: Part, rewritten: Transform | None) -> Iterator[np.ndarray]:
    source, samples = part
    if rewritten is None:
        values = source.columns()[column]
        for begin in range(0, len(samples), BLOCK):
            yield np.asarray(values[samples[begin : begin + BLOCK]], np.float32)
        return
    for begin in range(0, len(samples), CHUNKS):
        motion = rewritten.motion(source.motion(samples[begin : begin + CHUNKS]))
        yield motion.action[motion.valid]
