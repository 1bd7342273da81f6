"""How a command ends when something is wrong: one paragraph on stderr and an exit code, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from trivium.core.errors import TriviumError
from trivium.core.log import note


@contextmanager
def explained(goes_on: bool = True) -> Iterator[None]:
    """Turn an error that a user can mend into one paragraph on stderr and exit code 2.

    Args:
        goes_on: whether the same command goes on from where it was interrupted.
    """
    try:
        yield
    except TriviumError as error:
        said = Console(stderr=True)
        said.print(f"{type(error).__name__}: ", style="bold red", end="")
        said.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        again = "goes on from here" if goes_on else "begins again"
        note(f"Interrupted; nothing half-written is left. The same command {again}.")
        raise typer.Exit(130) from error
