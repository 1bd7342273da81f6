"""How well one stream of a set foretells another at every lag: the evidence behind each verdict on alignment.

What a stream does next is foretold from its own past and from the other stream, by ridge regression on random Fourier
features (Rahimi and Recht 2007, https://papers.nips.cc/paper/3182) fitted on other episodes of the same set. What is
left over follows a multivariate t law, so that the other stream, read some frames earlier or later, is more or less
likely in nats that add up over frames. Given the stream's own past most of what is left is what the other one adds, and
white noise in a demonstrator's hand says most of all. No model of robot, controller or camera is needed: the set is
its own reference.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LAGS = np.arange(-5, 6)
"""Frames by which a stream may be late."""
NUM_FEATURES = 400
"""Random features at most."""
LEAST_ERRORS = 3.0
"""Standard errors, over episodes, by which lag 0 must fit best of all; else one stream says nothing about the other."""
NUM_FOLDS = 4
MAX_ROWS = 20_000
"""Frames that a fit uses; beyond that more add time and no certainty."""
RIDGE = 1e-4
TAILS = 10.0
"""Degrees of freedom of what is left over: contacts and glitches are not normal."""
MOST_NATS = 4.0
"""What one frame of one pair may say."""
MOST_SPREAD = 4.0
"""Nats by which the variance of an error may differ from the usual one."""
LEAST_R2 = 0.05
"""Share of the variance that must be foretold."""
ZERO = int(np.flatnonzero(LAGS == 0)[0])

Streams = list[Float[np.ndarray, "_ _"]]
"""One stream by episode."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What every frame says for every lag, against lag 0."""

    nats: list[Float[np.ndarray, "_ k"]]
    """By episode: log-likelihood at each lag less that at lag 0, NaN where a window would leave the episode."""
    r2: float
    """Share of the variance that is foretold in episodes the fit has not seen."""


def evidence(x: Streams, y: Streams, own: int, ahead: int, moves: bool) -> Evidence | None:
    """Weigh at every frame what y does next, had x been recorded `lag` frames earlier; None where the set is too small.

    Args:
        x: by episode, the stream that foretells, from one frame before the present one to the last foretold.
        y: by episode, the stream foretold, given its value at the present frame.
        own: changes of y before the present frame that are given, too.
        ahead: changes of y after the next one that are foretold together with it; nats are divided among them.
        moves: take the present value of x and its changes, not its values.
    """
    after, before = max(ahead, 1), max(own, 1)
    told = [np.diff(b, axis=0) if moves else b for b in x]
    size = [len(b) for b in told]
    times = [np.arange(before, max(before, min(len(b) - 1 - ahead, n - after))) for b, n in zip(y, size, strict=True)]
    usable = [e for e in range(len(x)) if len(times[e]) > 4]
    if len(usable) < 2 * NUM_FOLDS:
        return None
    change = [np.diff(b, axis=0) for b in y]
    past = {e: np.concatenate([y[e][times[e]], *(change[e][times[e] - i - 1] for i in range(own))], 1) for e in usable}
    target = {e: np.concatenate([change[e][times[e] + i] for i in range(ahead + 1)], axis=1) for e in usable}

    def window(e: int, lag: int, rows: np.ndarray) -> np.ndarray:
        u = times[e][rows] - lag
        present = [x[e][u]] if moves else []
        return np.concatenate([past[e][rows], *present, *(told[e][u + i] for i in range(-1, after + 1))], axis=1)

    start = {e: window(e, 0, np.arange(len(times[e]))) for e in usable}
    features = feature_map(np.concatenate([start[e] for e in usable]))
    centre, spread = _moments(np.concatenate([target[e] for e in usable]))
    if not spread.any():
        return None
    right = {e: (target[e] - centre)[:, spread > 0] / spread[spread > 0] for e in usable}
    left = {e: features(start[e]) for e in usable}
    fits = _fits(usable, left, right)
    miss = {e: right[e] - left[e] @ fits[e] for e in usable}
    usual = _sizes(usable, left, miss)
    inverse, _ = precision(np.concatenate([miss[e] / usual[e] for e in usable]))
    nats = [np.full((len(b), len(LAGS)), np.nan) for b in x]
    for e in usable:
        for column, lag in enumerate(LAGS):
            u = times[e] - lag
            rows = np.flatnonzero((u >= 1) & (u + after < size[e]))
            off = right[e][rows] - features(window(e, int(lag), rows)) @ fits[e]
            nats[e][times[e][rows], column] = -surprise(off / usual[e][rows], inverse) / (ahead + 1)
        nats[e] = np.clip(nats[e] - nats[e][:, [ZERO]], -MOST_NATS, MOST_NATS)
    total = np.stack([np.nansum(nats[e], axis=0) for e in usable])[:, LAGS != 0]
    fits_best = (total.mean(0) < -LEAST_ERRORS * total.std(0) / np.sqrt(len(total))).all()
    left_over = float((np.concatenate([miss[e] for e in usable]) ** 2).mean())
    r2 = 1 - left_over / max(float(np.concatenate([right[e] for e in usable]).var(0).mean()), 1e-12)
    return Evidence(nats, r2) if fits_best and r2 >= LEAST_R2 else None


