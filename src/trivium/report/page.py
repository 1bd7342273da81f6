"""The report: one self-contained HTML file that says what a run learned, from what, and how well it works."""

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trivium import __version__
from trivium.core.files import write_atomic
from trivium.core.objective import NEXT_TOKEN
from trivium.probe.health import HealthReport
from trivium.report import plots
from trivium.report.metrics import StageMetrics
from trivium.report.painted import painted_section
from trivium.report.run_folder import UNTRAINED, BadSample, RunFolder, StageEntry, read_run
from trivium.report.stability import stability_section
from trivium.report.text import text_section

CLIP_BUDGET = 4_500_000
"""Bytes of clips that go into the page; base64 makes them a third larger. The page stays under 8 MB."""
MEDIA = {".gif": "image/gif", ".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4", ".webm": "video/webm"}


def write_report(run: Path) -> Path:
    """Write report.html into a run folder, from nothing but that folder, and return its path.

    What is missing or broken is said on the page; a run that is still training gives a page too.

    Raises:
        CheckpointError: `run` is not a run folder, or it cannot be written.
    """
    folder = read_run(run)
    environment = Environment(
        loader=PackageLoader("trivium.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "minutes": minutes, "percent": percent}
    assert environment.loader is not None, "set two lines above"
    css, _, _ = environment.loader.get_source(environment, "page.css")
    page = environment.get_template("page.jinja").render(css=Markup(css), **_content(folder))
    path = run / "report.html"
    write_atomic(path, page)
    return path


def _content(folder: RunFolder) -> dict[str, Any]:
    clips, left_out = pick_clips(folder)
    strips, lost = _strips(folder)
    painted, unread = painted_section(folder)
    dropped, stability = _dropped(folder), _stability(folder)
    return {
        "run": folder,
        "version": __version__,
        "tiles": _tiles(folder),
        "problems": (*folder.problems, *stability["problems"], *left_out, *lost, *unread),
        "stages": _stages(folder),
        "probes": _probes(folder),
        "texts": _texts(folder),
        "stability": stability,
        "painted": painted,
        "evals": folder.evals,
        "tasks": list(dict.fromkeys(task.task for result in folder.evals.values() for task in result.tasks)),
        "success": _figure(plots.success(folder.evals), "Closed-loop success by task") if folder.evals else "",
        "clips": clips,
        "strips": strips,
        "dropped": dropped,
        "num_dropped": sum(row["count"] for row in dropped),
        "quarantined": _quarantined(folder),
        "seconds": sum(folder.times.values()),
    }


@dataclass(frozen=True)
class Tile:
    """One figure of the summary."""

    value: str
    label: str
    detail: str


def _tiles(folder: RunFolder) -> list[Tile]:
    tiles = []
    trained = [result for label, result in folder.evals.items() if label != UNTRAINED]
    if trained:
        result, before = trained[-1], folder.evals.get(UNTRAINED)
        detail = f"{percent(result.low)} to {percent(result.high)}"
        detail += f"; untrained {percent(before.mean)}" if before else "; no untrained control"
        tiles.append(Tile(percent(result.mean), "closed-loop success", detail))
    for margin, target in _headline(folder.health):
        label = f"{target} over {margin.control}, in {'R2' if target != 'task identity' else 'accuracy'}"
        tiles.append(Tile(f"{margin.full.value:+.2f}", label, f"{margin.full.low:+.2f} to {margin.full.high:+.2f}"))
    tokens = sum(metrics.tokens.total() for metrics in folder.metrics.values())
    if tokens:
        steps = sum(len(metrics.steps) for metrics in folder.metrics.values())
        stages = f"{len(folder.metrics)} stage{'s' if len(folder.metrics) != 1 else ''}"
        tiles.append(Tile(count(tokens), "tokens trained on", f"{count(steps)} steps in {stages}"))
    if folder.times:
        tiles.append(Tile(minutes(sum(folder.times.values())), "from start to end", "data, training, checks, rollouts"))
    return tiles


def _headline(health: tuple[HealthReport, ...]) -> Iterable[tuple[Any, str]]:
    """Take the first target of the last check against its controls: the question the stages are there to answer."""
    if not health or not health[-1].targets:
        return []
    target = health[-1].targets[0]
    return [(margin, target.name) for margin in target.margins if margin.probe == "linear"]


def _stages(folder: RunFolder) -> list[dict[str, Any]]:
    longest = max((folder.times.get(f"train: {s.name}", 0.0) for s in folder.config.stages), default=0.0)
    return [_stage(folder, stage, longest) for stage in folder.config.stages]


def _stage(folder: RunFolder, stage: StageEntry, longest: float) -> dict[str, Any]:
    """Gather one stage: what it was, how far it came, its charts and its token table."""
    metrics, plan = folder.metrics.get(stage.name), folder.plans.get(stage.name)
    seconds = folder.times.get(f"train: {stage.name}")
    learners = [row for row in plan.learners if row.pattern != "(frozen)"] if plan else []
    frozen = sum(row.elements for row in plan.learners if row.pattern == "(frozen)") if plan else 0
    realised = metrics.by(0) if metrics else {}
    total = sum(realised.values()) or 1
    shares = {bucket: number / total for bucket, number in realised.items()}
    modalities = [(name, number / total) for name, number in metrics.by(1).most_common()] if metrics else []
    charts = []
    if metrics:
        charts.append(_figure(plots.losses(metrics), f"Losses of stage {stage.name}", "Losses"))
        charts.append(_figure(plots.learning_rates(metrics), f"Learning rates of stage {stage.name}", "Learning rates"))
        charts.append(_figure(plots.gradient_norm(metrics), f"Gradient norm of stage {stage.name}", "Gradient norm"))
    if plan and len(plan.buckets) > 1:
        drawn = plots.token_shares(plan.buckets, shares)
        charts.append(_figure(drawn, f"Token shares of stage {stage.name}", "Token shares"))
    return {
        "entry": stage,
        "done": len(metrics.steps) if metrics else 0,
        "seconds": seconds,
        "bar": max(2.0, 100 * seconds / longest) if seconds and longest else 0.0,
        "tokens": sum(realised.values()),
        "learners": learners,
        "learning": sum(row.elements for row in learners),
        "frozen": frozen,
        "losses": _loss_falls(metrics) if metrics else [],
        "speed": metrics.mean_speed if metrics else None,
        "wait": metrics.mean_wait if metrics else None,
        "skipped": metrics.skipped if metrics else 0,
        "modalities": modalities,
        "plan": plan,
        "shares": shares,
        "realised": realised,
        "charts": charts,
    }


def _loss_falls(metrics: StageMetrics) -> list[tuple[str, float, float, str]]:
    """Say for each loss where it began, where it ended, and in which unit: next-token losses in bits."""
    falls = []
    for name in sorted(metrics.losses):
        per_unit, unit = (math.log(2), "bits a token") if name in NEXT_TOKEN else (1.0, "")
        falls.append((name, metrics.first(name) / per_unit, metrics.last(name) / per_unit, unit))
    return falls


def _probes(folder: RunFolder) -> dict[str, Any]:
    """Draw every target's score by stage, and every check's learning curves (the last check's first)."""
    names = list(dict.fromkeys(target.name for report in folder.health for target in report.targets))
    return {
        "by_stage": [
            _figure(plots.scores_by_stage(folder.health, name), f"{name}: score after each stage", name)
            for name in names
        ],
        "checks": [
            {
                "report": report,
                "curves": [
                    _figure(plots.learning_curves(target), f"{target.name}: learning curves", target.name)
                    for target in report.targets
                ],
            }
            for report in reversed(folder.health)
        ],
    }


def _texts(folder: RunFolder) -> dict[str, Any]:
    section = text_section(folder)
    return section | {"figure": _figure(section["drawing"], "Held-out text in bits a byte along the run")}


def _stability(folder: RunFolder) -> dict[str, Any]:
    section = stability_section(folder)
    success = _figure(section["success_drawing"], "Success without one sense", "Success without one sense")
    losses = _figure(section["loss_drawing"], "Held-out losses without one sense", "Rise of held-out losses")
    return section | {"success_figure": success, "loss_figure": losses}


def pick_clips(folder: RunFolder) -> tuple[list[dict[str, Any]], list[str]]:
    """Inline clips until the budget is used: the last policy's first, one a task before a second of any."""
    wanted = []
    for age, (label, result) in enumerate(reversed(list(folder.evals.items()))):
        for task in result.tasks:
            wanted += [(turn, age, label, task.task, name) for turn, name in enumerate(task.videos)]
    shown, left_out, missing, used = [], 0, 0, 0
    for _, _, label, task, name in sorted(wanted, key=lambda clip: clip[:2]):
        path = folder.file(name)
        if path is None or path.suffix not in MEDIA:
            missing += 1
        elif used + path.stat().st_size > CLIP_BUDGET:
            left_out += 1
        else:
            used += path.stat().st_size
            is_video = MEDIA[path.suffix].startswith("video")
            shown.append({"label": label, "task": task, "name": name, "source": _inline(path), "is_video": is_video})
    said = []
    if missing:
        said.append(f"{missing} rollout clips that the results name are not in the run folder.")
    if left_out:
        said.append(
            f"{left_out} rollout clips are left out to keep the page small; they are in eval/ of the run folder."
        )
    return shown, said


def _strips(folder: RunFolder) -> tuple[list[dict[str, Any]], list[str]]:
    shown, lost = [], 0
    for strip in folder.strips:
        picture = folder.file(strip.image)
        if picture is None or not strip.actions:
            lost += 1
            continue
        drawn = _figure(plots.aligned_sample(strip, picture), f"Sample {strip.id}: {strip.instruction}")
        shown.append({"strip": strip, "figure": drawn})
    return shown, [f"{lost} aligned samples have no picture or no action chunk."] if lost else []


def _dropped(folder: RunFolder) -> list[dict[str, Any]]:
    """List what could not be used, by stage, bucket and reason."""
    return [
        {
            "stage": stage,
            "bucket": bucket.bucket,
            "reason": reason,
            "count": number,
            "first": bucket.dropped_samples[:5],
        }
        for stage, plan in folder.plans.items()
        for bucket in plan.buckets
        for reason, number in bucket.dropped.items()
    ]


def _quarantined(folder: RunFolder) -> list[dict[str, Any]]:
    """Count the bad samples by stage, bucket and kind of reason, with a few of them by name."""
    groups: dict[tuple[str, str, str], list[BadSample]] = {}
    for bad in folder.quarantined:
        groups.setdefault((bad.stage, bad.bucket, bad.kind), []).append(bad)
    return [
        {
            "stage": stage,
            "bucket": bucket,
            "kind": kind,
            "count": len(found),
            "first": [bad.id for bad in found[:3]],
            "where": found[0].where,
            "short": sum(sum(bad.short.values()) for bad in found),
        }
        for (stage, bucket, kind), found in groups.items()
    ]


def _figure(svg: str, text: str, caption: str = "") -> Markup:
    """Wrap a chart as a picture of its own, so that the names inside one SVG cannot clash with another's."""
    data = base64.b64encode(svg.encode()).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f'<figure>{below}<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>')


def _inline(path: Path) -> Markup:
    return Markup(f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}")


def count(number: float) -> str:
    """Write a count the short way: 950, 12.3k, 4.56M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def minutes(seconds: float) -> str:
    """Write a time in the unit a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """Write a share as a whole percentage."""
    return f"{share:.0%}"
