"""Cameras that changed places in some episodes: each episode's mean picture against what its views look like."""

import numpy as np

from trivium.data.audit.finding import Finding
from trivium.data.audit.recording import Recording

LEAST_GAIN = 0.2
"""Correlation that exchanging two views must win on both sides together."""


def find_swapped(seen: Recording) -> list[Finding]:
    """Find episodes whose view A looks like view B, and B like A, of the rest of the set."""
    views = tuple(seen.looks)
    if len(views) < 2 or len(seen) < 3:
        return []
    means = {view: np.stack([seen.looks[view][span].mean(0) for span in seen.spans()]) for view in views}
    usual = {view: np.median(means[view], axis=0) for view in views}
    findings = []
    for e in range(len(seen)):
        table = {(a, b): _alike(means[a][e], usual[b]) for a in views for b in views}
        for place, a in enumerate(views):
            for b in views[place + 1 :]:
                kept, exchanged = table[a, a] + table[b, b], table[a, b] + table[b, a]
                if exchanged - kept > LEAST_GAIN:
                    gain = exchanged - kept
                    text = f"{a} looks like {b} and {b} like {a}"
                    confidence = float(1 / (1 + np.exp(-5 * gain)))
                    findings.append(
                        Finding("swapped", int(seen.number[e]), None, float(gain), confidence, text, f"{a},{b}")
                    )
    return findings


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0
