"""Faults that show within one episode: frames missing or standing still, leaps, idle stretches, dead dimensions."""

import numpy as np
from jaxtyping import Float

from trivium.data.audit.finding import Finding
from trivium.data.audit.recording import Recording

STILL = 0.1
"""A picture that changes by less than this share of what is usual at that speed stands still."""
LEAP = 12.0
"""A change of state this many times the episode's large ones (90 %) is a jump."""
IDLE_S = 2.0
"""Seconds without motion that are worth a note."""
SATURATED = 0.5
"""Share of frames at one limit that is worth a note."""
LEAST_FRAMES = 8


def find_motion_faults(seen: Recording) -> list[Finding]:
    """Look at every episode by itself, and at every dimension over the set."""
    findings = [*_dimensions(seen)]
    spread = seen.state.std(0).astype(np.float64)
    unit = np.where(spread > 1e-9, spread, np.inf)
    usual = {view: _motion(looks) for view, looks in seen.looks.items()}
    for e, span in enumerate(seen.spans()):
        number = int(seen.number[e])
        state = seen.state[span].astype(np.float64) / unit
        if len(state) < LEAST_FRAMES:
            continue
        change = np.diff(state, axis=0)
        speed = np.sqrt((change**2).sum(1))
        findings += _leaps(number, change, speed)
        findings += _stopped_state(number, speed)
        findings += _idle(number, speed, seen.fps)
        for view, motion in usual.items():
            findings += _stopped_picture(number, view, motion[span][1:], speed)
    return findings


def _motion(looks: np.ndarray) -> Float[np.ndarray, " n"]:
    """Return the mean change of each picture since the one before, over the fifth of its pixels that change most."""
    change = np.abs(np.diff(looks.astype(np.int16), axis=0, prepend=looks[:1].astype(np.int16)))
    most = max(1, looks.shape[1] // 20)
    return np.partition(change, -most, axis=1)[:, -most:].mean(1).astype(np.float64)


def _leaps(number: int, change: np.ndarray, speed: np.ndarray) -> list[Finding]:
    """A gap of m frames shows as one change m+1 times its neighbours, the same way; a leap as one far beyond all."""
    findings = []
    large = float(np.quantile(speed, 0.9))
    for t in range(2, len(change) - 2):
        around = (change[t - 1] + change[t + 1]) / 2
        length = float(around @ around)
        if large > 0 and speed[t] > LEAP * large:
            findings.append(
                Finding(
                    "jump",
                    number,
                    t + 1,
                    speed[t] / large,
                    0.99,
                    f"{speed[t] / large:.0f} times the episode's fast frames",
                    "state",
                )
            )
            continue
        steady = np.linalg.norm(change[t - 1] - change[t + 1]) < 0.35 * np.sqrt(length)
        if length < (0.35 * large) ** 2 or not steady:
            continue
        ratio = float(change[t] @ around) / length
        missing = round(ratio) - 1
        rest = np.linalg.norm(change[t] - (missing + 1) * around) / np.sqrt(length)
        if missing >= 1 and rest < 0.3 and _smooth(change, t):
            confidence = float(1 - rest / (missing + 1))
            findings.append(
                Finding(
                    "dropped", number, t + 1, missing, confidence, f"the state moves {ratio:.1f} frames in one", "state"
                )
            )
    return findings


def _smooth(change: np.ndarray, t: int) -> bool:
    """Tell whether the motion beside frame t is steady on both sides, so that a double change stands out."""
    before, after = change[t - 1] - change[t - 2], change[t + 2] - change[t + 1]
    size = np.linalg.norm(change[t - 1]) + np.linalg.norm(change[t + 1])
    return bool(np.linalg.norm(before) + np.linalg.norm(after) < 0.6 * size)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return begin and end of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(b), int(e)) for b, e in zip(edges[::2], edges[1::2], strict=True)]


def _stopped_state(number: int, speed: np.ndarray) -> list[Finding]:
    """Find exact repeats of the state between frames that move."""
    findings = []
    large = float(np.quantile(speed, 0.75))
    for begin, end in _runs(speed == 0):
        inside = begin > 0 and end < len(speed)
        if inside and large > 0 and min(speed[begin - 1], speed[end]) > 0.5 * large:
            text = f"the state repeats for {end - begin} frames amid motion"
            findings.append(Finding("frozen", number, begin + 1, end - begin, 0.95, text, "state"))
    return findings


def _stopped_picture(number: int, view: str, motion: np.ndarray, speed: np.ndarray) -> list[Finding]:
    """Find pictures that repeat while the state moves."""
    large = float(np.quantile(speed, 0.75))
    fast = speed > 0.4 * large
    usual = float(np.median(motion[fast])) if fast.sum() >= LEAST_FRAMES and large > 0 else 0.0
    if usual < 1.0:  # of 255 grey levels: this camera sees too little of the motion
        return []
    findings = []
    for begin, end in _runs(motion < STILL * usual):
        moving = (speed[begin:end] > 0.2 * large).mean() > 0.5
        beside = [motion[t] for t in (begin - 1, end) if 0 <= t < len(motion)]
        if moving and beside and max(beside) > 0.5 * usual:
            text = f"{view} repeats a picture for {end - begin} frames while the state moves"
            findings.append(Finding("frozen", number, begin + 1, end - begin, 0.95, text, view))
    return findings


def _idle(number: int, speed: np.ndarray, fps: float) -> list[Finding]:
    if not speed.any():
        return []
    still = speed < 0.02 * max(float(np.quantile(speed, 0.9)), 1e-12)
    runs = [(b, e) for b, e in _runs(still) if (e - b) / fps >= IDLE_S]
    return [
        Finding("idle", number, b, (e - b) / fps, 0.9, f"nothing moves for {(e - b) / fps:.1f} s", "state")
        for b, e in runs
    ]


def _dimensions(seen: Recording) -> list[Finding]:
    findings = []
    for stream, values, names in (
        ("state", seen.state, seen.state_names),
        ("action", seen.action, seen.action_names),
    ):
        for d, name in enumerate(names):
            column = values[:, d]
            low, high = float(column.min()), float(column.max())
            if low == high:
                findings.append(Finding("constant", None, None, low, 1.0, f"{name} is {low:g} in every frame", stream))
                continue
            if len(np.unique(column)) <= 3:
                continue  # open or closed, not a limit
            for limit in (low, high):
                share = float((column == limit).mean())
                if share >= SATURATED:
                    text = f"{name} is at {limit:g} in {share:.0%} of the frames"
                    findings.append(Finding("saturated", None, None, share, 1.0, text, stream))
    return findings


def find_clock_faults(seen: Recording) -> list[Finding]:
    """Compare stored times with the frame rate, where the source shows times."""
    if seen.clock is None:
        return []
    findings = []
    for e, span in enumerate(seen.spans()):
        times = seen.clock[span].astype(np.float64)
        right = np.arange(len(times)) / seen.fps
        off = np.abs(times - times[0] - right) * seen.fps
        if len(off) and off.max() > 0.5:
            frame = int((off > 0.5).argmax())
            text = f"stored times are {off.max():.1f} frames away from {seen.fps:g} a second"
            findings.append(Finding("clock", int(seen.number[e]), frame, float(off.max()), 1.0, text, "clock"))
    return findings
