"""The gradient of one step: micro-batches and ranks add up to what one big batch would give."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trivium.core.batch import Batch
from trivium.core.objective import Losses, Objective
from trivium.train import parallel
from trivium.train.optim import Optimizer


class Seen(NamedTuple):
    """What a step saw on its way, over all micro-batches and ranks."""

    total: float
    loss: dict[str, float]
    """Mean by name; a loss that nothing counted for is left out."""
    tokens: dict[str, int]


def differentiate(objective: Objective, micro_batches: Sequence[Batch], optimizer: Optimizer) -> Seen:
    """Leave the gradient of the whole step in the optimizer.

    All counts are known before the first backward, so that each micro-batch is divided by the count of the whole
    step; a mean of means would give a short micro-batch the weight of a long one.
    """
    expected = [objective.counts(batch) for batch in micro_batches]
    counts = parallel.sum_over_ranks(_added(expected))
    parts: list[dict[str, float]] = []
    for batch, count in zip(micro_batches, expected, strict=True):
        losses = objective(batch)
        _check_counts(losses, count, objective)
        total = losses.total(counts)
        if total.requires_grad:  # not so when nothing that learns took part: a batch of text alone, in a vision stage
            total.backward()
        optimizer.accumulate()
        sums = {f"sum/{name}": loss.sum.item() for name, loss in losses.items()}
        numbers = {f"count/{name}": float(loss.count) for name, loss in losses.items()}
        tokens = {f"tokens/{name}": float(number) for name, number in batch.token_counts.items()}
        parts.append({"total": total.item()} | sums | numbers | tokens)
    return _seen(parallel.sum_over_ranks(_added(parts)))


def _seen(added: Mapping[str, float]) -> Seen:
    by_kind: dict[str, dict[str, float]] = {"sum": {}, "count": {}, "tokens": {}}
    for name, value in added.items():
        kind, slash, rest = name.partition("/")
        if slash:
            by_kind[kind][rest] = value
    counts = by_kind["count"]
    loss = {name: value / counts[name] for name, value in by_kind["sum"].items() if counts[name]}
    return Seen(added["total"], loss, {name: int(number) for name, number in by_kind["tokens"].items()})


def _check_counts(losses: Losses, expected: Mapping[str, float], objective: Objective) -> None:
    for group, count in losses.counts().items():
        assert math.isclose(count, expected.get(group, 0.0), rel_tol=1e-6, abs_tol=1e-9), (
            f"{type(objective).__name__}: counts() says {expected.get(group, 0.0)} for group {group!r}, "
            f"but forward counted {count}: every gradient would be scaled wrongly"
        )


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)  # type: ignore[arg-type]
    return dict(total)
