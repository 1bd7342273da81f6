"""What an audit says: findings, and what it could not tell."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = {
    "lag": "pictures, state or actions of an episode, or of the whole set, are out of step",
    "dropped": "frames are missing",
    "frozen": "a picture or the state stands still although the robot moves",
    "jump": "the state leaps",
    "idle": "nothing moves for long",
    "saturated": "a dimension sits at its limit",
    "constant": "a dimension never changes",
    "clock": "stored times disagree with the frame rate",
    "swapped": "two cameras have changed places",
    "duplicate": "the same episode twice in a set",
    "leakage": "the same episode in two sets",
}
"""Every kind of finding, with its meaning."""
FAULTS = ("lag", "dropped", "frozen", "jump", "clock", "swapped", "duplicate", "leakage")
"""Kinds that fail a check; the others are worth knowing and common in good sets."""


@dataclass(frozen=True)
class Finding:
    """One thing found in one episode, or in the whole set (`episode` None)."""

    kind: str
    episode: int | None
    """The set's own number of the episode."""
    frame: int | None
    """First frame that it concerns, counted in the episode; None for all of it."""
    measure: float
    """How much: frames of lag, frames missing, share of frames, correlation; `text` says which."""
    confidence: float
    """0 to 1; of a lag: the posterior of the best explanation against none."""
    text: str
    stream: str = ""
    """What is out of step: "action", "state", "pictures" or one view's name."""

    @property
    def fault(self) -> bool:
        """Tell whether it should fail a check."""
        return self.kind in FAULTS


@dataclass(frozen=True)
class Unknown:
    """A question that the data cannot answer, and why."""

    question: str
    episode: int | None
    reason: str


@dataclass(frozen=True)
class Audit:
    """What was found in one set."""

    name: str
    episodes: int
    frames: int
    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]
    measures: Mapping[str, Any] = field(default_factory=dict)
    """Lags of the whole set and how they were told."""

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Findings that fail a check."""
        return tuple(finding for finding in self.findings if finding.fault)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        findings = [asdict(finding) | {"fault": finding.fault} for finding in self.findings]
        unknown = [asdict(item) for item in self.unknown]
        head = {"name": self.name, "episodes": self.episodes, "frames": self.frames, "faults": len(self.faults)}
        return head | {"measures": dict(self.measures), "findings": findings, "unknown": unknown}
