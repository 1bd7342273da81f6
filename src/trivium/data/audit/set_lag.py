"""The lag of a whole set, where no episode can serve as reference for the others.

State and action: what action[t] adds to the state's own motion in foretelling the state's change. That is greatest at
the change it causes, from frame t to t+1, however sluggish the arm: a plain correlation peaks later, by its inertia.
Pictures and state: what changed from one picture to the next foretells the change of the state between them best, and
the other way round. Each way alone leans to one side (an expert's next motion can be read from where it is); together
they do not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trivium.data.audit.pair import LAGS, ZERO, feature_map, fold_fit, fold_predict
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
    return _peak([(base[None], np.stack(errors))], lags)


def picture_lag(seen: Recording, picture: list[Float[np.ndarray, "_ c"]]) -> SetLag:
    """Return by how many frames the state follows the pictures; 0 where they are in step."""
    state = _unit(seen.state)
    if not state.shape[1]:
        return _cannot("the state never changes")
    reach = int(LAGS[-1])
    looks, moves, rows, changes, times = [], [], [], [], []
    for span, parts in zip(seen.spans(), picture, strict=True):
        change, moved = np.diff(state[span], axis=0), np.diff(parts, axis=0)
        t = np.arange(reach, len(change) - reach)
        if len(t) >= 2:
            looks.append(np.concatenate([parts[t], moved[t]], axis=1))
            moves.append(moved[t])
            rows.append(np.concatenate([state[span][:-1], change], axis=1))
            changes.append(change)
            times.append(t)
    if len(looks) < 8 or sum(len(x) for x in looks) < LEAST_ROWS:
        return _cannot("too few frames in too few episodes")
    sought = [np.concatenate([c[t + lag] for lag in LAGS], axis=1) for c, t in zip(changes, times, strict=True)]
    shape = (len(LAGS), state.shape[1])
    found = fold_fit(looks, sought)
    forward = np.stack([((y - p) ** 2).sum(0).reshape(shape) for y, p in zip(sought, found, strict=True)], axis=1)
    own = np.stack([(y**2).sum(0).reshape(shape) for y in sought], axis=1)
    most = float((1 - forward.sum(1) / np.maximum(own.sum(1), 1e-12)).mean(1).max())
    if most < LEAST_SHARE:
        return _cannot(f"one says too little about the other (R2 {most:.3f} at best)")
    feature = feature_map(np.concatenate(rows))
    left = [feature(x) for x in rows]
    backward = []
    for lag in LAGS:
        found = fold_predict([x[t + lag] for x, t in zip(left, times, strict=True)], moves)
        backward.append(np.stack([((y - p) ** 2).sum(0) for y, p in zip(moves, found, strict=True)]))
    shown = np.stack([(y**2).sum(0) for y in moves])
    # Squared errors are compared, not shares of each lag's own variance: over shifted frames that changes by itself.
    return _peak([(own[[ZERO]], forward), (shown[None], np.stack(backward))], [int(lag) for lag in LAGS])


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


def _peak(evidence: list[tuple[np.ndarray, np.ndarray]], lags: list[int]) -> SetLag:
    """Find the lag whose errors (lags, episodes, dimensions) take most away from the whole (1, episodes, dimensions).

    There may be a second way to look; it counts only where it says anything.
    """

    def ways(chosen: np.ndarray) -> list[np.ndarray]:
        parts = []
        for whole, errors in evidence:
            total = whole[:, chosen].sum(1)
            share = 1 - errors[:, chosen].sum(1) / np.where(total > 0, total, np.inf)
            parts.append(np.where(total > 0, share, 0.0).mean(1))
        return parts

    def peak_of(parts: list[np.ndarray]) -> int:
        """Count each way alike, however much of its own target it explains."""
        total = np.sum([part / max(float(part.max()), 1e-9) for part in parts], axis=0)
        return int(total.argmax())

    everyone = np.arange(evidence[0][1].shape[1])
    parts = ways(everyone)
    most = float(parts[0].max())
    if most < LEAST_SHARE:
        return _cannot(f"one says too little about the other (R2 {most:.3f} at best)")
    evidence = [it for it, part in zip(evidence, parts, strict=True) if part.max() >= LEAST_SHARE]
    parts = ways(everyone)
    peak = peak_of(parts)
    rng = np.random.default_rng(0)
    drawn = [lags[peak_of(ways(rng.choice(everyone, len(everyone))))] for _ in range(BOOTSTRAPS)]
    same = float(np.mean(np.array(drawn) == lags[peak]))
    return SetLag(lags[peak], same, tuple(float(x) for x in np.mean(parts, axis=0)))


def _cannot(reason: str) -> SetLag:
    return SetLag(0, 0.0, (), reason)
