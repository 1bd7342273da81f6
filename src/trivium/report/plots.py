"""Charts of the report as SVG: small, colour-blind safe, readable on a phone."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image as Pillow

from trivium.probe.curve import Estimate
from trivium.probe.health import HealthReport, TargetResult
from trivium.report.metrics import StageMetrics, smooth, thin
from trivium.report.run_folder import BucketShare, EvalFile, Strip

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's palette, told apart by all; yellow is left out because it fades on white."""
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555b66",
    "axes.labelcolor": "#1d2330",
    "xtick.color": "#3b4252",
    "ytick.color": "#3b4252",
    "axes.grid": True,
    "grid.color": "#e3e6ec",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "trivium",
}
WIDTH_IN = 4.4
"""At 4.4 inches, 10 points of text are about 11 pixels on a phone 390 pixels wide and 16 at most on a desktop."""


def losses(metrics: StageMetrics) -> str:
    """Draw every loss of a stage over its steps: the smoothed line on top of the raw one."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.7)
        shown = []
        for number, name in enumerate(sorted(metrics.losses)):
            x, y = thin(metrics.steps, metrics.losses[name])
            axes.plot(x, y, color=_colour(number), alpha=0.25, linewidth=0.8)
            shown.append(smooth(y))
            axes.plot(x, shown[-1], color=_colour(number), linestyle=_dash(number), label=name)
        _log_if_wide(axes, shown)
        axes.set(xlabel="step", ylabel="loss")
        _legend(axes, len(shown))
        return _svg(figure)


def learning_rates(metrics: StageMetrics) -> str:
    """Draw the learning rate of every parameter group; groups that share one share a line."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.7)
        same: dict[tuple[float, ...], list[str]] = {}
        for name in sorted(metrics.lrs):
            same.setdefault(tuple(metrics.lrs[name]), []).append(name)
        for number, (values, names) in enumerate(same.items()):
            x, y = thin(metrics.steps, list(values))
            label = ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"
            axes.plot(x, y, color=_colour(number), linestyle=_dash(number), label=label)
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _legend(axes, len(same), columns=2)
        return _svg(figure)


def gradient_norm(metrics: StageMetrics) -> str:
    """Draw the gradient norm before clipping."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.7)
        x, y = thin(metrics.steps, metrics.grad_norms)
        axes.plot(x, y, color=_colour(0), alpha=0.3, linewidth=0.8)
        axes.plot(x, smooth(y), color=_colour(0))
        _log_if_wide(axes, [smooth(y)])
        axes.set(xlabel="step", ylabel="gradient norm")
        return _svg(figure)


def token_shares(buckets: Sequence[BucketShare], realised: Mapping[str, float]) -> str:
    """Draw asked, planned and realised shares of tokens, three bars a bucket."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(0.9 + 0.62 * len(buckets))
        y = np.arange(len(buckets))[::-1]
        rows = (
            ("asked", [b.asked for b in buckets]),
            ("planned", [b.planned for b in buckets]),
            ("realised", [realised.get(b.bucket, 0.0) for b in buckets]),
        )
        for number, (label, values) in enumerate(rows):
            axes.barh(
                y + 0.26 * (1 - number), values, 0.24, color=("#9aa3b2", _colour(5), _colour(0))[number], label=label
            )
        axes.set_yticks(y, [_short(b.bucket, 17) for b in buckets])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of tokens")
        _legend(axes, 3)
        return _svg(figure)


