"""The same episode twice: in one set, or in two (training and test; two formats of one recording).

Numbers decide, pictures confirm: re-encoding changes pictures a little and formats round numbers, so episodes are
compared by distance after a coarse sketch has said which pairs are worth it.
"""

import numpy as np

from trivium.data.audit.finding import Finding
from trivium.data.audit.recording import Recording

POINTS = 8
"""Moments of an episode that its sketch holds."""
NUMBERS = 1e-4
"""Largest difference of numbers of one recording, in standard deviations of the set."""
PICTURES = 6.0
"""Largest mean difference of looks of one recording, in grey levels; two recordings of one scene differ by less only
where nothing moves."""


def find_twins(sets: list[Recording]) -> dict[int, list[Finding]]:
    """Find episodes that occur more than once; return the findings by place of the set in which the later one lies."""
    findings: dict[int, list[Finding]] = {place: [] for place in range(len(sets))}
    shapes: dict[tuple, list[tuple[int, int]]] = {}
    for place, seen in enumerate(sets):
        for e, span in enumerate(seen.spans()):
            shape = (span.stop - span.start, seen.state.shape[1], seen.action.shape[1])
            shapes.setdefault(shape, []).append((place, e))
    spread = _spread(sets)
    for members in shapes.values():
        sketches = np.stack([_sketch(sets[place], e, spread) for place, e in members])
        order = np.argsort(sketches[:, 0], kind="stable")
        first = sketches[order, 0]
        for at, i in enumerate(order):
            for j in order[at + 1 : np.searchsorted(first, first[at] + NUMBERS, side="right")]:
                one, two = sorted((members[i], members[j]))
                if np.abs(sketches[i] - sketches[j]).max() <= NUMBERS and _same(sets, one, two, spread):
                    findings[two[0]].append(_finding(sets, one, two))
    return findings


def _spread(sets: list[Recording]) -> dict[int, np.ndarray]:
    """Return one scale for each number of columns, or two sets would be measured with two rulers."""
    scales: dict[int, np.ndarray] = {}
    for seen in sets:
        values = np.concatenate([seen.state, seen.action], axis=1)
        own = np.where(values.std(0) > 1e-9, values.std(0), 1.0)
        scales.setdefault(values.shape[1], own)
    return scales


def _numbers(seen: Recording, e: int, spread: dict[int, np.ndarray]) -> np.ndarray:
    span = seen.spans()[e]
    values = np.concatenate([seen.state[span], seen.action[span]], axis=1).astype(np.float64)
    return values / spread[values.shape[1]]


def _sketch(seen: Recording, e: int, spread: dict[int, np.ndarray]) -> np.ndarray:
    values = _numbers(seen, e, spread)
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)].reshape(-1)


def _same(sets: list[Recording], one: tuple[int, int], two: tuple[int, int], spread: dict[int, np.ndarray]) -> bool:
    a, b = _numbers(sets[one[0]], one[1], spread), _numbers(sets[two[0]], two[1], spread)
    if np.abs(a - b).max() > NUMBERS or not np.ptp(a, axis=0).any():
        return False  # an episode in which nothing happens is like every other
    for view in set(sets[one[0]].looks) & set(sets[two[0]].looks):
        left = sets[one[0]].looks[view][sets[one[0]].spans()[one[1]]].astype(np.float64)
        right = sets[two[0]].looks[view][sets[two[0]].spans()[two[1]]].astype(np.float64)
        if np.abs(left - right).mean() > PICTURES:
            return False
    return True


def _finding(sets: list[Recording], one: tuple[int, int], two: tuple[int, int]) -> Finding:
    first, second = sets[one[0]], sets[two[0]]
    number = int(first.number[one[1]])
    kind = "duplicate" if one[0] == two[0] else "leakage"
    text = f"the same recording as episode {number}" + (f" of {first.name}" if kind == "leakage" else "")
    return Finding(kind, int(second.number[two[1]]), None, 1.0, 0.99, text, "all")
