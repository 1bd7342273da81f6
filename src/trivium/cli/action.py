"""`trivium action ...`: choosing how actions are spelled and learned before a run is built on it."""

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
    out: Annotated[Path, typer.Option(help="Folder for comparison.json, .md and .png.")] = Path("comparison"),
    policies: Annotated[
        str,
        typer.Option(
            metavar="TASKS",
            help="Also fit every policy to these Meta-World tasks of the set (commas between, or `all`) and try each "
            "in the simulator; takes minutes a task.",
        ),
    ] = "",
    episodes: Annotated[
        int | None, typer.Option(help="With --policies: fresh episodes a task.", min=1, max=10_000, show_default="20")
    ] = None,
    demos: Annotated[
        int | None, typer.Option(help="With --policies: demonstrations a task.", min=1, show_default="20")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="With --policies: steps of a fit, 64 chunks each.", min=1, show_default="1500")
    ] = None,
) -> None:
    """Fit every action tokenizer, a VAE and (asked for) every policy; print tokens, errors, speed and success."""
    from trivium import compare as comparing
    from trivium import trial as trials
    from trivium.core.errors import ConfigError
    from trivium.core.files import write_atomic, write_json
    from trivium.report.comparison import draw_comparison, print_codes, print_policies, to_markdown

    with explained(goes_on=False):
        asked = {"--episodes": episodes, "--demos": demos, "--steps": steps}
        alone = [name for name, value in asked.items() if value is not None and not policies]
        if alone:
            raise ConfigError(alone[0], "no --policies", "tasks to try policies on", "Type --policies all too.")
        trial = None
        if policies:
            source = comparing.open_set(path, settings or [], horizon)
            trial = trials.plan_trial(source, policies, episodes or 20, demos or 20, steps or 1500)
        found = comparing.compare(path, settings or [], horizon).to_json() | {"policies": []}
        print_codes(found)
        write_json(out / "comparison.json", found)
        if trial is not None:
            found["policies"] = [score.__dict__ for score in trial.run(out / "policies")]
            found |= {"demonstrations": trial.num_demos, "steps": trial.steps}
            print_policies(found["policies"])
            write_json(out / "comparison.json", found)
        write_atomic(out / "comparison.md", to_markdown(found))
        draw_comparison(found, out / "comparison.png")
        note(f"{out}: comparison.json, comparison.md, comparison.png")
