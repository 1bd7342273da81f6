"""`trivium data ...`: looking at data, measuring, auditing, planning and converting them before anything trains."""

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.failure import explained

app = typer.Typer(name="data", help="Look at data before anything trains on them.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at data before anything trains on them."""


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
