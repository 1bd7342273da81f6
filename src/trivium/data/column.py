"""Statistics of one numeric column, dimension by dimension, and how a file keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MOMENTS = ("mean", "std", "min", "max", *QUANTILES)


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
    q10: Float[np.ndarray, " d"]
    q50: Float[np.ndarray, " d"]
    q90: Float[np.ndarray, " d"]
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


def to_json(stats: Stats) -> dict[str, Any]:
    """Return a JSON value that `from_json` reads back exactly; a served model carries it."""
    return {robot: {name: column.to_dict() for name, column in columns.items()} for robot, columns in stats.items()}


def from_json(value: Mapping[str, Any]) -> dict[str, dict[str, ColumnStats]]:
    """Read what `to_json` wrote."""
    return {
        robot: {name: ColumnStats.from_dict(column) for name, column in columns.items()}
        for robot, columns in value.items()
    }


def _apart(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Tell where two bounds differ by more than float32 can blur."""
    return high - low > 1e-6 * np.maximum(1e-3, np.maximum(np.abs(low), np.abs(high)))
