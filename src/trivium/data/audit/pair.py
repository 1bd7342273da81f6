"""How well one stream of a set foretells another at every lag: the evidence behind each verdict on alignment.

A window of one stream (its value and its changes) predicts a window of the other by ridge regression on random
Fourier features (Rahimi and Recht 2007, https://papers.nips.cc/paper/3182), fitted on other episodes of the same set.
Where streams are in step, the prediction errs least at lag 0; an episode that errs less at lag 1 is out of step.
No model of robot, controller or camera is needed: the set is its own reference.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LAGS = np.arange(-5, 6)
"""Frames by which a stream may be late."""
NUM_FEATURES = 400
"""Random features at most."""
LEAST_R2 = 0.05
"""A stream that foretells less of another is not asked about it."""
NUM_FOLDS = 4
MAX_ROWS = 20_000
"""Frames that a fit uses; beyond that more add time and no certainty."""
RIDGE = 1e-4
ZERO = int(np.flatnonzero(LAGS == 0)[0])


@dataclass(frozen=True, eq=False)
class Evidence:
    """Extra prediction error of every frame at every lag, against lag 0."""

    excess: list[Float[np.ndarray, "_ k"]]
    """By episode: error at each lag minus error at lag 0, NaN where a window would leave the episode."""
    r2: float
    """Share of the predicted window's variance that the fit explains in episodes it has not seen."""


def evidence(
    x: list[Float[np.ndarray, "_ _"]], y: list[Float[np.ndarray, "_ _"]], before: int, after: int, reach: int
) -> Evidence | None:
    """Compare y, `lag` frames later, with what x foretells; None where the set is too small.

    Args:
        x: by episode, the stream that foretells; its changes from `before` frames ago to `after` ahead are used.
        y: by episode, the stream foretold; its changes within `reach` frames are.
        before: frames of x before the present one.
        after: frames of x after it.
        reach: frames of y before and after.
    """
    margin = max(before, after, reach)
    usable = [e for e in range(len(x)) if len(x[e]) > 2 * margin + 4]
    if len(usable) < 2 * NUM_FOLDS:
        return None
    times = {e: np.arange(margin, len(x[e]) - margin) for e in usable}
    inputs = {e: _window(x[e], times[e], before, after) for e in usable}
    targets = {e: _window(y[e], np.arange(reach, len(y[e]) - reach), reach, reach) for e in usable}
    features = feature_map(np.concatenate([inputs[e] for e in usable]))
    centre, spread = _moments(np.concatenate([targets[e] for e in usable]))
    if not spread.any():
        return None
    right = {e: (targets[e] - centre)[:, spread > 0] / spread[spread > 0] for e in usable}
    left = {e: features(inputs[e]) for e in usable}
    now = {e: right[e][margin - reach : margin - reach + len(times[e])] for e in usable}
    errors, r2 = _predict(usable, left, now)
    if r2 < LEAST_R2:
        return None
    scale = np.mean([np.mean((now[e] - errors[e]) ** 2, axis=0) for e in usable], axis=0) + 1e-3
    excess = [np.full((len(a), len(LAGS)), np.nan) for a in x]
    for e in usable:
        cost = np.full((len(x[e]), len(LAGS)), np.nan)
        for column, lag in enumerate(LAGS):
            t = times[e][(times[e] + lag >= reach) & (times[e] + lag < len(y[e]) - reach)]
            miss = right[e][t + lag - reach] - errors[e][t - margin]
            # The logarithm keeps one wild frame (a contact, a glitch) from deciding for the whole episode.
            cost[t, column] = 0.5 * np.log1p(miss**2 / scale).mean(1)
        excess[e] = cost - cost[:, [ZERO]]
    return Evidence(excess, r2)


def fold_fit(x: list[Float[np.ndarray, "_ _"]], y: list[Float[np.ndarray, "_ _"]]) -> list[Float[np.ndarray, "_ _"]]:
    """Predict y from x, frame by frame, each episode by a fit on the others (8 episodes or more)."""
    return fold_predict(list(map(feature_map(np.concatenate(x)), x)), y)


def fold_predict(left: list[Float[np.ndarray, "_ _"]], y: list[Float[np.ndarray, "_ _"]]) -> list[np.ndarray]:
    """Do as `fold_fit` from features at hand."""
    predicted, _ = _predict(list(range(len(left))), dict(enumerate(left)), dict(enumerate(y)))
    return [predicted[e] for e in range(len(left))]


def _window(values: np.ndarray, t: np.ndarray, before: int, after: int) -> np.ndarray:
    change = np.diff(values, axis=0)
    return np.concatenate([values[t], *(change[t + i] for i in range(-before, after))], axis=1)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = values.std(0)
    return values.mean(0), np.where(spread > 1e-6 * max(float(spread.max()), 1e-30), spread, 0.0)


def feature_map(rows: np.ndarray):
    """Return the map to standardised values, cosines of random mixtures, and a constant."""
    rng = np.random.default_rng(0)
    centre, spread = _moments(rows)
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    some = (rows[rng.choice(len(rows), min(len(rows), 300), replace=False)] - centre) * inverse
    distance = np.median(((some[:, None] - some[None, :60]) ** 2).sum(2)) if len(some) else 1.0
    number = int(np.clip(len(rows) // 8, 20, NUM_FEATURES))  # more would only fit the noise of a small set
    mixture = rng.standard_normal((rows.shape[1], number)) / np.sqrt(max(float(distance), 1e-6) / 2)
    phase = rng.uniform(0, 2 * np.pi, number)

    def features(values: np.ndarray) -> np.ndarray:
        z = (values - centre) * inverse
        waves = np.cos(z @ mixture + phase) * (3 * np.sqrt(2 / number))
        return np.concatenate([z, np.ones((len(z), 1)), waves], axis=1)

    return features


def _predict(usable: list[int], left: dict, right: dict) -> tuple[dict, float]:
    """Predict every episode by a fit on the others; return the predictions and the share of variance they explain."""
    rng = np.random.default_rng(1)
    folds = [usable[f::NUM_FOLDS] for f in range(NUM_FOLDS)]
    grams, crosses = [], []
    for fold in folds:
        a, b = np.concatenate([left[e] for e in fold]), np.concatenate([right[e] for e in fold])
        most = MAX_ROWS // NUM_FOLDS
        if len(a) > most:
            chosen = rng.choice(len(a), most, replace=False)
            a, b = a[chosen], b[chosen]
        grams.append(a.T @ a / len(a))
        crosses.append(a.T @ b / len(a))
    predicted = {}
    for f, fold in enumerate(folds):
        others = [g for g in range(NUM_FOLDS) if g != f]
        gram = np.mean([grams[g] for g in others], axis=0)
        fit = np.linalg.solve(gram + RIDGE * np.eye(len(gram)), np.mean([crosses[g] for g in others], axis=0))
        predicted |= {e: left[e] @ fit for e in fold}
    miss = np.concatenate([right[e] - predicted[e] for e in usable])
    whole = np.concatenate([right[e] for e in usable])
    return predicted, float(1 - (miss**2).mean() / max(float(whole.var(0).mean()), 1e-12))
