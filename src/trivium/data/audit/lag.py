"""Which stream of which episode is out of step, and from which frame on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from scipy.linalg import eigh

from trivium.data.audit.finding import Finding, Unknown
from trivium.data.audit.pair import LAGS, Evidence, evidence
from trivium.data.audit.recording import Recording

NUM_COMPONENTS = 24
"""Principal components that stand for a picture."""
LEAST_EPISODES = 8
"""Episodes that make a set its own reference."""
LEAST_NATS = 2.0
"""Evidence that an episode is out of step. Odds of 7 to 1 look few, but one in step stands 3 or more nats below 0."""
LEAST_POWER = 3.0
"""Nats that an episode in step must be expected to have for being in step; below that it cannot be judged."""
ONE_VIEW_NATS = 2.0
"""What an explanation must gain that blames one of several views."""
START_NATS = 8.0
"""What an explanation must gain by beginning in the middle of an episode."""
LEAST_PART = 6
"""Frames on each side of a beginning."""


@dataclass(frozen=True, eq=False)
class Channel:
    """Evidence between two streams; `first` foretells `second`."""

    first: str
    second: str
    evidence: Evidence

    def lag(self, late: dict[str, int]) -> int:
        """Return by how many frames `second` follows `first` when each stream is late by so many frames."""
        return late.get(self.second, 0) - late.get(self.first, 0)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Some streams late by some frames, and what each channel's word about it is worth."""

    stream: str
    late: int
    columns: dict[int, int]
    """Column of `LAGS` in which each channel shows it."""
    weights: dict[int, float]
    """Nats a unit of excess, by channel."""
    power: float
    """Nats a frame by which an episode in step is expected to speak against it."""

    def judged(self, found: list[Channel], e: int) -> int:
        """Return how many frames of episode `e` have something to say about it."""
        return max(int(np.isfinite(found[c].evidence.excess[e][:, column]).sum()) for c, column in self.columns.items())

    def trace(self, found: list[Channel], e: int) -> Float[np.ndarray, " n"]:
        """Return by frame how many nats episode `e` speaks for it and against being in step."""
        parts = [
            -weight * np.nan_to_num(found[c].evidence.excess[e][:, self.columns[c]])
            for c, weight in self.weights.items()
            if c in self.columns
        ]
        return np.sum(parts, axis=0)


@dataclass(frozen=True)
class Verdict:
    """The best explanation of one episode."""

    stream: str
    late: int
    start: int
    nats: float


def channels(seen: Recording, pictures: Mapping[str, list[Float[np.ndarray, "_ _"]]]) -> list[Channel]:
    """Set up every pair of streams that the set can answer for.

    Args:
        seen: the set.
        pictures: components of the pictures of each view, by episode.
    """
    spans = seen.spans()
    state = [seen.state[span].astype(np.float64) for span in spans]
    action = [seen.action[span].astype(np.float64) for span in spans]
    pairs = [
        ("state", "action", evidence(state, action, 4, 4, 2)),
        ("action", "state", evidence(action, state, 3, 3, 2)),
    ]
    for view, picture in pictures.items():
        pairs += [
            (view, "state", evidence(picture, state, 2, 2, 2)),
            ("state", view, evidence(state, picture, 2, 2, 1)),
            (view, "action", evidence(picture, action, 2, 3, 1)),
        ]
    return [Channel(first, second, found) for first, second, found in pairs if found is not None]


