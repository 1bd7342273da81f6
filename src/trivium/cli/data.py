"""`trivium data ...`: looking at data, measuring, auditing, planning and converting them before anything trains."""

import typer

app = typer.Typer(name="data", help="Look at data before anything trains on them.", no_args_is_help=True)
