"""The picture of `trivium action compare`: what an action costs in tokens, and how well it comes back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from trivium.report.plots import COLOURS, MARKERS, STYLE


def draw_comparison(found: Mapping[str, Any], path: Path) -> None:
    """Draw tokens against error, and the error of every dimension, as a PNG.

    Args:
        found: what `compare.Comparison.to_json` returns.
        path: file to write.
    """
    rows, dimensions = found["tokenizers"], found["dimensions"]
    height = max(3.4, 1.2 + 0.34 * len(dimensions))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, height), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, row in enumerate(rows):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": ""}
            left.plot(row["tokens_per_s"], 100 * row["rmse_share"], markersize=8, label=row["name"], **look)
            place = np.arange(len(dimensions)) + (i - (len(rows) - 1) / 2) * 0.1
            right.plot(np.maximum(row["rmse"], 1e-12), place, markersize=5, **look)
            right.plot(np.maximum(row["worst"], 1e-12), place, markersize=5, fillstyle="none", **look)
        left.set(xlabel="tokens for a second of motion", ylabel="RMSE, % of the range")
        left.set_xlim(0, 1.08 * max(row["tokens_per_s"] for row in rows))
        left.set_ylim(bottom=0)
        least = min([value for row in rows for value in row["rmse"] if value > 0], default=1e-3)
        right.set(xscale="log", xlabel="error: root mean square (full) and worst (hollow)")
        right.set_xlim(left=least / 2)
        right.set_yticks(range(len(dimensions)), dimensions)
        right.set_ylim(len(dimensions) - 0.5, -0.5)
        figure.legend(loc="outside upper center", ncols=min(len(rows), 6))
        figure.savefig(path, dpi=120)
