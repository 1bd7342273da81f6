"""How many injected faults the audit finds, and how often it cries wolf: by kind, lag and noise.

Command     python bench/audit_faults.py SET... [--trials N] [--seed S] [--noise LEVEL...]
Sets        folders that `trivium demo-data` wrote, with two views: three tasks or more, 100 episodes or more
Output      a table for a person, then one JSON line for a log; intervals are Wilson's, 95 %

Faults go into the numbers and the small grey pictures in memory, so that a set is decoded once. A trial puts every
fault into an episode of its own (of about 120) and audits the whole; clean episodes beside them count as chances of a
false alarm, and so do trials without any fault. Episodes that repeat another to the last bit (a task whose expert
takes no notice of where things lie) are left out. Whole-set lags move every episode at once. Thresholds were chosen on
button-press-topdown, faucet-open, door-unlock, drawer-open, window-open, push, door-lock, handle-press, plate-slide,
coffee-button, faucet-close, window-close, door-open, lever-pull, button-press, handle-pull, drawer-close, dial-turn,
door-close, coffee-push, handle-pull-side, plate-slide-back, reach, push-wall, button-press-wall and plate-slide-side;
that of frozen pictures also on push-back, sweep, handle-press-side and hand-insert. Give other tasks and seeds here.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from trivium.core.log import console
from trivium.data.audit.audit import audit, whole_set
from trivium.data.audit.finding import Finding
from trivium.data.audit.lag import components
from trivium.data.audit.recording import Recording, watch
from trivium.data.detect import open_episodes

LAGS = (-3, -2, -1, 1, 2, 3)
NOISE = (0.0, 0.005, 0.01)
"""Spread of the noise on state and action, in standard deviations; pictures get 500 times as many grey levels."""
FAULTS = (
    *((stream, lag) for stream in ("action", "pictures") for lag in LAGS),
    *(("dropped rows", gap) for gap in (1, 2, 3)),
    *(("dropped pictures", gap) for gap in (1, 2, 3)),
    ("swapped", 1),
    ("frozen pictures", 5),
)


def noisy(seen: Recording, level: float, rng: np.random.Generator) -> Recording:
    """Add white noise to everything."""

    def numbers(values: np.ndarray) -> np.ndarray:
        return (values + level * values.std(0) * rng.standard_normal(values.shape)).astype(np.float32)

    def grey(looks: np.ndarray) -> np.ndarray:
        return np.clip(looks + 500 * level * rng.standard_normal(looks.shape), 0, 255).astype(np.uint8)

    looks = {view: grey(values) for view, values in seen.looks.items()} if level else seen.looks
    return replace(seen, state=numbers(seen.state), action=numbers(seen.action), looks=looks)


def once(seen: Recording) -> Recording:
    """Leave out episodes whose state and action equal an earlier one's to the last bit: calling those is no mistake."""
    first = {
        (seen.state[span].tobytes(), seen.action[span].tobytes()): e for e, span in reversed([*enumerate(seen.spans())])
    }
    kept = sorted(first.values())
    rows = np.concatenate([np.arange(seen.begin[e], seen.end[e]) for e in kept])
    ends = np.cumsum(seen.end[kept] - seen.begin[kept])
    return replace(
        seen,
        clock=None,
        number=seen.number[kept],
        begin=np.concatenate([[0], ends[:-1]]),
        end=ends,
        state=seen.state[rows],
        action=seen.action[rows],
        looks={view: values[rows] for view, values in seen.looks.items()},
    )


MOVED = 5.0
"""Least state change across lost or frozen frames, in times the usual unsteadiness of one; less leaves no trace."""


