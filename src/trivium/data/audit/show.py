"""What a person sees of an audit: a table, and pictures to be judged in a minute."""

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from trivium.data.audit.finding import KINDS, Audit, Finding
from trivium.data.audit.recording import Recording
from trivium.data.source.episode import EpisodeSource

NUM_PICTURES = 8
"""Moments in a strip."""
NUM_WORST = 6
STYLE: dict[Any, Any] = {"font.size": 8.5, "axes.grid": True, "grid.color": "#e3e6ec", "legend.frameon": False}


def summary(audited: Audit) -> Table:
    """Count findings by kind."""
    table = Table(title=f"{audited.name}: {audited.episodes} episodes, {audited.frames:,} frames")
    for header in ("finding", "number", "fails", "meaning"):
        table.add_column(header)
    counts = Counter(finding.kind for finding in audited.findings)
    faults = {finding.kind for finding in audited.faults}
    for kind, meaning in KINDS.items():
        if counts[kind]:
            table.add_row(kind, str(counts[kind]), "yes" if kind in faults else "", meaning)
    if audited.unknown:
        table.add_row("cannot tell", str(len(audited.unknown)), "", audited.unknown[0].reason)
    if not counts:
        table.add_row("nothing", "0", "", "")
    return table


def details(audited: Audit, most: int = 40) -> Table:
    """List findings, the surest faults first."""
    table = Table(
        title=f"{audited.name}: findings"
        + (f", {most} of {len(audited.findings)}" if len(audited.findings) > most else "")
    )
    for header in ("episode", "frame", "kind", "confidence", "what"):
        table.add_column(header)
    for it in worst(audited)[:most]:
        where = "all" if it.episode is None else str(it.episode), "" if it.frame is None else str(it.frame)
        table.add_row(*where, it.kind, f"{it.confidence:.2f}", it.text)
    return table


def worst(audited: Audit) -> list[Finding]:
    """Return the findings, faults first, the surest first."""
    return sorted(audited.findings, key=lambda it: (not it.fault, it.episode is not None, -it.confidence))


def draw(audited: Audit, seen: Recording, source: EpisodeSource, folder: Path) -> list[Path]:
    """Draw the worst episodes and one without a finding; return the files.

    Raises:
        DataError: a picture cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = {int(number): e for e, number in enumerate(seen.number)}
    faulty = list({it.episode: it for it in reversed(worst(audited)) if it.fault and it.episode is not None}.values())[
        ::-1
    ]
    files = []
    for it in faulty[:NUM_WORST]:
        files.append(folder / f"episode-{it.episode}-{it.kind}.png")
        _strip(
            files[-1], at[int(it.episode or 0)], f"episode {it.episode}: {it.kind}, {it.text}", it.frame, seen, source
        )
    named = {it.episode for it in audited.findings}
    clean = next((number for number in at if number not in named), None)
    if clean is not None:
        files.append(folder / f"episode-{clean}-clean.png")
        _strip(files[-1], at[clean], f"episode {clean}: nothing found", None, seen, source)
    return files


def _strip(file: Path, e: int, title: str, mark: int | None, seen: Recording, source: EpisodeSource) -> None:
    """Draw pictures over curves; the ticks of the curves are the frames of the pictures."""
    span = seen.spans()[e]
    frames = span.stop - span.start
    shown = np.unique(np.linspace(0, frames - 1, NUM_PICTURES).round().astype(int))
    views = list(seen.looks)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.3 * len(views) + 5.4), layout="constrained")
        grid = figure.add_gridspec(len(views) + 3, len(shown), height_ratios=[1.0] * len(views) + [1.3] * 3)
        for row, view in enumerate(views):
            for column, frame in enumerate(shown):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(_picture(source, view, e, int(frame)))
                axes.set(xticks=[], yticks=[], title=f"{view} {frame}" if row == 0 else "")
                axes.set_ylabel(view if column == 0 else "")
        curves = {"motion (each to its largest)": _motion(seen, span)}
        curves |= {"action": dict(zip(seen.action_names, seen.action[span].T, strict=True))}
        curves |= {"state": dict(zip(seen.state_names, seen.state[span].T, strict=True))}
        for row, (label, lines) in enumerate(curves.items(), start=len(views)):
            axes = figure.add_subplot(grid[row, :])
            for name, values in list(lines.items())[:12]:
                axes.plot(values, marker=".", markersize=3, linewidth=1, label=name)
            axes.set(ylabel=label, xlim=(-0.5, frames - 0.5), xticks=shown)
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
            if mark is not None:
                axes.axvline(mark, color="#D55E00", linewidth=1.2, linestyle="--")
        figure.suptitle(title)
        figure.savefig(file, dpi=90)


def _motion(seen: Recording, span: slice) -> dict[str, np.ndarray]:
    """Return how much state and pictures change into each frame, and how large the action before it is."""
    spread = np.where(seen.state.std(0) > 0, seen.state.std(0), 1.0)
    streams = {"state": np.linalg.norm(np.diff(seen.state[span] / spread, axis=0), axis=1)}
    for view, looks in seen.looks.items():
        streams[view] = np.abs(np.diff(looks[span].astype(np.float64), axis=0)).mean(1)
    streams["action before"] = np.linalg.norm(seen.action[span][:-1] - np.median(seen.action, axis=0), axis=1)
    return {name: np.concatenate([[np.nan], v / max(float(v.max(initial=0)), 1e-12)]) for name, v in streams.items()}


def _picture(source: EpisodeSource, view: str, e: int, frame: int) -> np.ndarray:
    found = source.found
    place = int(found.place[e]) if len(found.place) else e
    row = int(found.begin[e]) + frame
    return source.picture(view, place, int(found.shown[row]) if len(found.shown) else frame)