def components(looks: UInt8[np.ndarray, "n p"], spans: list[slice]) -> list[Float[np.ndarray, "_ c"]]:
    """Return what moves in the pictures: principal components of their difference from the episode's mean picture."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(looks), min(len(looks), 3000), replace=False))
    means = np.stack([looks[span].mean(0) for span in spans])
    owner = np.searchsorted([span.stop for span in spans], rows, side="right")
    some = looks[rows].astype(np.float64) - means[owner]
    last = some.shape[1] - 1
    _, axes = eigh(some.T @ some, subset_by_index=[max(0, last + 1 - NUM_COMPONENTS), last])
    return [(looks[span].astype(np.float64) - mean) @ axes for span, mean in zip(spans, means, strict=True)]


def explanations(seen: Recording, found: list[Channel]) -> list[Explanation]:
    """Weigh everything that may be late by so many frames, as far as the set can tell."""
    views = tuple(seen.looks)
    late_with: dict[str, tuple[str, ...]] = {"action": ("action",)}
    if views:
        late_with |= {"pictures": views, "state": ("action", *views)}  # of the state only the opposite can be seen
    if len(views) > 1:
        late_with |= {view: (view,) for view in views}
    counts = seen.end - seen.begin
    weighed = []
    for stream, streams in late_with.items():
        for late in (int(lag) for lag in LAGS if lag):
            behind = dict.fromkeys(streams, -late if stream == "state" else late)
            columns = {c: _column(channel.lag(behind)) for c, channel in enumerate(found) if channel.lag(behind)}
            weighed.append(_weigh(stream, late, {c: k for c, k in columns.items() if k is not None}, found, counts))
    return [explanation for explanation in weighed if explanation is not None]


def _column(lag: int) -> int | None:
    return int(lag - LAGS[0]) if LAGS[0] <= lag <= LAGS[-1] else None


def _weigh(
    stream: str, late: int, columns: dict[int, int], found: list[Channel], counts: np.ndarray
) -> Explanation | None:
    """Weigh the channels as two normal laws of one covariance are best told apart: in step, or off by just that lag."""
    means = np.full((len(counts), len(columns)), np.nan)
    for place, (c, column) in enumerate(columns.items()):
        for e, excess in enumerate(found[c].evidence.excess):
            values = excess[:, column]
            values = values[np.isfinite(values)]
            if len(values):
                means[e, place] = values.mean()
    whole = np.isfinite(means).all(1)
    if not columns or whole.sum() < LEAST_EPISODES:
        return None
    means, root = means[whole], np.sqrt(counts[whole])[:, None]
    usual = np.median(means, axis=0)
    off = (means - usual) * root
    spread = 1.4826 * np.median(np.abs(off), axis=0) + 1e-9
    off = np.clip(off / spread, -3, 3)  # an episode that is out of step must not widen what is usual
    covariance = off.T @ off / len(off)
    covariance = (0.8 * covariance + 0.2 * np.diag(np.diag(covariance))) * np.outer(spread, spread)
    weight = np.linalg.solve(covariance + 1e-12 * np.eye(len(columns)), np.maximum(usual, 0.0))
    weight = np.maximum(weight, 0.0)
    noise = float(weight @ covariance @ weight)
    if noise <= 0:
        return None
    weight *= 2 * float(weight @ usual) / noise
    power = float(weight @ usual)
    return Explanation(stream, late, columns, dict(zip(columns, weight, strict=True)), power)


def judge(seen: Recording, found: list[Channel], offered: list[Explanation], e: int) -> Verdict | None:
    """Return the best explanation of an episode against being in step with the set, if the odds are high enough."""
    best: Verdict | None = None
    for explanation in offered:
        trace = explanation.trace(found, e)
        start, gained = _start(trace)
        gained -= ONE_VIEW_NATS if explanation.stream in seen.looks else 0.0
        told = explanation.power * explanation.judged(found, e) >= LEAST_POWER
        if told and gained > LEAST_NATS and (best is None or gained > best.nats):
            best = Verdict(explanation.stream, explanation.late, start, gained)
    return best and _measure(best, found, offered, e)


def _measure(verdict: Verdict, found: list[Channel], offered: list[Explanation], e: int) -> Verdict:
    """Choose the number of frames anew with one set of weights for all: weights of their own favour short lags."""
    same = [x for x in offered if x.stream == verdict.stream]
    sign = 1 if verdict.late > 0 else -1
    weights = next((x.weights for x in same if x.late == sign), {})
    best = max(same, key=lambda x: replace(x, weights=weights).trace(found, e)[verdict.start :].sum())
    return replace(verdict, late=best.late)


def _start(trace: np.ndarray) -> tuple[int, float]:
    """Return the best first frame (0 unless a later one gains enough), and the sum from there."""
    total = float(trace.sum())
    rest = trace[::-1].cumsum()[::-1]
    inner = rest[LEAST_PART : len(trace) - LEAST_PART]
    if len(inner):
        start = int(inner.argmax()) + LEAST_PART
        if rest[start] - START_NATS > max(total, 0.0):
            return start, float(rest[start] - START_NATS)
    return 0, total


def find_lags(seen: Recording, found: list[Channel]) -> tuple[list[Finding], list[Unknown]]:
    """Find episodes out of step with the rest of their set."""
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    offered = explanations(seen, found)
    nearest = [x for x in offered if abs(x.late) == 1 and x.stream in ("action", "pictures")]
    for e in range(len(seen)):
        frames = int(seen.end[e] - seen.begin[e])
        number = int(seen.number[e])
        verdict = judge(seen, found, offered, e)
        if verdict is not None:
            findings.append(_finding(number, verdict))
            continue
        weak = [x.stream for x in nearest if x.power * x.judged(found, e) < LEAST_POWER]
        if weak:
            unknown.append(Unknown("lag", number, f"{frames} frames that say too little about the lag of {weak[0]}"))
    return findings, unknown


def _finding(number: int, verdict: Verdict) -> Finding:
    confidence = float(1 / (1 + np.exp(-min(verdict.nats, 50.0))))
    side = "late" if verdict.late > 0 else "early"
    by = f"{verdict.stream} {abs(verdict.late)} frame{'s' if abs(verdict.late) > 1 else ''} {side}"
    if not verdict.start:
        return Finding(
            "lag", number, None, verdict.late, confidence, f"{by}, against the rest of the set", verdict.stream
        )
    kind = "dropped" if verdict.late < 0 else "frozen"
    what = "frames are missing there" if verdict.late < 0 else "frames were put in there"
    return Finding(
        kind, number, verdict.start, abs(verdict.late), confidence, f"{by} from there on: {what}", verdict.stream
    )
