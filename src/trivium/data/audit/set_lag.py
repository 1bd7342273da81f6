"""The lag of a whole set, where no episode can serve as reference for the others.

State and action: what action[t] adds to the state's own motion in foretelling the state's change. That is greatest at
the change it causes, from frame t to t+1, however sluggish the arm: a plain correlation peaks later, by its inertia.
Pictures and state: what changed from one picture to the next foretells the change of the state between them best.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trivium.data.audit.pair import LAGS, fold_fit
from trivium.data.audit.recording import Recording

MEMORY = 4
"""Changes of the state that stand for its own motion."""
LEAST_SHARE = 0.02
"""R2 below which a peak says nothing."""
LEAST_ROWS = 100
BOOTSTRAPS = 200


@dataclass(frozen=True)
class SetLag:
    """The lag of one pair of streams over a whole set."""

    peak: int
    confidence: float
    """Share of bootstraps over episodes that have the same peak."""
    r2: tuple[float, ...]
    """By lag, from `LAGS`."""
    reason: str = ""
    """Why it cannot be told; empty where it can."""


def action_lag(seen: Recording) -> SetLag:
    """Return the lag at which actions move the state; 1 where action[t] moves it from frame t to frame t+1."""
    state = _unit(seen.state)
    action = _unit(seen.action)
    if not action.shape[1] or not state.shape[1]:
        return _cannot("state or action never changes")
    lags = [int(lag) + 1 for lag in LAGS]
    first, last = MEMORY, max(-min(lags), 0) + 1
    errors = []
    groups = []
    for span in seen.spans():
        change = np.diff(state[span], axis=0)
        j = np.arange(max(first, max(lags)), len(change) - last)
        if len(j) < 2:
            continue
        own = np.concatenate([change[j - i] for i in range(1, MEMORY)], axis=1)
        groups.append((own, change[j], [action[span][j - lag + 1] for lag in lags]))
    if len(groups) < 2 or sum(len(own) for own, _, _ in groups) < LEAST_ROWS:
        return _cannot("too few frames in too few episodes")
    base = _misses([own for own, _, _ in groups], [y for _, y, _ in groups])
    for place in range(len(lags)):
        errors.append(_misses([np.concatenate([own, a[place]], 1) for own, _, a in groups], [y for _, y, _ in groups]))
    return _peak(np.broadcast_to(base, (len(lags), *base.shape)), np.stack(errors), lags)


def picture_lag(seen: Recording, picture: list[Float[np.ndarray, "_ c"]]) -> SetLag:
    """Return by how many frames the state follows the pictures; 0 where they are in step."""
    state = _unit(seen.state)
    if not state.shape[1]:
        return _cannot("the state never changes")
    reach = int(LAGS[-1])
    inputs, targets = [], []
    for span, parts in zip(seen.spans(), picture, strict=True):
        change, moved = np.diff(state[span], axis=0), np.diff(parts, axis=0)
        t = np.arange(reach, len(change) - reach)
        if len(t) >= 2:
            inputs.append(np.concatenate([parts[t], moved[t]], axis=1))
            targets.append(np.concatenate([change[t + lag] for lag in LAGS], axis=1))
    if len(inputs) < 8 or sum(len(x) for x in inputs) < LEAST_ROWS:
        return _cannot("too few frames in too few episodes")
    predicted = fold_fit(inputs, targets)
    shape = (len(LAGS), state.shape[1])
    miss = np.stack([((y - p) ** 2).sum(0).reshape(shape) for y, p in zip(targets, predicted, strict=True)])
    whole = np.stack([(y**2).sum(0).reshape(shape) for y in targets])
    return _peak(whole.transpose(1, 0, 2), miss.transpose(1, 0, 2), [int(lag) for lag in LAGS])


def _unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    spread = values.std(0)
    return ((values - values.mean(0)) / np.where(spread > 0, spread, 1.0))[:, spread > 1e-9]


def _misses(x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """Return the squared errors of a linear fit, by episode and dimension."""
    a = np.concatenate([np.concatenate(x), np.ones((sum(map(len, x)), 1))], axis=1)
    b = np.concatenate(y)
    fit = np.linalg.solve(a.T @ a + 1e-6 * len(a) * np.eye(a.shape[1]), a.T @ b)
    miss = (b - a @ fit) ** 2
    borders = np.cumsum([0, *map(len, x)])[:-1]
    return np.add.reduceat(miss, borders, axis=0)


def _peak(whole: np.ndarray, errors: np.ndarray, lags: list[int]) -> SetLag:
    """Find the lag whose errors (lags, episodes, dimensions) take most away from the whole (episodes, dimensions)."""

    def shares(chosen: np.ndarray) -> np.ndarray:
        total = whole[:, chosen].sum(1)
        return np.where(total > 0, 1 - errors[:, chosen].sum(1) / np.where(total > 0, total, 1.0), 0.0).mean(1)

    everyone = np.arange(whole.shape[1])
    r2 = shares(everyone)
    peak = int(r2.argmax())
    if r2[peak] < LEAST_SHARE:
        return _cannot(f"one says too little about the other (R2 {r2[peak]:.3f} at best)")
    rng = np.random.default_rng(0)
    same = [int(shares(rng.choice(everyone, len(everyone))).argmax()) == peak for _ in range(BOOTSTRAPS)]
    return SetLag(lags[peak], float(np.mean(same)), tuple(float(x) for x in r2))


def _cannot(reason: str) -> SetLag:
    return SetLag(0, 0.0, (), reason)
