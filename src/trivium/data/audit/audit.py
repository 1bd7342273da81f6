"""The audit of a set: every search over one recording, and what it says about the whole."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from trivium.data.audit.camera import find_swapped
from trivium.data.audit.finding import Audit, Finding, Unknown
from trivium.data.audit.gap import find_gaps
from trivium.data.audit.lag import channels, components, find_lags
from trivium.data.audit.motion import find_clock_faults, find_motion_faults
from trivium.data.audit.recording import Recording
from trivium.data.audit.set_lag import SetLag, action_lag, picture_lag
from trivium.data.audit.twin import find_twins

Pictures = Mapping[str, list[Float[np.ndarray, "_ _"]]]
"""Components of the pictures of each view, by episode."""
SURE = 0.95
"""Share of bootstraps that must agree before a whole set is called out of step."""


def audit(sets: list[Recording], delay: int = 1) -> list[Audit]:
    """Audit sets one by one, and look for episodes that occur twice within or across them.

    Args:
        sets: what to look at.
        delay: frames after which an action moves the state in a set that is in step: 1 where action[t] moves it from
            frame t to frame t+1, more where the robot's controller waits.
    """
    twins = find_twins(sets)
    return [_audit(seen, delay, twins[place]) for place, seen in enumerate(sets)]


def _audit(seen: Recording, delay: int, twins: list[Finding]) -> Audit:
    swapped = find_swapped(seen)
    pictures = {view: components(looks, seen.spans()) for view, looks in seen.looks.items()}
    found = channels(seen, pictures)
    late, unknown = find_lags(seen, found)
    exchanged = {finding.episode for finding in swapped}
    late = [finding for finding in late if finding.episode not in exchanged]  # of course they do not fit
    whole, more, measures = whole_set(seen, pictures, delay)
    lengths = dict(zip((int(n) for n in seen.number), (int(n) for n in seen.end - seen.begin), strict=True))
    motion = [it for it in find_motion_faults(seen) if not any(_explained(it, lag, lengths) for lag in (*whole, *late))]
    spoiled = {it.episode for it in (*swapped, *late, *motion) if it.fault and it.episode is not None}
    lost = [] if whole else find_gaps(seen, pictures, found, spoiled)
    findings = [*whole, *swapped, *late, *motion, *lost, *find_clock_faults(seen), *twins]
    if not found:
        unknown.insert(0, Unknown("lag", None, "too few or too short episodes to be each other's reference"))
    findings.sort(key=lambda finding: (not finding.fault, -1 if finding.episode is None else finding.episode))
    measures["channels"] = {f"{c.first} -> {c.second}": round(c.evidence.r2, 3) for c in found}
    return Audit(seen.name, len(seen), len(seen.state), tuple(_once(findings)), (*more, *unknown), measures)


def _explained(finding: Finding, lag: Finding, lengths: dict[int, int]) -> bool:
    """Tell whether a lag alone can make a stream seem to stand still; what is left shows once it is corrected.

    Where the lag left a recorder without frames it repeats one, and a short stop of the robot meets another speed.
    """
    if finding.kind != "frozen" or finding.episode is None or lag.episode not in (None, finding.episode):
        return False
    first, reach = finding.frame or 0, abs(int(lag.measure))
    return finding.measure <= reach or first + finding.measure <= reach + 1 or first >= lengths[finding.episode] - reach


def _once(findings: list[Finding]) -> list[Finding]:
    """Keep one finding where two searches saw the same frames missing or standing still."""
    kept: list[Finding] = []
    for finding in findings:
        twin = any(
            other.kind == finding.kind in ("dropped", "frozen")
            and other.episode == finding.episode
            and abs((other.frame or 0) - (finding.frame or 0)) <= 3
            for other in kept
        )
        if not twin:
            kept.append(finding)
    return kept


def whole_set(seen: Recording, pictures: Pictures, delay: int) -> tuple[list[Finding], list[Unknown], dict]:
    """Compare the streams of a whole set with what is expected of one in step."""
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    measures: dict = {}

    def weigh(stream: str, lag: SetLag, late: int, expected: str) -> None:
        measures[f"lag of {stream}"] = {"frames": lag.peak, "confidence": lag.confidence, "r2": list(lag.r2)}
        if lag.reason or lag.confidence < SURE:
            reason = lag.reason or f"two lags are about equally likely (confidence {lag.confidence:.2f})"
            unknown.append(Unknown(f"lag of {stream} in the whole set", None, reason))
        elif late:
            text = f"{stream} {abs(late)} frames {'late' if late > 0 else 'early'} in the whole set: {expected}"
            findings.append(Finding("lag", None, None, late, lag.confidence, text, stream))

    acts = action_lag(seen)
    weigh("action", acts, delay - acts.peak, f"moves the state after {acts.peak} frames, expected {delay}")
    for view, picture in pictures.items():
        sees = picture_lag(seen, picture)
        weigh(view, sees, -sees.peak, f"fits the state {sees.peak:+d} frames away, expected 0")
    return findings, unknown, measures