def learning_curves(target: TargetResult) -> str:
    """Draw the score over training samples: an encoder a colour, linear solid and MLP dashed, with intervals."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.0)
        encoders = list(dict.fromkeys(curve.encoder for curve in target.curves))
        for curve in target.curves:
            number, is_linear = encoders.index(curve.encoder), curve.probe == "linear"
            values = [score.value for score in curve.scores]
            label = curve.encoder if is_linear else None
            axes.plot(
                curve.sizes,
                values,
                color=_colour(number),
                linestyle="-" if is_linear else DASHES[2],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4 if is_linear else 2.5,
                label=label,
            )
            if is_linear:
                low, high = [s.low for s in curve.scores], [s.high for s in curve.scores]
                axes.fill_between(curve.sizes, low, high, color=_colour(number), alpha=0.14, linewidth=0)
        axes.axhline(target.chance, color="#555b66", linewidth=0.9, linestyle=DASHES[1])
        sizes = target.curves[0].sizes
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="training samples (dotted: MLP probe)", ylabel=_metric(target), ylim=_score_limits(target))
        _legend(axes, len(encoders))
        return _svg(figure)


def scores_by_stage(reports: Sequence[HealthReport], target: str) -> str:
    """Draw the linear score at all training samples after each stage, the subject and its controls, with intervals."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.0)
        found = [(r, t) for r in reports for t in r.targets if t.name == target]
        encoders = list(dict.fromkeys(note.name for report, _ in found for note in report.encoders))
        for number, encoder in enumerate(encoders):
            points = [_final_score(result, encoder) for _, result in found]
            x = np.array([i for i, point in enumerate(points) if point])
            kept = [point for point in points if point]
            values = np.array([point.value for point in kept])
            spans = np.array([[p.value - p.low for p in kept], [p.high - p.value for p in kept]]).clip(0)
            axes.errorbar(
                x + 0.08 * (number - (len(encoders) - 1) / 2),
                values,
                spans,
                color=_colour(number),
                marker=MARKERS[number % len(MARKERS)],
                markersize=4.5,
                linestyle=_dash(number),
                linewidth=1.3,
                capsize=2.5,
                label=encoder,
            )
        names = [report.stage for report, _ in found]
        tilt = 0 if max(map(len, names)) * len(names) <= 40 else 25
        axes.set_xticks(
            range(len(names)), [_short(n, 18) for n in names], rotation=tilt, ha="right" if tilt else "center"
        )
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set(ylabel=_metric(found[0][1]), ylim=_score_limits(*(result for _, result in found)))
        _legend(axes, len(encoders))
        return _svg(figure)


