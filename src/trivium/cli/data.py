"""`trivium data ...`: looking at data, measuring, auditing, planning and converting them before anything trains."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress, track
from rich.table import Table

from trivium.cli.failure import explained
from trivium.core.log import console, note, warn

app = typer.Typer(name="data", help="Look at data before anything trains on them.", no_args_is_help=True)

SetPath = Annotated[Path, typer.Argument(help="Folder or file of a set; its format is found out.")]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings of its source, such as views=[top] horizon=8.")]


@app.command("ls")
def list_sets(path: Annotated[Path, typer.Argument(help="A set, or a folder that holds sets.")] = Path(".")) -> None:
    """List the sets at or below a path: format, samples, licence, size, and what they hold; nothing is decoded."""
    from trivium.core.errors import DataError
    from trivium.data.detect import detect, find
    from trivium.data.survey import survey

    with explained():
        paths = list(find(path))
        if not paths:
            detect(path)  # raises the error that names the known formats
        broken = 0
        for found in track(paths, "opening", console=console, transient=True):
            console.print(str(found), style="bold", markup=False, soft_wrap=True)
            try:
                config = detect(found)
                note(survey(found, config.kind, config.build()).line())
            except DataError as error:
                warn(str(error))
                broken += 1
        if broken:
            raise typer.Exit(1)


@app.command()
def show(
    path: SetPath,
    settings: Settings = None,
    number: Annotated[int, typer.Option(help="Samples to draw, spread evenly.", min=1, max=60)] = 9,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("samples.png"),
    rerun: Annotated[Path | None, typer.Option(help="Also log them to this .rrd file for the Rerun viewer.")] = None,
) -> None:
    """Draw samples of a set on a contact sheet: pictures, words, state, and the chunk of actions that follows."""
    from trivium.data.detect import open_all
    from trivium.report.rerun_log import log_samples
    from trivium.report.sheet import draw_sheet

    with explained():
        source = open_all(path, settings or [])
        chosen = np.unique(np.linspace(0, len(source) - 1, number).astype(int))
        samples = [source.read(int(i)) for i in track(chosen, "reading", console=console, transient=True)]
        draw_sheet(samples, out)
        note(f"{out}: {len(samples)} of {len(source):,} samples")
        if rerun is not None:
            log_samples(samples, rerun)
            note(f"{rerun}: open it with `rerun {rerun}`")


@app.command()
def stats(
    path: SetPath,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Measure state and action per dimension (moments and quantiles) from the tables alone; no video is decoded."""
    from trivium.core.errors import DataError
    from trivium.core.files import write_json
    from trivium.data.column import to_json
    from trivium.data.detect import detect
    from trivium.data.stats import measure

    with explained():
        source = detect(path, settings or []).build()
        found = measure([(source, np.arange(len(source)))])
        if not found:
            raise DataError(
                str(path), "a set without numbers", "states or actions", "`trivium data ls` says what it holds."
            )
        for robot, columns in found.items():
            for name, column in columns.items():
                table = Table(title=f"{name} of {robot or 'an unnamed robot'}, {column.count:,} frames")
                for header in ("dimension", "mean", "std", "min", "q01", "q99", "max"):
                    table.add_column(header, justify="left" if header == "dimension" else "right")
                rows = zip(column.mean, column.std, column.min, column.q01, column.q99, column.max, strict=True)
                for dimension, values in zip(column.names, rows, strict=True):
                    still = " (never moves)" if dimension in column.constant() else ""
                    table.add_row(dimension + still, *(f"{value:.4g}" for value in values))
                console.print(table)
        if out is not None:
            write_json(out, to_json(found))
            note(str(out))


@app.command()
def convert(
    path: SetPath,
    out: Annotated[Path, typer.Argument(help="A new folder; an interrupted conversion of episodes goes on.")],
    settings: Settings = None,
) -> None:
    """Write a set anew: robot episodes as LeRobot v3.0, captions and questions as Parquet, text as json lines."""
    from trivium.data.convert import convert as write
    from trivium.data.detect import open_all

    with explained():
        source = open_all(path, settings or [])
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            line = bar.add_task("converting", total=len(source))
            kind = write(source, out, lambda done: bar.update(line, completed=done))
        note(f"{out}: {len(source):,} samples as {kind}")


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.py with a function `recipe()`) or a config.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted changes, such as stages.1.steps=500.")] = None,
) -> None:
    """Print what every stage of a recipe will train on: shares, tokens, epochs, padding, and what is dropped."""
    from trivium import forecast, run

    with explained():
        forecast.show_plan(run.load(recipe, overrides or []))


@app.command()
def presets(
    name: Annotated[str, typer.Argument(help="A published mixture; without one, all names are listed.")] = "",
) -> None:
    """Print a published mixture: its rows, our sum beside the printed one, and where every figure stands."""
    from trivium import forecast

    with explained():
        forecast.show_presets(name)


@app.command()
def audit(
    paths: Annotated[list[Path], typer.Argument(help="Sets of robot episodes; of two, shared episodes are found.")],
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and pictures to judge by.")] = None,
    fix: Annotated[Path | None, typer.Option(help="File or folder for corrections; the set is not touched.")] = None,
    corrections: Annotated[Path | None, typer.Option(help="Corrections to apply before the audit.")] = None,
    delay: Annotated[int, typer.Option(help="Frames after which an action moves the state.", min=-5, max=5)] = 1,
    pictures: Annotated[bool, typer.Option(help="Look at the pictures too.")] = True,
) -> None:
    """Find what is out of step, missing, frozen or double, from content; exit code 1 where something is."""
    from trivium.data.audit.command import run_audit

    with explained():
        found = run_audit(paths, out, fix, pictures, delay, corrections)
    if any(audited.faults for audited in found):
        raise typer.Exit(1)
