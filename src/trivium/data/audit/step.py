"""Steps as stored and as they would be had frames been lost, and how well models of each kind explain them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import ExtraTreesClassifier

from trivium.data.audit.pair import NUM_FOLDS, RIDGE, Streams, feature_map, precision, surprise

MOST_LOST = 3
"""Frames lost at one place that are told apart; more look like as many."""
SIDE_FRAMES = 2
"""Changes on each side of a place that must be there to judge it."""
LEAST_MOTION = 5.0
"""Least change of state across lost frames, in times its usual unsteadiness, that the trees learn to see."""
SUSPECT = 4.0
"""Nats that a place must have in the eyes of the models before the trees are asked about its episode."""
MAX_STEPS = 20_000
"""Steps that the trees learn from; beyond that more add time and little else."""

View = Callable[[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def unit(values: np.ndarray) -> np.ndarray:
    """Divide by the spread of each dimension, and leave out what never changes."""
    spread = values.std(0, dtype=np.float64)
    return values[:, spread > 1e-9].astype(np.float64) / spread[spread > 1e-9]


def _changes(values: np.ndarray, t: np.ndarray, count: int, ahead: bool) -> list[np.ndarray]:
    if ahead:
        return [values[t + i + 1] - values[t + i] for i in range(count)]
    return [values[t - i] - values[t - i - 1] for i in range(count)]


def rows_lost(state: np.ndarray, action: np.ndarray, seen: list[np.ndarray], t: np.ndarray, lost: int):
    """Return what was up to frame t and what follows, had `lost` rows after t never been stored."""
    u = t + 1 + lost
    was = [state[t], *_changes(state, t, SIDE_FRAMES, False), *(action[t - i] for i in range(SIDE_FRAMES + 1))]
    then = [state[u] - state[t], *_changes(state, u, SIDE_FRAMES, True)]
    then += [action[u + i] for i in range(SIDE_FRAMES + 1)]
    for picture in seen:
        was += [picture[t], *_changes(picture, t, 1, False)]
        then += [picture[u] - picture[t], *_changes(picture, u, 1, True)]
    return np.concatenate(was, axis=1), np.concatenate(then, axis=1)


def pictures_lost(state: np.ndarray, action: np.ndarray, seen: list[np.ndarray], t: np.ndarray, lost: int):
    """Return what is known at frame t and the pictures that follow, had `lost` pictures after t never been stored."""
    u = t + 1 + lost
    was = [state[t], *_changes(state, t, SIDE_FRAMES, False), *_changes(state, t, SIDE_FRAMES, True)]
    was += [action[t + i] for i in range(-1, SIDE_FRAMES + 1)]
    then = []
    for picture in seen:
        was += [picture[t], *_changes(picture, t, 1, False)]
        then += [picture[u] - picture[t], *_changes(picture, u, 1, True)]
    return np.concatenate(was, axis=1), np.concatenate(then, axis=1)


def costs(
    state: Streams, action: Streams, looks: list[Streams], view: View, cut: bool
) -> list[list[Float[np.ndarray, "_ k"]]]:
    """Return what each step costs under each model, in nats: by frames lost from it (0 alone without `cut`), by
    episode, (place, frames lost in the eyes of the model).
    """  # noqa: D205
    episodes = range(len(state))
    fold = np.arange(len(state)) % NUM_FOLDS
    left, right, models = [], [], []
    for lost in range(MOST_LOST + 1):
        seen = [
            view(s, a, [p[e] for p in looks], _places(s, lost), lost)
            for e, (s, a) in enumerate(zip(state, action, strict=True))
        ]
        if not lost:
            spread = np.concatenate([y for _, y in seen]).std(0) + 1e-9
            feature = feature_map(np.concatenate([x for x, _ in seen]))
        left.append([feature(x) for x, _ in seen])
        right.append([y / spread for _, y in seen])
        fits = [_fit(left[lost], right[lost], np.flatnonzero(fold != f)) for f in range(NUM_FOLDS)]
        inverse, volume = precision(np.concatenate([right[lost][e] - left[lost][e] @ fits[fold[e]] for e in episodes]))
        models.append((fits, inverse, volume))
    return [
        [
            np.stack(
                [
                    _cost(right[lost][e] - left[lost][e] @ fits[fold[e]], inverse, volume)
                    for fits, inverse, volume in models
                ],
                axis=1,
            )
            for e in episodes
        ]
        for lost in range(MOST_LOST + 1 if cut else 1)
    ]


def _places(values: np.ndarray, lost: int) -> np.ndarray:
    return np.arange(SIDE_FRAMES, len(values) - 1 - SIDE_FRAMES - lost)


def rows_odds(state: Streams, action: Streams, looks: list[Streams]) -> list[Float[np.ndarray, "_ k"]]:
    """Return by episode the odds (lost - 1, place) that rows were lost after a place, in nats.

    The models suspect; the trees say whether, and the models how many. Every episode is judged by what was learned
    from others.
    """
    seen = costs(state, action, looks, rows_lost, cut=True)
    episodes = range(len(state))
    suspects = [e for e in episodes if (seen[0][e][:, :1] - seen[0][e][:, 1:]).max() > SUSPECT]
    jerks = np.concatenate([np.linalg.norm(np.diff(s, 2, axis=0), axis=1) for s in state]) / 2
    least = LEAST_MOTION * float(np.median(jerks))
    traits, moved = [], []
    for lost, by_episode in enumerate(seen):
        look = [_traits(state[e], action[e], [p[e] for p in looks], lost, by_episode[e]) for e in episodes]
        hidden = [np.linalg.norm(s[_places(s, lost) + lost] - s[_places(s, lost)], axis=1) for s in state]
        traits.append(look)
        moved.append([values >= (least if lost else 0.0) for values in hidden])
    odds = [np.full(len(look), -np.inf) for look in traits[0]]
    rng = np.random.default_rng(0)
    for f in sorted({e % NUM_FOLDS for e in suspects}):
        others = [e for e in episodes if e % NUM_FOLDS != f]
        x = [np.concatenate([look[e][shown[e]] for e in others]) for look, shown in zip(traits, moved, strict=True)]
        rows, label = np.concatenate(x), np.repeat([0, 1], [len(x[0]), sum(map(len, x[1:]))])
        if not label.any():  # nothing moves anywhere
            break
        chosen = rng.permutation(len(rows))[:MAX_STEPS]
        trees = ExtraTreesClassifier(
            100,
            min_samples_leaf=3,
            max_features=0.4,  # pyright: ignore[reportArgumentType]
            class_weight="balanced",
            random_state=0,
        ).fit(rows[chosen], label[chosen])
        for e in (e for e in suspects if e % NUM_FOLDS == f):
            share = np.clip(trees.predict_proba(traits[0][e])[:, 1], 1e-5, 1 - 1e-5)
            odds[e] = np.log(share / (1 - share))
    return [_split(odds[e], seen[0][e]) for e in episodes]


def _split(odds: np.ndarray, cost: np.ndarray) -> Float[np.ndarray, "_ k"]:
    best = cost[:, 1:].argmin(1)
    return np.where(np.arange(MOST_LOST)[:, None] == best, odds, -np.inf)


def _traits(
    state: np.ndarray, action: np.ndarray, looks: list[np.ndarray], lost: int, cost: np.ndarray
) -> Float[np.ndarray, "p _"]:
    """Describe each step, with `lost` rows cut from it, by what the models say and how things moved around it."""
    t = _places(state, lost)
    u = t + 1 + lost
    leap, before, after = state[u] - state[t], state[t] - state[t - 1], state[u + 1] - state[u]
    usual = (before + after) / 2
    along = (leap * usual).sum(1, keepdims=True) / ((usual**2).sum(1, keepdims=True) + 1e-6)
    moves = [leap, before, state[t - 1] - state[t - 2], after, state[u + 2] - state[u + 1], leap - along * usual]
    moves += [action[u] - action[t], action[t] - action[t - 1], action[u + 1] - action[u]]
    for look in looks:
        moves += [look[u] - look[t], look[t] - look[t - 1], look[u + 1] - look[u]]
    sizes = [np.linalg.norm(move, axis=1, keepdims=True) for move in moves]
    where = [state[t], action[t], leap, before, after, action[u], action[t - 1]]
    return np.concatenate([cost[:, :1] - cost[:, 1:], cost[:, :1], along, *sizes, *where], axis=1)


def _fit(left: Streams, right: Streams, others: np.ndarray) -> np.ndarray:
    a, b = np.concatenate([left[e] for e in others]), np.concatenate([right[e] for e in others])
    return np.linalg.solve(a.T @ a / len(a) + RIDGE * np.eye(a.shape[1]), a.T @ b / len(a))


def _cost(miss: np.ndarray, inverse: np.ndarray, volume: float) -> Float[np.ndarray, " p"]:
    return surprise(miss, inverse) + 0.5 * volume