def _sizes(usable: list[int], left: dict, miss: dict) -> dict[int, np.ndarray]:
    """Foretell the size of the errors of every frame: free motion is foretold far better than a contact."""
    inverse, _ = precision(np.concatenate([miss[e] for e in usable]))
    size = {e: np.einsum("ij,jk,ik->i", miss[e], inverse, miss[e])[:, None] for e in usable}
    logs = {e: np.log(size[e] / miss[e].shape[1] + 1e-3) for e in usable}
    middle = float(np.median(np.concatenate([logs[e] for e in usable])))
    fits = _fits(usable, left, {e: logs[e] - middle for e in usable})
    return {e: np.exp(np.clip(left[e] @ fits[e], -MOST_SPREAD, MOST_SPREAD) / 2) for e in usable}


def surprise(miss: np.ndarray, inverse: np.ndarray) -> Float[np.ndarray, " n"]:
    """Return what errors cost under a t law, in nats, but for a constant."""
    distance = np.einsum("ij,jk,ik->i", miss, inverse, miss)
    return 0.5 * (TAILS + miss.shape[1]) * np.log1p(distance / TAILS)


def precision(miss: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the inverse of the errors' scatter and the scatter's log determinant; wild errors weigh little."""
    weight = np.ones(len(miss))
    d = miss.shape[1]
    for _ in range(4):
        covariance = (miss * weight[:, None]).T @ miss / len(miss)
        covariance += np.diag(0.02 * np.diag(covariance) + 1e-6)
        inverse = np.linalg.inv(covariance)
        weight = (TAILS + d) / (TAILS + np.einsum("ij,jk,ik->i", miss, inverse, miss))
    return inverse, float(np.linalg.slogdet(covariance)[1])


def fold_fit(x: Streams, y: Streams) -> Streams:
    """Predict y from x, frame by frame, each episode by a fit on the others (8 episodes or more)."""
    return fold_predict(list(map(feature_map(np.concatenate(x)), x)), y)


def fold_predict(left: Streams, y: Streams) -> Streams:
    """Do as `fold_fit` from features at hand."""
    fits = _fits(list(range(len(left))), dict(enumerate(left)), dict(enumerate(y)))
    return [values @ fits[e] for e, values in enumerate(left)]


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


def _fits(usable: list[int], left: dict, right: dict) -> dict[int, np.ndarray]:
    """Fit right from left, for every episode on others."""
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
    fits = {}
    for f, fold in enumerate(folds):
        others = [g for g in range(NUM_FOLDS) if g != f]
        gram = np.mean([grams[g] for g in others], axis=0)
        fit = np.linalg.solve(gram + RIDGE * np.eye(len(gram)), np.mean([crosses[g] for g in others], axis=0))
        fits |= dict.fromkeys(fold, fit)
    return fits
