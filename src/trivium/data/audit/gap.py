"""Frames lost in the middle of an episode where the clock says nothing: what comes after does not follow what was.

The set is its own reference once more: from its episodes come the steps of 1, 2, 3 and 4 frames that a recorder which
lost 0, 1, 2 or 3 frames would have stored as one. Each kind of step has a model (ridge regression on random features,
fitted on other episodes) of all that follows given all that was, and every place of every episode is asked which of
them explains it best. What counts is the logarithm of the odds for frames lost against none. A frame lost while
nothing moves leaves no trace.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from trivium.data.audit.finding import Finding
from trivium.data.audit.lag import Channel, explanations
from trivium.data.audit.pair import NUM_FOLDS, RIDGE, feature_map
from trivium.data.audit.recording import Recording

MOST_LOST = 3
"""Frames lost at one place that are told apart; more look like as many."""
SIDE_FRAMES = 2
"""Changes on each side of a place that must be there to judge it."""
NUM_SEEN = 8
"""Picture components of each view; the audit's come sorted, greatest last."""
TAILS = 10.0
"""Degrees of freedom of the errors: contacts and glitches are not normal."""
LEAST_EPISODES = 40
"""Episodes that make a set its own reference here."""
LEAST_FRAMES = 16
"""Shorter episodes are not judged."""
ROW_NATS = 20.0
"""Odds that call rows lost. One number does not suit every set: of clean demonstrations 2 in 100 have 17 somewhere
without noise, 8 with 1 % of it, and on other recordings 3 to 11 in 100 pass 20; so it is a suspicion, not a fault."""
PICTURE_NATS = 6.0
"""Odds that call pictures lost, with the rest of the episode as second witness; of clean ones 2 in 100 have 2,
and more where other episodes of the set are faulty."""

