"""Learning curves over training-set sizes, with intervals from resampling test episodes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict


class Estimate(BaseModel):
    """A number with the 95 % interval of its bootstrap."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Print as `0.21 [0.15, 0.27]`."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, eq=False)
class Shares:
    """Loss of a probe by test episode, and the loss of the dull answer: score = mean over o of 1 - loss / dull.

    For a regression these are squared errors and squared distances from the task's mean (the score is R2, and
    knowing only the task scores 0); for a classification, wrong answers and answers (the score is accuracy).
    """

    loss: Float[np.ndarray, "e o"]
    dull: Float[np.ndarray, "e o"]

    def score(self, weights: Float[np.ndarray, "r e"]) -> Float[np.ndarray, " r"]:
        """Score under every row of episode weights."""
        return (1 - (weights @ self.loss) / np.maximum(weights @ self.dull, 1e-300)).mean(1)


def resample(fold_of_episode: Int[np.ndarray, " e"], count: int, rng: np.random.Generator) -> Float[np.ndarray, "r e"]:
    """Draw episode weights; row 0 is all ones (the estimate itself), the others are bootstrap draws.

    Two levels: folds are drawn with replacement, then episodes in each. A fold is also a seed (its own training
    rows and initial weights), so luck in training widens the interval as luck in testing does.
    """
    folds = [np.flatnonzero(fold_of_episode == fold) for fold in np.unique(fold_of_episode)]
    weights = np.ones((count + 1, len(fold_of_episode)))
    times = rng.multinomial(len(folds), np.full(len(folds), 1 / len(folds)), size=count)
    for fold, members in enumerate(folds):
        draws = times[:, fold] * len(members)
        weights[1:, members] = rng.multinomial(draws, np.full(len(members), 1 / len(members)))
    return weights


def estimate(draws: Float[np.ndarray, " r"]) -> Estimate:
    """Turn scores under `resample` weights into a value and its 95 % interval."""
    low, high = np.percentile(draws[1:], (2.5, 97.5))
    return Estimate(value=float(draws[0]), low=float(low), high=float(high))


def aulc(sizes: Float[np.ndarray, " c"] | Int[np.ndarray, " c"], scores: Float[np.ndarray, "... c"]) -> np.ndarray:
    """Area under the learning curve over log size, divided by its width: the mean score while learning.

    AULC = 1 / (ln n_max - ln n_0) * integral of score d ln n, by trapezoids; one size alone is its own mean.
    """
    if len(sizes) == 1:
        return np.asarray(scores[..., 0])
    steps = np.log(sizes)
    return np.asarray(np.trapezoid(scores, steps, axis=-1) / (steps[-1] - steps[0]))


def log_sizes(smallest: int, largest: int, count: int) -> Int[np.ndarray, " c"]:
    """Space training-set sizes evenly in log n, ends included; fewer when they would fall together."""
    return np.unique(np.geomspace(min(smallest, largest), largest, count).round().astype(int))
