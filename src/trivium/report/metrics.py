"""metrics.jsonl by stage: a column a number, thinned for drawing, with sums that are exact."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

MAX_POINTS = 400
"""Points of one line in a plot: more would only make the page heavy."""


@dataclass(eq=False)
class StageMetrics:
    """The steps of one stage; a value that was not logged, or was not finite, is NaN."""

    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    lrs: dict[str, list[float]] = field(default_factory=dict)
    grad_norms: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    data_waits: list[float] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    """Realised tokens by "bucket/modality"."""
    skipped: int = 0
    """Steps of this run refused so far because loss or gradient was not finite."""

    def add(self, line: dict[str, Any]) -> None:
        """Take one step in, or nothing of it when a part is not what it should be."""
        losses, lrs = _numbers(line["loss"]), _numbers(line.get("lr", {}))
        single = [_number(line.get(name)) for name in ("grad_norm", "tokens_per_s", "data_wait")]
        tokens = {name: int(number) for name, number in line.get("tokens", {}).items()}
        step, skipped = int(line["step"]), int(line.get("skipped", 0))
        for columns, values in ((self.losses, losses), (self.lrs, lrs)):
            for name in sorted(columns.keys() | values.keys()):
                columns.setdefault(name, [math.nan] * len(self.steps)).append(values.get(name, math.nan))
        for column, value in zip((self.grad_norms, self.tokens_per_s, self.data_waits), single, strict=True):
            column.append(value)
        self.steps.append(step)
        self.tokens.update(tokens)
        self.skipped = max(self.skipped, skipped)

    def by(self, part: int) -> Counter[str]:
        """Sum the tokens by bucket (part 0) or by modality (part 1)."""
        summed: Counter[str] = Counter()
        for name, number in self.tokens.items():
            bucket, _, modality = name.partition("/")
            summed[modality if part else bucket] += number
        return summed

    def last(self, name: str) -> float:
        """Mean of the last tenth of a loss (20 steps at least): one step alone is noise."""
        return _mean(self.losses[name][-max(20, len(self.steps) // 10) :])

    def first(self, name: str) -> float:
        """Mean of the first logged steps of a loss, as few as five."""
        values = np.array(self.losses[name], float)
        return _mean(values[np.isfinite(values)][:5])

    @property
    def mean_speed(self) -> float:
        """Tokens per second over the stage, the first tenth (warming up) apart."""
        return _mean(self.tokens_per_s[len(self.tokens_per_s) // 10 :])

    @property
    def mean_wait(self) -> float:
        """Share of time waiting for data."""
        return _mean(self.data_waits[len(self.data_waits) // 10 :])


def thin(steps: list[int], values: list[float]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Average a long line into at most `MAX_POINTS` points; NaN counts for nothing, and stays where it is alone."""
    x, y = np.array(steps, float), np.array(values, float)
    if len(x) <= MAX_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[part].mean() for part in parts]), np.array([_mean(y[part]) for part in parts])


def smooth(values: Float[np.ndarray, " n"], share: float = 0.05) -> Float[np.ndarray, " n"]:
    """Average over a window of about `share` of the line, centred, cut off at the ends."""
    half = max(1, round(len(values) * share / 2))
    return np.array([_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def read_metrics(path: Path, problems: list[str]) -> dict[str, StageMetrics]:
    """Read all steps by stage; lines that are none are counted into a sentence."""
    stages: dict[str, StageMetrics] = {}
    if not path.is_file():
        problems.append("metrics.jsonl is not there: nothing has been trained yet, so there are no losses to draw.")
        return stages
    bad: list[int] = []
    with path.open(errors="replace") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                stage = stages.get(line["stage"], StageMetrics())
                stage.add(line)
                stages[line["stage"]] = stage
            except (ValueError, KeyError, TypeError, AttributeError):
                bad.append(number)
    if bad:
        problems.append(
            f"metrics.jsonl: {len(bad)} lines cannot be read (the first is line {bad[0]}) and are left out."
        )
    return stages


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Any) -> float:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
