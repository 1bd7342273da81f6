"""What a person sees in the terminal: one rich console, and plain sentences for warnings."""

from rich.console import Console

console = Console(highlight=False)


def note(text: str) -> None:
    """Print one line of progress."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print one line that a person should read."""
    console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
