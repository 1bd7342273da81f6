"""`trivium data ...`: looking at data, measuring, auditing, planning and converting them before anything trains."""

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.failure import explained

app = typer.Typer(name="data", help="Look at data before anything trains on them.", no_args_is_help=True)


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
