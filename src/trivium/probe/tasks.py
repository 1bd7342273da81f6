"""What a probe is asked to read off frozen features: positions, next commands, which task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from trivium.core.errors import DataError
from trivium.core.sample import Action, Sample

Second = Literal["error_cm", "mse", "none"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """One thing to predict, one row a sample; a regression has float columns, a classification one int.

    `second` is a figure in everyday units beside the score: the mean distance in cm (columns in metres) or the
    mean squared error (columns as they are). `valid` is False where a sample has no answer.
    """

    name: str
    values: Float[np.ndarray, "n o"] | Int[np.ndarray, " n"]
    second: Second = "none"
    valid: Bool[np.ndarray, " n"] = field(default_factory=lambda: np.ones(0, bool))

    def __post_init__(self) -> None:
        """Check the shapes; our own callers build targets, so a wrong one is our mistake."""
        assert self.values.ndim == (2 if self.is_regression else 1), f"{self.name}: values {self.values.shape}"
        assert len(self.valid) in (0, len(self.values)), f"{self.name}: {len(self.valid)} valid flags"

    @property
    def is_regression(self) -> bool:
        """True for float columns, False for class numbers."""
        return np.issubdtype(self.values.dtype, np.floating)

    @property
    def rows(self) -> Int[np.ndarray, " n"]:
        """Row numbers of the samples that have an answer."""
        return np.flatnonzero(self.valid) if len(self.valid) else np.arange(len(self.values))


def object_position(samples: Sequence[Sample], key: str = "object_position") -> Target:
    """Read where the object is (metres) from simulator truth; samples without it are left out of this target.

    Raises:
        DataError: no sample carries that truth.
    """
    found = [np.asarray(s.truth[key], np.float64).ravel() if key in s.truth else None for s in samples]
    width = max((len(row) for row in found if row is not None), default=0)
    if width == 0:
        keys = sorted({name for s in samples for name in s.truth})
        raise DataError(
            f"probe target 'object position' over {len(samples)} samples",
            f"no truth named '{key}' (there is: {', '.join(keys) or 'none'})",
            "simulator truth in at least some samples",
            "Record with `trivium demo-data`, or name another truth key.",
        )
    values = np.stack([np.full(width, np.nan) if row is None else row for row in found])
    return Target(name="object position", values=values, second="error_cm", valid=~np.isnan(values.sum(1)))


def next_actions(samples: Sequence[Sample]) -> Target:
    """Flatten the action chunk that follows each sample; chunks that run past the episode's end are left out.

    The commands are taken as the samples carry them: hand in normalised samples to weigh the dimensions alike.

    Raises:
        DataError: no sample carries a whole chunk.
    """
    chunks = [next(iter(s.of(Action)), None) for s in samples]
    whole = np.array([chunk is not None and bool(chunk.valid.all()) for chunk in chunks])
    if not whole.any():
        raise DataError(
            f"probe target 'next actions' over {len(samples)} samples",
            "no sample with a whole action chunk",
            "samples that carry an action chunk inside their episode",
            "Use a source with actions, or a horizon shorter than the episodes.",
        )
    shape = next(chunk.values.shape for chunk, good in zip(chunks, whole, strict=True) if good and chunk)
    rows = [
        chunk.values.astype(np.float64).ravel() if good and chunk is not None else np.zeros(int(np.prod(shape)))
        for chunk, good in zip(chunks, whole, strict=True)
    ]
    return Target(name="next actions", values=np.stack(rows), second="mse", valid=whole)


def task_identity(tasks: Int[np.ndarray, " n"]) -> Target:
    """Ask which task a sample belongs to (numbers 0, 1, ... in the caller's order)."""
    return Target(name="task identity", values=tasks.astype(np.int64))


def number_tasks(names: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Number task names by alphabetical order, so that the numbers do not depend on the order of samples."""
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([order[name] for name in names], np.int64)