Streams = list[Float[np.ndarray, "_ _"]]
"""One stream by episode."""
View = Callable[[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def _unit(values: np.ndarray) -> np.ndarray:
    spread = values.std(0, dtype=np.float64)
    return values[:, spread > 1e-9].astype(np.float64) / spread[spread > 1e-9]


def _changes(values: np.ndarray, t: np.ndarray, count: int, ahead: bool) -> list[np.ndarray]:
    if ahead:
        return [values[t + i + 1] - values[t + i] for i in range(count)]
    return [values[t - i] - values[t - i - 1] for i in range(count)]


def _rows_lost(state: np.ndarray, action: np.ndarray, seen: list[np.ndarray], t: np.ndarray, lost: int):
    """Return what was up to frame t and what follows, had `lost` rows after t never been stored."""
    u = t + 1 + lost
    was = [state[t], *_changes(state, t, SIDE_FRAMES, False), *(action[t - i] for i in range(SIDE_FRAMES + 1))]
    then = [state[u] - state[t], *_changes(state, u, SIDE_FRAMES, True)]
    then += [action[u + i] for i in range(SIDE_FRAMES + 1)]
    for picture in seen:
        was += [picture[t], *_changes(picture, t, 1, False)]
        then += [picture[u] - picture[t], *_changes(picture, u, 1, True)]
    return np.concatenate(was, axis=1), np.concatenate(then, axis=1)


def _pictures_lost(state: np.ndarray, action: np.ndarray, seen: list[np.ndarray], t: np.ndarray, lost: int):
    """Return what is known at frame t and the pictures that follow, had `lost` pictures after t never been stored."""
    u = t + 1 + lost
    was = [state[t], *_changes(state, t, SIDE_FRAMES, False), *_changes(state, t, SIDE_FRAMES, True)]
    was += [action[t + i] for i in range(-1, SIDE_FRAMES + 1)]
    then = []
    for picture in seen:
        was += [picture[t], *_changes(picture, t, 1, False)]
        then += [picture[u] - picture[t], *_changes(picture, u, 1, True)]
    return np.concatenate(was, axis=1), np.concatenate(then, axis=1)


def find_gaps(
    seen: Recording, pictures: Mapping[str, Streams], found: list[Channel], doubtful: set[int]
) -> list[Finding]:
    """Find frames lost from all streams at once, and pictures lost while state and action went on.

    Args:
        seen: the set.
        pictures: components of the pictures of each view, by episode, the greatest last.
        found: its pairs of streams.
        doubtful: numbers of episodes with faults of other kinds: neither judged here nor learned from.
    """
    usable = [
        e
        for e, span in enumerate(seen.spans())
        if span.stop - span.start >= LEAST_FRAMES and int(seen.number[e]) not in doubtful
    ]
    state, action = _unit(seen.state), _unit(seen.action)
    if len(usable) < LEAST_EPISODES or not state.shape[1]:
        return []
    spans = [seen.spans()[e] for e in usable]
    states, actions = [state[span] for span in spans], [action[span] for span in spans]
    looks = [[parts[e][:, -NUM_SEEN:] for e in usable] for parts in pictures.values()]
    rows = _gains(states, actions, looks, _rows_lost)
    seen_lost = _with_rest(_gains(states, actions, looks, _pictures_lost), seen, found, usable) if looks else rows
    findings = []
    for place, e in enumerate(usable):
        offers = [(rows[place], ROW_NATS, "state")] + [(seen_lost[place], PICTURE_NATS, "pictures")] * bool(looks)
        gain, least, stream = max(offers, key=lambda offer: float(offer[0].max()) - offer[1])
        if gain.max() > least:
            lost, at = np.unravel_index(int(gain.argmax()), gain.shape)
            what = "frames are" if stream == "state" else "pictures alone are"
            text = f"about {lost + 1} {what} perhaps missing: what follows does not continue what was"
            confidence = float(1 / (1 + np.exp(-min(float(gain.max()) - least + 3, 50.0))))
            number = int(seen.number[e])
            findings.append(
                Finding("gap", number, int(at) + SIDE_FRAMES + 1, float(lost + 1), confidence, text, stream)
            )
    return findings


def _with_rest(
    gains: list[np.ndarray], seen: Recording, found: list[Channel], usable: list[int]
) -> list[Float[np.ndarray, "_ _"]]:
    """Add what the rest of each episode says for pictures that stay early by as many frames."""
    early = {-x.late: x for x in explanations(seen, found) if x.stream == "pictures" and x.late < 0}
    joint = []
    for gain, e in zip(gains, usable, strict=True):
        both = gain.copy()
        for lost in range(1, MOST_LOST + 1):
            if lost in early:
                rest = early[lost].trace(found, e)[::-1].cumsum()[::-1]
                both[lost - 1] += rest[SIDE_FRAMES + 1 : SIDE_FRAMES + 1 + gain.shape[1]]
        joint.append(both)
    return joint


def _gains(state: Streams, action: Streams, looks: list[Streams], view: View) -> list[Float[np.ndarray, "_ _"]]:
    """Return by episode the odds (lost - 1, place) for frames lost after a place against none."""
    episodes = range(len(state))
    fold = np.arange(len(state)) % NUM_FOLDS
    costs = []
    stored: list[tuple[np.ndarray, np.ndarray]] = []
    for lost in range(MOST_LOST + 1):
        cut = [
            view(s, a, [p[e] for p in looks], np.arange(SIDE_FRAMES, len(s) - 1 - SIDE_FRAMES - lost), lost)
            for e, (s, a) in enumerate(zip(state, action, strict=True))
        ]
        if not lost:
            spread = np.concatenate([y for _, y in cut]).std(0) + 1e-9
            feature = feature_map(np.concatenate([x for x, _ in cut]))
        left, right = [feature(x) for x, _ in cut], [y / spread for _, y in cut]
        if not lost:
            stored = list(zip(left, right, strict=True))
        fits = [_fit(left, right, np.flatnonzero(fold != f)) for f in range(NUM_FOLDS)]
        inverse, volume = _spread(np.concatenate([right[e] - left[e] @ fits[fold[e]] for e in episodes]))
        costs.append([_cost(stored[e][1] - stored[e][0] @ fits[fold[e]], inverse, volume) for e in episodes])
    return [np.stack([costs[0][e] - costs[lost][e] for lost in range(1, MOST_LOST + 1)]) for e in episodes]


def _fit(left: Streams, right: Streams, others: np.ndarray) -> np.ndarray:
    a, b = np.concatenate([left[e] for e in others]), np.concatenate([right[e] for e in others])
    return np.linalg.solve(a.T @ a / len(a) + RIDGE * np.eye(a.shape[1]), a.T @ b / len(a))


def _cost(miss: np.ndarray, inverse: np.ndarray, volume: float) -> Float[np.ndarray, " p"]:
    distance = np.einsum("ij,jk,ik->i", miss, inverse, miss)
    return 0.5 * (TAILS + miss.shape[1]) * np.log1p(distance / TAILS) + 0.5 * volume


def _spread(miss: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the inverse of the errors' covariance and its log determinant; wild errors weigh little."""
    weight = np.ones(len(miss))
    d = miss.shape[1]
    for _ in range(4):
        covariance = (miss * weight[:, None]).T @ miss / len(miss)
        covariance += np.diag(0.02 * np.diag(covariance) + 1e-6)
        inverse = np.linalg.inv(covariance)
        weight = (TAILS + d) / (TAILS + np.einsum("ij,jk,ik->i", miss, inverse, miss))
    return inverse, float(np.linalg.slogdet(covariance)[1])
