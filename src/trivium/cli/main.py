"""The verbs of the command line; each imports what it needs when it runs, so that --help is quick."""

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli import action, data
from trivium.cli.failure import explained
from trivium.core.log import note

app = typer.Typer(
    name="trivium",
    help="Pre-train a vision-language-action base model from one recipe.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app)
app.add_typer(action.app)

Recipe = Annotated[Path, typer.Argument(help="A recipe (.py with a function `recipe()`) or a resolved config.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted changes, such as stages.1.steps=500.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder that `trivium train` made.")]


@app.command()
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print every setting of a recipe with its meaning, and who learns in which stage."""
    from trivium import explain, run

    with explained():
        explain.show(run.load(recipe, overrides or []))


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Run folder; default runs/NAME. An unfinished run there goes on.")
    ] = None,
) -> None:
    """Train every stage of a recipe, check each one's health, roll out, and write the report."""
    from trivium import curriculum, run
    from trivium.report.page import write_report

    with explained():
        config = run.load(recipe, overrides or [])
        folder = run_folder or Path("runs") / config.name
        curriculum.execute(config, folder)
        note(f"report: {write_report(folder)}")


@app.command("demo-data")
def demo_data(
    out: Annotated[Path, typer.Argument(help="Folder to write; an unfinished recording there goes on.")],
    tasks: Annotated[str, typer.Option(help="Meta-World v3 names with commas between, or `all` for the 50.")] = "",
    episodes: Annotated[int, typer.Option(help="Demonstrations a task.")] = 100,
    views: Annotated[str, typer.Option(help="Cameras with commas between: top, corner2, wrist, ...")] = "top",
    seed: Annotated[int, typer.Option(help="Where objects lie follows from it.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that record side by side; 0 takes one a core.")] = 0,
) -> None:
    """Record scripted Meta-World experts as a LeRobot v3 set, with captions and questions from simulator truth."""
    from trivium.eval.demo import DemoDataConfig, record
    from trivium.eval.sim.task import TASKS

    with explained():
        names = tuple(TASKS) if tasks == "all" else tuple(name for name in tasks.split(",") if name)
        config = DemoDataConfig(episodes=episodes, views=tuple(views.split(",")), seed=seed)
        config = config.replace(tasks=names) if names else config
        result = record(config, out, workers or None)
        counts = ", ".join(f"{task} {count}" for task, count in result.episodes.items())
        note(f"{out}: {result.frames} frames ({counts}), {result.captions} captions, {result.questions} questions")


@app.command("eval")
def evaluate(
    folder: RunFolder,
    episodes: Annotated[int, typer.Option(help="Fresh episodes a task.", min=1)] = 20,
) -> None:
    """Roll the newest checkpoint of a run out in the simulator; success with its 95 % interval."""
    from trivium import curriculum

    with explained():
        curriculum.evaluate(folder, episodes)


@app.command()
def check(folder: RunFolder) -> None:
    """Run the transferability health check on the newest checkpoint of a run."""
    from trivium import curriculum

    with explained():
        curriculum.check(folder)


@app.command()
def report(folder: RunFolder) -> None:
    """Write the run's report: one self-contained HTML file."""
    from trivium.report.page import write_report

    with explained():
        note(f"report: {write_report(folder)}")


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default RUN/export. An older export there is replaced.")
    ] = None,
) -> None:
    """Write the newest checkpoint of a run as a folder that transformers and a robot can load, with a model card."""
    from trivium.cli import handover

    with explained(goes_on=False):
        note(f"export: {handover.export_run(folder, out)}")
