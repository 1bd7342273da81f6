"""`trivium data plan` and `presets`: what a stage will train on, and what others have trained on."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trivium.assemble import Supply
from trivium.core.log import console
from trivium.data.bucket import ANY_SIZE, SizeRange
from trivium.data.plan import Plan
from trivium.data.preset.catalog import PRESETS, preset
from trivium.data.preset.preset import Preset
from trivium.run import Run, Stage


def show_plan(config: Run) -> None:
    """Count, plan and print every stage in order; no model is built unless a bucket depends on its size.

    Raises:
        ConfigError: a stage would repeat a bucket too often, or has none for this model.
        DataError: a source cannot be used.
    """
    supply = Supply(config)
    total = 0
    for stage in config.stages:
        plan = supply.plan(stage)
        total += plan.tokens
        console.print(lay_out(stage, plan))
    console.print(f"{config.name}: {len(config.stages)} stages, {total:,} tokens planned")


def lay_out(stage: Stage, plan: Plan) -> Group:
    """Lay the plan of one stage out: a line a bucket, then sums, and what will never be used and why."""
    title = f"{stage.name}: {stage.steps:,} steps x {stage.accumulate} x {plan.mixture.rows_per_batch} rows"
    table = Table(title=f"{title} of {plan.mixture.row_length:,} tokens", title_justify="left")
    table.add_column("bucket", overflow="fold")
    for header in ("asked", "planned", "tokens", "samples", "epochs"):
        table.add_column(header, justify="right")
    rows = plan.table()
    for row in rows:
        shares = f"{row.asked:.1%}", f"{row.planned:.1%}"
        table.add_row(row.bucket, *shares, f"{row.tokens:,}", f"{row.samples:,}", f"{row.epochs:.2f}")
    table.add_section()
    table.add_row("all", "100.0%", "100.0%", f"{plan.tokens:,}", f"{sum(row.samples for row in rows):,}", "")
    lines = [f"padding {plan.padding:.1%} of the rows"]
    for row in rows:
        lines += [f"{row.bucket}: dropped {number:,} samples, {reason}" for reason, number in row.dropped.items()]
    lines += [f"{bucket.name}: not for a model of this size" for bucket in _left_out(stage, plan)]
    return Group(table, Text("\n".join(lines)), "")


def _left_out(stage: Stage, plan: Plan) -> list:
    return [bucket for bucket in stage.mixture.buckets if bucket not in plan.mixture.buckets]


def show_presets(name: str) -> None:
    """Print one published mixture with its sources, or the names of all for "".

    Raises:
        ConfigError: there is none of that name.
    """
    if name:
        console.print(_published(preset(name)))
        return
    table = Table(title="published mixtures: trivium data presets NAME", title_justify="left")
    for header in ("name", "rows", "what it is"):
        table.add_column(header, overflow="fold")
    for known in PRESETS:
        table.add_row(known.name, str(len(known.rows)), known.title)
    console.print(table)


def _published(found: Preset) -> Group:
    """Lay a preset out: rows with their shares, our sum beside the printed one, settings, and every citation below."""
    cites = dict.fromkeys(
        [row.cite for row in found.rows]
        + ([found.total_cite] if found.total_cite else [])
        + [setting.cite for setting in found.settings]
    )
    number = {cite: f"[{j}]" for j, cite in enumerate(cites, start=1)}
    table = Table(title=f"{found.name}: {found.title}", title_justify="left")
    table.add_column("row", overflow="fold")
    for header in (found.unit, "used", "share"):
        table.add_column(header, justify="right")
    for header in ("models", "from"):
        table.add_column(header)
    for row in found.rows:
        share = f"{row.weight / found.sum_used:.1%}"
        table.add_row(row.name, f"{row.amount:,g}", f"x {row.used:g}", share, _sizes(row.when), Text(number[row.cite]))
    table.add_section()
    table.add_row("our sum", f"{found.sum:,.6g}", f"= {found.sum_used:,.6g}", "100.0%", "", "")
    if found.total is not None and found.total_cite is not None:
        table.add_row("sum as printed", f"{found.total:,.6g}", "", "", "", Text(number[found.total_cite]))
    lines = [f"{setting.name}: {setting.value} {number[setting.cite]}" for setting in found.settings]
    lines += [*found.notes, *(f"{mark} {cite}" for cite, mark in number.items())]
    return Group(table, Text("\n".join(lines)))


def _sizes(when: SizeRange) -> str:
    if when == ANY_SIZE:
        return "all"
    return f"from {when.at_least / 1e9:g} B" if when.at_least else f"below {when.below / 1e9:g} B"
