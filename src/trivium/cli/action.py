"""`trivium action ...`: choosing how actions are spelled before anything trains on them."""

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.data import SetPath, Settings
from trivium.cli.failure import explained
from trivium.core.log import note

app = typer.Typer(name="action", help="Compare how actions are spelled and learned.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep the verb in front of a single command."""


@app.command()
def compare(
    path: SetPath,
    settings: Settings = None,
    horizon: Annotated[int, typer.Option(help="Steps in a chunk.", min=1, max=1000)] = 16,
    out: Annotated[Path, typer.Option(help="Folder for comparison.json and comparison.png.")] = Path("comparison"),
) -> None:
    """Fit every action tokenizer on a set; print tokens, errors, codebook use, speed and mended decodes."""
    from trivium import compare as comparing
    from trivium.core.files import write_json
    from trivium.report.comparison import draw_comparison

    with explained():
        found = comparing.compare(path, settings or [], horizon)
        comparing.show(found)
        write_json(out / "comparison.json", found.to_json())
        draw_comparison(found.to_json(), out / "comparison.png")
        note(f"{out / 'comparison.json'}, {out / 'comparison.png'}")
