"""Statistics of numeric columns per robot and dimension, from the tables alone: no video is decoded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from trivium.core.errors import DataError
from trivium.data.source.source import Source

MOMENTS = ("mean", "std", "min", "max", "q01", "q99")


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnStats:
    """What one column of one robot looks like, dimension by dimension, in the column's own units."""

    names: tuple[str, ...]
    count: int
    mean: Float[np.ndarray, " d"]
    std: Float[np.ndarray, " d"]
    min: Float[np.ndarray, " d"]
    max: Float[np.ndarray, " d"]
    q01: Float[np.ndarray, " d"]
    q99: Float[np.ndarray, " d"]

    def range(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Return the bounds to normalise by: q01..q99, or min..max where the quantiles coincide (a rare event)."""
        narrow = ~_apart(self.q01, self.q99)
        return np.where(narrow, self.min, self.q01), np.where(narrow, self.max, self.q99)

    def moving(self) -> Bool[np.ndarray, " d"]:
        """Tell which dimensions ever move."""
        return _apart(self.min, self.max)

    def constant(self) -> tuple[str, ...]:
        """Return the names of dimensions that never move, for a report: they carry nothing to learn from."""
        return tuple(name for name, moves in zip(self.names, self.moving(), strict=True) if not moves)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON value that `from_dict` reads back exactly."""
        moments = {name: np.asarray(getattr(self, name), np.float64).tolist() for name in MOMENTS}
        return {"names": list(self.names), "count": self.count, **moments}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ColumnStats":
        """Read what `to_dict` wrote."""
        moments = {name: np.asarray(value[name], np.float64) for name in MOMENTS}
        return cls(names=tuple(value["names"]), count=int(value["count"]), **moments)


Stats = Mapping[str, Mapping[str, ColumnStats]]
"""By embodiment, then by column ("state", "action")."""


def measure(parts: Iterable[tuple[Source, Int[np.ndarray, " _"]]]) -> dict[str, dict[str, ColumnStats]]:
    """Measure every numeric column, pooled over the sources of one robot.

    Args:
        parts: sources with the samples to count (the training side of a split).

    Raises:
        DataError: two sources of one robot disagree about the dimensions of a column.
    """
    pooled: dict[tuple[str, str], list[tuple[Source, np.ndarray]]] = {}
    for source, samples in parts:
        for column, values in source.columns().items():
            pooled.setdefault((source.embodiment, column), []).append((source, values[samples]))
    stats: dict[str, dict[str, ColumnStats]] = {}
    for (embodiment, column), found in pooled.items():
        stats.setdefault(embodiment, {})[column] = _measure(embodiment, column, found)
    return stats


def to_json(stats: Stats) -> dict[str, Any]:
    """Return a JSON value that `from_json` reads back exactly; a served model carries it."""
    return {robot: {name: column.to_dict() for name, column in columns.items()} for robot, columns in stats.items()}


def from_json(value: Mapping[str, Any]) -> dict[str, dict[str, ColumnStats]]:
    """Read what `to_json` wrote."""
    return {
        robot: {name: ColumnStats.from_dict(column) for name, column in columns.items()}
        for robot, columns in value.items()
    }


def _measure(embodiment: str, column: str, found: list[tuple[Source, np.ndarray]]) -> ColumnStats:
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
    values = np.concatenate([part for _, part in found]).astype(np.float64)
    if not len(values):
        raise DataError(
            f"source {first.name}: {column}", "no samples to measure", "at least one", "Raise the share of this split."
        )
    q01, q99 = np.quantile(values, (0.01, 0.99), axis=0)
    return ColumnStats(
        names=names,
        count=len(values),
        mean=values.mean(0),
        std=values.std(0),
        min=values.min(0),
        max=values.max(0),
        q01=q01,
        q99=q99,
    )


def _apart(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Tell where two bounds differ by more than float32 can blur."""
    return high - low > 1e-6 * np.maximum(1e-3, np.maximum(np.abs(low), np.abs(high)))