def visible(seen: Recording, span: slice, size: int) -> np.ndarray:
    """Tell of each frame of the middle half whether `size` frames lost from it on hide that much motion."""
    spread = seen.state.std(0)
    state = seen.state / np.where(spread > 1e-9, spread, np.inf)
    jerks = np.concatenate([np.linalg.norm(np.diff(state[s], 2, axis=0), axis=1) / 2 for s in seen.spans()])
    at = span.start + np.arange((span.stop - span.start) // 4, 3 * (span.stop - span.start) // 4)
    return np.linalg.norm(state[at + size] - state[at], axis=1) >= MOVED * np.median(jerks)


def inject(
    seen: Recording, faults: dict[int, tuple[str, int]], rng: np.random.Generator, count: Counter | None = None
) -> Recording:
    """Put one fault into each named episode (by place); frames that a shift lacks repeat the first or last one."""
    rows: dict[str, list[np.ndarray]] = {"state": [], "action": [], "pictures": []}
    ends, total = [], 0
    swapped = np.zeros(len(seen.state), bool)
    for e, span in enumerate(seen.spans()):
        n = span.stop - span.start
        kind, size = faults.get(e, ("", 0))
        own = {stream: np.arange(n) for stream in rows}
        at = int(rng.integers(n // 4, 3 * n // 4))
        if kind.startswith(("dropped", "frozen")):
            shown = visible(seen, span, size)
            if count is not None:
                count["excluded", kind] += int((~shown).sum())
                count["places", kind] += len(shown)
            if shown.any():
                at = n // 4 + int(rng.choice(np.flatnonzero(shown)))
        if kind in ("action", "pictures"):
            own[kind] = np.clip(np.arange(n) - size, 0, n - 1)
        elif kind == "dropped rows":
            own = dict.fromkeys(rows, np.delete(np.arange(n), np.arange(at, at + size)))
        elif kind == "dropped pictures":
            own["pictures"] = np.clip(np.arange(n) + size * (np.arange(n) >= at), 0, n - 1)
        elif kind == "frozen pictures":
            own["pictures"] = np.where((np.arange(n) >= at) & (np.arange(n) < at + size), at, np.arange(n))
        elif kind == "swapped":
            swapped[span] = True
        total += len(own["state"])
        ends.append(total)
        for stream, chosen in own.items():
            rows[stream].append(span.start + chosen)
    taken = {stream: np.concatenate(parts) for stream, parts in rows.items()}
    (one, first), (two, second) = seen.looks.items()
    looks = {one: np.where(swapped[:, None], second, first), two: np.where(swapped[:, None], first, second)}
    return replace(
        seen,
        clock=None,  # the stored clock would give missing rows away
        begin=np.array([0, *ends[:-1]]),
        end=np.array(ends),
        state=seen.state[taken["state"]],
        action=seen.action[taken["action"]],
        looks={view: values[taken["pictures"]] for view, values in looks.items()},
    )


def right(finding: Finding, kind: str, size: int) -> bool:
    """Tell whether a finding names the fault and its size, not only its episode."""
    if kind in ("action", "pictures"):
        return finding.kind == "lag" and finding.stream == kind and finding.measure == size
    return finding.kind == kind.split()[0]


def measure(seen: Recording, trials: int, seed: int, levels: tuple[float, ...], count: Counter) -> None:
    """Add the outcomes of one set at every noise level to the counts."""
    for level in levels:
        for trial in range(trials + 1):
            rng = np.random.default_rng([seed, trial, int(1e4 * level)])
            chosen = rng.choice(len(seen), len(FAULTS), replace=False) if trial else []
            faults = {int(e): FAULTS[i] for i, e in enumerate(chosen)}
            (found,) = audit([inject(noisy(seen, level, rng), faults, rng, count)])
            by_episode: dict[int | None, list[Finding]] = {}
            for finding in found.findings:
                if finding.fault:
                    by_episode.setdefault(finding.episode, []).append(finding)
            for e in range(len(seen)):
                hits = by_episode.get(int(seen.number[e]), [])
                if e in faults:
                    _note(count, faults[e], level, hits)
                else:
                    count["clean", "episodes", level] += 1
                    count["clean", "alarms", level] += bool(hits)
            if not trial:
                count["clean sets", "sets", level] += 1
                count["clean sets", "alarms", level] += None in by_episode
        _whole(seen, level, seed, count)


def _note(count: Counter, fault: tuple[str, int], level: float, hits: list[Finding]) -> None:
    kind, size = fault
    count["fault", kind, size, level, "tried"] += 1
    count["fault", kind, size, level, "found"] += bool(hits)
    count["fault", kind, size, level, "right"] += any(right(finding, kind, size) for finding in hits)


def _whole(seen: Recording, level: float, seed: int, count: Counter) -> None:
    rng = np.random.default_rng([seed, 77, int(1e4 * level)])
    base = noisy(seen, level, rng)
    for stream in ("action", "pictures"):
        for lag in LAGS:
            moved = inject(base, dict.fromkeys(range(len(seen)), (stream, lag)), rng)
            pictures = {
                view: components(looks, moved.spans()) for view, looks in moved.looks.items() if stream != "action"
            }
            findings, _, _ = whole_set(moved, pictures, 1)
            names = {"action"} if stream == "action" else set(seen.looks)
            hits = [it for it in findings if it.stream in names]
            kind = f"whole set: {stream}"
            count["fault", kind, lag, level, "tried"] += 1
            count["fault", kind, lag, level, "found"] += bool(hits)
            count["fault", kind, lag, level, "right"] += any(it.measure == lag for it in hits)


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not tries:
        return 0.0, 1.0
    z, p = 1.96, hits / tries
    middle, half = p + z * z / (2 * tries), z * np.sqrt(p * (1 - p) / tries + z * z / (4 * tries * tries))
    return float((middle - half) / (1 + z * z / tries)), float((middle + half) / (1 + z * z / tries))


def share(hits: int, tries: int) -> dict[str, Any]:
    """Return a share with its counts and interval."""
    low, high = wilson(hits, tries)
    return {
        "hits": hits,
        "of": tries,
        "share": round(hits / max(tries, 1), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def result(count: Counter) -> dict[str, Any]:
    """Sum the counts up."""

    def total(kind: str, what: str, size: int | None = None, level: float | None = None) -> int:
        keys = [k for k in count if k[0] == "fault" and k[1] == kind and k[4] == what]
        return sum(count[k] for k in keys if size in (None, k[2]) and level in (None, k[3]))

    kinds = list(dict.fromkeys(k[1] for k in count if k[0] == "fault"))
    recall = {}
    for kind in kinds:
        sizes = sorted({k[2] for k in count if k[0] == "fault" and k[1] == kind})
        recall[kind] = {
            "found": share(total(kind, "found"), total(kind, "tried")),
            "named": share(total(kind, "right"), total(kind, "tried")),
            "by_size": {size: f"{total(kind, 'found', size)}/{total(kind, 'tried', size)}" for size in sizes},
            "by_noise": {n: f"{total(kind, 'found', None, n)}/{total(kind, 'tried', None, n)}" for n in NOISE},
        }
    alarms = {
        key: share(sum(count[key, "alarms", n] for n in NOISE), sum(count[key, unit, n] for n in NOISE))
        for key, unit in (("clean", "episodes"), ("clean sets", "sets"))
    }
    by_noise = {n: f"{count['clean', 'alarms', n]}/{count['clean', 'episodes', n]}" for n in NOISE}
    excluded = {k[1]: f"{count[k]}/{count['places', k[1]]}" for k in count if k[0] == "excluded"}
    return {"recall": recall, "false_alarms": alarms, "false_alarms_by_noise": by_noise, "excluded": excluded}


def table(found: dict[str, Any]) -> Table:
    """Lay the shares out."""
    rows = Table(title="injected faults")
    for header in ("fault", "found", "95 %", "named right", "by size", "by noise"):
        rows.add_column(header)
    for kind, it in found["recall"].items():
        f, n = it["found"], it["named"]
        sizes = " ".join(f"{size:+d}:{text}" for size, text in it["by_size"].items())
        noise = " ".join(f"{level:g}:{text}" for level, text in it["by_noise"].items())
        rows.add_row(
            kind,
            f"{f['hits']}/{f['of']} {f['share']:.1%}",
            f"{f['low']:.3f}-{f['high']:.3f}",
            f"{n['share']:.1%}",
            sizes,
            noise,
        )
    rows.add_section()
    for kind, it in found["false_alarms"].items():
        rows.add_row(
            f"false alarms, {kind}", f"{it['hits']}/{it['of']} {it['share']:.2%}", f"{it['low']:.4f}-{it['high']:.4f}"
        )
    for kind, it in found["excluded"].items():
        rows.add_row(f"places left out, {kind}", it, f"< {MOVED:g} unsteadiness")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", nargs="+", type=float, default=list(NOISE))
    asked = parser.parse_args()
    counts: Counter = Counter()
    for path in asked.sets:
        source = open_episodes(path)
        measure(once(watch(source, tuple(source.cameras))), asked.trials, asked.seed, tuple(asked.noise), counts)
    outcome = result(counts) | {"sets": [str(path) for path in asked.sets], "trials": asked.trials, "seed": asked.seed}
    console.print(table(outcome))
    print(json.dumps(outcome))
