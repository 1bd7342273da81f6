"""What `trivium action compare` shows: tables for the terminal, and a picture that can be read on a phone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trivium.core.log import console, note, warn
from trivium.eval.statistics import wilson
from trivium.report.plots import COLOURS, MARKERS, STYLE

COLUMNS = 5
"""Codes side by side in the table of dimensions: more are cut at 80 characters."""


def print_codes(found: Mapping[str, Any]) -> None:
    """Print what `compare.Comparison.to_json` returns: a table of codes, and their errors by dimension."""
    robot = found["robot"] or "an unnamed robot"
    note(
        f"{found['path']}: {robot}, chunks of {found['horizon']} steps at {found['fps']:g} Hz; "
        f"fitted on {found['num_fitted']:,}, measured on {found['num_measured']:,} of other episodes"
    )
    if found["constant"]:
        warn(f"never moves, and is decoded to its constant: {', '.join(found['constant'])}")
    table = _table("tokenizers, and a VAE, whose code is numbers")
    headers = ("", "ids", "tokens\n/ s", "RMSE\n% range", "ids\nworth", "ids\nused", "encode\nk / s", "decode\nk / s")
    for header in (*headers, "random\nmended"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for row in found["tokenizers"]:
        shares = f"{row['perplexity']:.0f}", f"{row['used_share']:.0%}"
        size = str(row["vocab_size"]), f"{row['tokens_per_s']:.1f}", f"{100 * row['rmse_share']:.2f}"
        table.add_row(row["name"], *size, *shares, *_speeds(row), f"{row['repaired_share']:.0%}")
    for row in found["continuous"]:
        size = "", f"({row['numbers_per_s']:.1f})", f"{100 * row['rmse_share']:.2f}"
        table.add_row(row["name"], *size, "", f"{row['num_active']} of {row['latent_dim']}", *_speeds(row), "")
    console.print(table)
    rows = [*found["tokenizers"], *found["continuous"]]
    title = "error by dimension: root mean square, and the worst below it, in the units of the set"
    for begin in range(0, len(rows), COLUMNS):
        table = _table(title if not begin else "error by dimension, continued")
        table.add_column("", no_wrap=True)
        for row in rows[begin : begin + COLUMNS]:
            table.add_column(row["name"].replace(" ", "\n"), justify="right", no_wrap=True)
        for i, name in enumerate(found["dimensions"]):
            cells = (f"{row['rmse'][i]:.2g}\n{row['worst'][i]:.2g}" for row in rows[begin : begin + COLUMNS])
            table.add_row(name, *cells, end_section=True)
        console.print(table)


def print_policies(scores: Sequence[Mapping[str, Any]]) -> None:
    """Print fit time and closed-loop success of every policy, by task and over all of them."""
    table = _table("policies with perfect eyes, tried in the simulator")
    for header in ("", "task", "fit s", "success", "95 %"):
        table.add_column(header, justify="left" if header in ("", "task") else "right", no_wrap=True)
    tasks = list(dict.fromkeys(score["task"] for score in scores))
    for head in dict.fromkeys(score["head"] for score in scores):
        mine = [score for score in scores if score["head"] == head]
        for i, score in enumerate(mine):
            last = len(tasks) == 1 and i == len(mine) - 1
            fit = f"{score['fit_s']:.0f}"
            table.add_row("" if i else head, score["task"], fit, *_success(score), end_section=last)
        if len(tasks) > 1:
            table.add_row("", "all", "", *_success(pooled(mine)), style="bold", end_section=True)
    console.print(table)


def pooled(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return successes, episodes and Wilson interval over several tasks, each of which has as many episodes."""
    successes, episodes = (sum(score[name] for score in scores) for name in ("successes", "episodes"))
    low, high = wilson(successes, episodes)
    return {"successes": successes, "episodes": episodes, "low": low, "high": high}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the same tables as Markdown, for documents."""
    head = "code | ids | tokens a second | RMSE, % of range | ids worth | ids used | fit, s | encode, 1,000 chunks/s"
    table = [f"{head} | decode | random sequences mended"]
    for row in found["tokenizers"]:
        cells = row["name"], str(row["vocab_size"]), f"{row['tokens_per_s']:.1f}", f"{100 * row['rmse_share']:.2f}"
        shares = f"{row['perplexity']:.0f}", f"{row['used_share']:.0%}", f"{row['fit_s']:.1f}"
        table.append(" | ".join((*cells, *shares, *_speeds(row), f"{row['repaired_share']:.0%}")))
    for row in found["continuous"]:
        cells = row["name"], "", f"{row['numbers_per_s']:.1f} numbers", f"{100 * row['rmse_share']:.2f}", ""
        used = f"{row['num_active']} of {row['latent_dim']} numbers"
        table.append(" | ".join((*cells, used, f"{row['fit_s']:.1f}", *_speeds(row), "")))
    errors = [" | ".join(("RMSE (worst), units of the set", *found["dimensions"]))]
    for row in (*found["tokenizers"], *found["continuous"]):
        pairs = zip(row["rmse"], row["worst"], strict=True)
        errors.append(" | ".join((row["name"], *(f"{rmse:.2g} ({worst:.2g})" for rmse, worst in pairs))))
    tables, scores = [table, errors], found["policies"]
    if scores:
        tasks = list(dict.fromkeys(score["task"] for score in scores))
        policies = [" | ".join(("policy", "weights", "fit, s", *tasks, "all", "95 %"))]
        for head in dict.fromkeys(score["head"] for score in scores):
            mine = [score for score in scores if score["head"] == head]
            fit = f"{sum(score['fit_s'] for score in mine) / len(mine):.0f}"
            rates = (f"{score['successes']} of {score['episodes']}" for score in mine)
            policies.append(" | ".join((head, f"{mine[0]['parameters']:,}", fit, *rates, *_success(pooled(mine)))))
        tables.append(policies)
    return "\n".join("\n".join(_markdown_rows(table)) + "\n" for table in tables)


def _markdown_rows(rows: Sequence[str]) -> list[str]:
    rule = "|".join("---" for _ in rows[0].split(" | "))
    return [f"| {rows[0]} |", f"|{rule}|", *(f"| {row} |" for row in rows[1:])]


def draw_comparison(found: Mapping[str, Any], path: Path) -> None:
    """Draw tokens against error, the error of every dimension, and the success of policies, as a PNG.

    The panels lie below one another: side by side they could not be read on a phone.

    Args:
        found: what `compare.Comparison.to_json` returns, with `policies`: rows of `PolicyScore`, maybe none.
        path: file to write.
    """
    rows, scores = [*found["tokenizers"], *found["continuous"]], found["policies"]
    heads = list(dict.fromkeys(score["head"] for score in scores))
    heights = [3.4, max(3.0, 0.8 + 0.55 * len(found["dimensions"]))]
    heights += [1.4 + 0.42 * len(heads)] if heads else []
    style: dict[Any, Any] = STYLE | {"font.size": 11.0}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.4, sum(heights) + 0.9), layout="constrained")
        panels = figure.subplots(len(heights), 1, height_ratios=heights)
        _draw_codes(rows, found["dimensions"], panels[0], panels[1])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        if heads:
            _draw_policies(heads, scores, panels[2])
        figure.savefig(path, dpi=160)


def _draw_codes(rows: Sequence[Mapping[str, Any]], dimensions: Sequence[str], above: Axes, below: Axes) -> None:
    for i, row in enumerate(rows):
        marker = MARKERS[(i + i // len(MARKERS)) % len(MARKERS)]
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": marker, "linestyle": ""}
        above.plot(_rate(row), 100 * row["rmse_share"], markersize=8, label=row["name"], **look)
        place = np.arange(len(dimensions)) + (i - (len(rows) - 1) / 2) * 0.8 / len(rows)
        below.plot(np.maximum(row["rmse"], 1e-12), place, markersize=5, **look)
        below.plot(np.maximum(row["worst"], 1e-12), place, markersize=5, fillstyle="none", **look)
    above.set(xlabel="tokens (VAE: numbers) for a second of motion", ylabel="RMSE, % of the range")
    above.set_xlim(0, 1.08 * max(_rate(row) for row in rows))
    above.set_ylim(bottom=0)
    least = min([value for row in rows for value in row["rmse"] if value > 0], default=1e-3)
    below.set(xscale="log", xlabel="error: root mean square (full) and worst (hollow)")
    below.set_xlim(left=least / 2)
    below.set_yticks(range(len(dimensions)), dimensions)
    below.set_ylim(len(dimensions) - 0.5, -0.5)


def _draw_policies(heads: Sequence[str], scores: Sequence[Mapping[str, Any]], axes: Axes) -> None:
    """Draw each policy's rate over all tasks with its interval, and the rate at every single task."""
    tasks = list(dict.fromkeys(score["task"] for score in scores))
    for i, head in enumerate(heads):
        mine = [score for score in scores if score["head"] == head]
        whole = pooled(mine)
        rate = whole["successes"] / whole["episodes"]
        spans = [[max(0.0, 100 * (rate - whole["low"]))], [max(0.0, 100 * (whole["high"] - rate))]]
        label = "all tasks, 95 %" if not i else None
        axes.errorbar(100 * rate, i, xerr=spans, color="#1d2330", marker="o", capsize=4, linestyle="", label=label)
        for j, score in enumerate(mine if len(tasks) > 1 else ()):
            marker = MARKERS[1 + j % (len(MARKERS) - 1)]
            look: dict[str, Any] = {"color": COLOURS[j % len(COLOURS)], "marker": marker, "linestyle": ""}
            label = score["task"] if not i else None
            axes.plot(100 * score["successes"] / score["episodes"], i + 0.28, markersize=5, label=label, **look)
    axes.set(xlabel="success in the simulator, % of episodes", xlim=(-3, 103))
    axes.set_yticks(range(len(heads)), heads)
    axes.set_ylim(len(heads) - 0.4, -0.6)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _rate(row: Mapping[str, Any]) -> float:
    return row["tokens_per_s"] if "tokens_per_s" in row else row["numbers_per_s"]


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _speeds(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['encode_per_s'] / 1000:,.0f}", f"{row['decode_per_s'] / 1000:,.0f}"


def _success(score: Mapping[str, Any]) -> tuple[str, str]:
    return f"{score['successes']} of {score['episodes']}", f"{100 * score['low']:.0f} to {100 * score['high']:.0f} %"
