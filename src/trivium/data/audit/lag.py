"""Which stream of which episode is out of step, and from which frame on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from scipy.linalg import eigh

from trivium.data.audit.finding import Finding, Unknown
from trivium.data.audit.pair import LAGS, ZERO, Evidence, evidence
from trivium.data.audit.recording import Recording

NUM_COMPONENTS = 24
"""Principal components that stand for a picture."""
LEAST_NATS = 2.5
"""Odds, in nats, that call an episode out of step; one that no lag speaks against by as many cannot be judged."""
ONE_VIEW_NATS = 4.0
"""What an explanation must gain that blames one of several views."""
START_NATS = 16.0
"""What an explanation must gain by beginning in the middle of an episode."""
MOST_NATS = 2.0
"""What one frame may say: a wild one must not decide for the whole episode."""
LEAST_PART = 6
"""Frames on each side of a beginning."""
LOOSE_TRUST = 0.3
"""Worth of a nat where one stream does not cause the other: what state does not tell about pictures (an object pushed
aside) or commands (a change of mind) errs alike over many frames. Of 0.3, 0.5 and 1 the first gave fewest false alarms
at equal recall (docs/log.md)."""


@dataclass(frozen=True, eq=False)
class Channel:
    """Evidence between two streams; `first` foretells `second`."""

    first: str
    second: str
    evidence: Evidence
    trust: float = 1.0

    def lag(self, late: dict[str, int]) -> int:
        """Return by how many frames `second` follows `first` when each stream is late by so many frames."""
        return late.get(self.second, 0) - late.get(self.first, 0)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Some streams late by some frames."""

    stream: str
    late: int
    columns: dict[int, int]
    """Column of `LAGS` in which each channel shows it."""

    def trace(self, found: list[Channel], e: int) -> Float[np.ndarray, " n"]:
        """Return by frame how many nats episode `e` speaks for it and against being in step."""
        return np.clip(self.whole_trace(found, e), -MOST_NATS, MOST_NATS)

    def whole_trace(self, found: list[Channel], e: int) -> Float[np.ndarray, " n"]:
        """Do as `trace`, and let a wild frame say what it likes."""
        parts = [found[c].trust * np.nan_to_num(found[c].evidence.nats[e][:, k]) for c, k in self.columns.items()]
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
        ("action", "state", 1.0, evidence(action, state, own=3, ahead=2, moves=False)),
        ("state", "action", LOOSE_TRUST, evidence(state, action, own=0, ahead=1, moves=True)),
    ]
    for view, picture in pictures.items():
        pairs += [
            ("state", view, LOOSE_TRUST, evidence(state, picture, own=1, ahead=1, moves=True)),
            (view, "state", LOOSE_TRUST, evidence(picture, state, own=0, ahead=0, moves=True)),
        ]
    return [Channel(first, second, found, trust) for first, second, trust, found in pairs if found is not None]


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
    """List everything that may be late by so many frames, as far as a channel can tell."""
    views = tuple(seen.looks)
    late_with: dict[str, tuple[str, ...]] = {"action": ("action",)}
    if views:
        late_with |= {"pictures": views, "state": ("action", *views)}  # of the state only the opposite can be seen
    if len(views) > 1:
        late_with |= {view: (view,) for view in views}
    listed = []
    for stream, streams in late_with.items():
        for late in (int(lag) for lag in LAGS if lag):
            behind = dict.fromkeys(streams, -late if stream == "state" else late)
            lags = {c: channel.lag(behind) for c, channel in enumerate(found)}
            columns = {c: lag + ZERO for c, lag in lags.items() if lag}
            listed += [Explanation(stream, late, columns)] * bool(columns)
    return listed


def judge(seen: Recording, found: list[Channel], offered: list[Explanation], e: int) -> Verdict | None:
    """Return the best explanation of an episode against being in step with the set, if the odds are high enough.

    What is kept of every frame calls the fault; all that frames say then tells streams and lags apart.
    """

    def gained(x: Explanation, total: float) -> float:
        return total - (ONE_VIEW_NATS if x.stream in seen.looks else 0.0)

    best: Verdict | None = None
    for x in offered:
        start, total = _start(x.trace(found, e))
        nats = gained(x, total)
        if nats > LEAST_NATS and (best is None or nats > best.nats):
            best = Verdict(x.stream, x.late, start, nats)
    if best is None:
        return None
    rest = slice(best.start, None)
    named = max(offered, key=lambda x: gained(x, float(x.whole_trace(found, e)[rest].sum())))
    return replace(best, stream=named.stream, late=named.late)


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
        weak = [x.stream for x in nearest if x.trace(found, e).sum() > -LEAST_NATS]
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