def bits_per_byte(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], ends: Mapping[str, int]) -> str:
    """Draw held-out text along the run, (value, low, high) a point, with a thin line where each stage ends."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.9)
        for number, (name, (x, values)) in enumerate(lines.items()):
            colour = _colour(number)
            axes.fill_between(x, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0)
            marker = MARKERS[number % len(MARKERS)]
            style = {"color": colour, "linestyle": _dash(number), "marker": marker, "markersize": 4.5}
            axes.plot(x, values[:, 0], label=name, **style)
        for stage, end in ends.items():
            axes.axvline(end, color="#9aa1ad", linewidth=0.8)
            place = {"xytext": (-3, -2), "textcoords": "offset points", "ha": "right", "va": "top", "rotation": 90}
            axes.annotate(_short(stage, 14), (end, 1), xycoords=("data", "axes fraction"), fontsize=8, **place)
        axes.set(xlabel="step of the run", ylabel="bits a byte")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _legend(axes, len(lines))
        return _svg(figure)


def success(evals: Mapping[str, EvalFile]) -> str:
    """Draw closed-loop success by task with Wilson intervals, a colour a policy, the untrained one in grey."""
    tasks = list(dict.fromkeys(task.task for result in evals.values() for task in result.tasks))
    with mpl.rc_context(STYLE):
        figure, axes = _figure(0.9 + (0.26 + 0.24 * len(evals)) * (len(tasks) + 1))
        height = 0.76 / len(evals)
        for number, (label, result) in enumerate(evals.items()):
            rows = {task.task: (task.successes / max(task.episodes, 1), task.low, task.high) for task in result.tasks}
            rows["mean"] = (result.mean, result.low, result.high)
            for place, name in enumerate([*tasks, "mean"]):
                if name not in rows:
                    continue
                value, low, high = rows[name]
                y = -place - height * (number - (len(evals) - 1) / 2)
                colour = "#9aa3b2" if label == "untrained" else _colour(max(0, number - 1))
                axes.barh(y, value, height * 0.92, color=colour, label=label if place == 0 else None)
                span = [[max(0.0, value - low)], [max(0.0, high - value)]]
                axes.errorbar(value, y, xerr=span, color="#1d2330", linewidth=1.1, capsize=2.5)
        axes.set_yticks([-place for place in range(len(tasks) + 1)], [_short(t, 20) for t in [*tasks, "mean"]])
        axes.set(xlim=(0, 1.02), xlabel="success")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
        _legend(axes, len(evals))
        return _svg(figure)


def without_senses(result: EvalFile) -> str:
    """Draw success without each sense with its Wilson interval, over that of the same episodes with all in grey."""
    rows = result.ablations
    with mpl.rc_context(STYLE):
        figure, axes = _figure(0.9 + 0.42 * len(rows))
        for place, row in enumerate(rows):
            value = row.successes / row.episodes
            both = "with all senses" if place == 0 else None
            axes.barh(-place, row.whole / row.episodes, 0.66, color="#d3d8e1", label=both)
            axes.barh(-place, value, 0.4, color=_colour(0), label="without" if place == 0 else None)
            span = [[max(0.0, value - row.low)], [max(0.0, row.high - value)]]
            axes.errorbar(value, -place, xerr=span, color="#1d2330", linewidth=1.1, capsize=2.5)
        axes.set_yticks([-place for place in range(len(rows))], [_short(row.without, 20) for row in rows])
        axes.set(xlim=(0, 1.02), xlabel="success")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
        _legend(axes, 2)
        return _svg(figure)


def loss_without(losses: Mapping[str, Mapping[str, tuple[float, float, float]]], units: Mapping[str, str]) -> str:
    """Draw (change, low, high) of every loss by sense, a panel a loss: their units differ."""
    senses = list(dict.fromkeys(sense for rows in losses.values() for sense in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, len(losses) * (0.62 + 0.2 * len(senses))), layout=ConstrainedLayoutEngine())
        panels = figure.subplots(len(losses), 1, squeeze=False)[:, 0]
        for number, (axes, (loss, rows)) in enumerate(zip(panels, losses.items(), strict=True)):
            for place, sense in enumerate(senses):
                if sense in rows:
                    value, low, high = rows[sense]
                    span = [[max(0.0, value - low)], [max(0.0, high - value)]]
                    style: dict[str, Any] = {"color": _colour(number), "marker": "o", "markersize": 4.5}
                    axes.errorbar(value, -place, xerr=span, linewidth=1.4, capsize=2.5, **style)
            axes.axvline(0, color="#555b66", linewidth=0.8)
            axes.set_yticks([-place for place in range(len(senses))], [_short(sense, 20) for sense in senses])
            axes.set(
                ylim=(0.6 - len(senses), 0.6), xlabel=f"{loss}{', ' if units.get(loss) else ''}{units.get(loss, '')}"
            )
            axes.xaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure)


def aligned_sample(strip: Strip, picture: Path) -> str:
    """Draw what the camera saw beside the commands that follow it, the part past the episode's end in grey."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.1), layout=ConstrainedLayoutEngine(w_pad=0.01, wspace=0.0))
        seen, axes = figure.subplots(1, 2, width_ratios=(1, 1.2))
        with Pillow.open(picture) as image:
            image.thumbnail((256, 256))
            seen.imshow(np.asarray(image.convert("RGB")))
        seen.set_axis_off()
        actions = np.array(strip.actions, float)
        steps = np.arange(len(actions))
        for column, values in enumerate(actions.T):
            name = strip.names[column] if column < len(strip.names) else f"action {column}"
            axes.plot(steps, values, color=_colour(column), linestyle=_dash(column), label=_short(name, 14))
        past = [step for step, good in enumerate(strip.valid) if not good]
        if past:
            axes.axvspan(past[0] - 0.5, len(actions) - 0.5, color="#c7ccd6", alpha=0.6, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("steps after the picture")
        axes.tick_params(labelsize=8.5)
        if actions.shape[1] <= 8:
            axes.legend(
                loc="lower center",
                bbox_to_anchor=(0.5, 1.0),
                ncols=4,
                fontsize=8.5,
                columnspacing=0.7,
                handlelength=1.2,
                handletextpad=0.4,
            )
        return _svg(figure)


def _figure(height_in: float) -> tuple[Figure, Axes]:
    # The object way, without pyplot: no global figure, no display, nothing to close.
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dash(number: int) -> str | tuple:
    return DASHES[number % len(DASHES)]


def _legend(axes: Axes, count: int, columns: int = 3) -> None:
    """Put the names above the chart, where no line can hide them."""
    if count:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(count, columns), columnspacing=1.2)


def _log_if_wide(axes: Axes, lines: Sequence[np.ndarray]) -> None:
    values = np.concatenate([line[np.isfinite(line)] for line in lines]) if lines else np.zeros(0)
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")


def _metric(target: TargetResult) -> str:
    return "R2 within a task" if target.metric == "R2" else "accuracy"


def _score_limits(*targets: TargetResult) -> tuple[float, float]:
    """Leave out what lies far below chance: one hopeless point would press all others together."""
    lowest = min(s.low for t in targets for c in t.curves if c.probe == "linear" for s in c.scores)
    return max(-0.3, min(-0.02, lowest)) if targets[0].metric == "R2" else 0.0, 1.04


def _final_score(target: TargetResult, encoder: str) -> Estimate | None:
    return next((c.scores[-1] for c in target.curves if c.encoder == encoder and c.probe == "linear"), None)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"
