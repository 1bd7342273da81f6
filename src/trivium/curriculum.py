"""Walking a run through its stages: train, check, save, hand the weights on; from any interruption, go on."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.table import Table
from torch import nn

from trivium.assemble import Stagework, World
from trivium.assess import check_health, draw_samples, foresee, measure_text, roll_out
from trivium.core.errors import CheckpointError
from trivium.core.files import lock_folder, write_json
from trivium.core.log import console, note
from trivium.core.rng import Rng, key, seed_all
from trivium.data.quarantine import Quarantine
from trivium.pictures import keep_tokenizer
from trivium.run import Run, claim, open_run
from trivium.train import parallel
from trivium.train.checkpoint import Checkpoints, Saved, load_weights
from trivium.train.guard import EXIT_RESUME, Guard
from trivium.train.loop import run_stage
from trivium.train.meter import Meter
from trivium.train.stage import Learner
from trivium.train.state import State

UNTRAINED = "untrained"
"""Label of the rollouts before the first stage: the same network with nothing learned here."""


def execute(config: Run, folder: Path) -> None:
    """Train every stage in order into `folder`, or go on where an earlier process stopped.

    Raises:
        TriviumError: of any kind; the folder then still holds the last complete checkpoint.
        SystemExit: code 75 when asked to stop (Ctrl-C, SIGTERM); everything is saved.
    """
    with lock_folder(folder), Guard() as stop:
        new = claim(config, folder)
        try:
            world = World(config, folder)
        except BaseException:
            if new:  # a run that could not begin leaves its folder free for the corrected command
                (folder / "config.yaml").unlink()
            raise
        clock = Clock(folder / "times.json")
        with clock("prepare"):
            draw_samples(world)
        saved = Checkpoints(folder / "checkpoints").find()
        tried = config.rollout is not None
        if tried and saved is None and not (folder / f"eval/{UNTRAINED}.json").exists():
            with clock("rollouts: untrained"):
                roll_out(world, UNTRAINED)
        if config.health.texts and saved is None and not (folder / f"text/{UNTRAINED}.json").exists():
            with clock("text: untrained"):
                measure_text(world, UNTRAINED)
        state = saved.state if saved else State(Rng(config.seed))
        with Meter(folder, state) as meter:
            for index in range(state.stage_index, len(config.stages)):
                _stage(world, index, state, saved, meter, stop, clock)
                saved = None
        last = config.stages[-1].name
        if tried and not (folder / f"eval/{last}.json").exists():
            with clock("rollouts: trained"):
                roll_out(world, last)
    _conclude(world)


def evaluate(folder: Path, episodes: int) -> None:
    """Roll the newest checkpoint of a run out again, with as many episodes a task as asked.

    Raises:
        CheckpointError: no run folder, or one without a checkpoint.
    """
    world, stage = reopen(folder)
    roll_out(world, stage, episodes)
    _conclude(world)


def check(folder: Path) -> None:
    """Run the health check on the newest checkpoint of a run.

    Raises:
        CheckpointError: no run folder, or one without a checkpoint.
    """
    world, stage = reopen(folder)
    check_health(world, stage)


def reopen(folder: Path) -> tuple[World, str]:
    """Build the world of a run folder with the weights of its newest checkpoint; return it and that stage's name."""
    world = World(open_run(folder), folder)
    saved = Checkpoints(folder / "checkpoints").find()
    if saved is None:
        raise CheckpointError(str(folder), "no checkpoint", "a run that has trained", "Train: trivium train RECIPE")
    stage = world.config.stages[saved.state.stage_index]
    stage.adapt(world.model)
    load_weights(world.model, saved.folder, "model.")
    stage.hand_over(world.model)
    return world, saved.state.stage


def _stage(
    world: World, index: int, state: State, saved: Saved | None, meter: Meter, stop: Guard, clock: "Clock"
) -> None:
    """Train one stage to its end, or leave with exit code 75 when asked to stop; then check its health."""
    stage, folder = world.config.stages[index], world.folder
    with clock(f"plan: {stage.name}"):
        # Fresh heads of a stage depend on the seed and its name alone, not on what ran before in this process.
        seed_all(key(world.config.seed, "heads", stage.name))
        work = world.stage(index)
        holder = nn.ModuleDict({"model": world.model, "objective": work.objective})
        optimizer, learners = stage.build(work.objective)
        _keep_plan(world, work, learners)
        if saved and saved.state.stage_index == index:
            saved.restore(holder, optimizer)
        state.begin_stage(stage.name, index, work.plan.fingerprint)
    checkpoints = Checkpoints(folder / "checkpoints")
    meter.begin(state, stage.steps)
    quarantine = Quarantine(folder / "quarantine.jsonl", stage.name, work.plan, writes=parallel.rank() == 0)
    batches = work.loader.batches(
        state.data_position,
        stage.steps,
        stage.accumulate,
        parallel.rank(),
        parallel.world_size(),
        report=lambda bad: quarantine.add(parallel.from_all_ranks(bad)),
    )
    with clock(f"train: {stage.name}"), closing(batches), stop.holding():
        ended = run_stage(
            work.objective,
            batches,
            optimizer,
            state,
            stage,
            save=lambda now: checkpoints.save(now, holder, optimizer),
            record=meter.record,
            every=(
                (stage.eval_every, lambda now: check_health(world, stage.name, now.step)),
                (stage.eval_every, lambda now: measure_text(world, stage.name, now.step)),
            ),
            stop=stop,
        )
    if not ended or stop():
        note(f"Stopped and saved at {stage.name} step {state.step}. The same command goes on from here.")
        raise SystemExit(EXIT_RESUME)
    stage.hand_over(work.objective)
    keep_tokenizer(work.objective, folder, stage.name)
    if not (folder / f"health/{stage.name}.json").exists():
        with clock(f"health: {stage.name}"):
            check_health(world, stage.name)
    if world.config.health.texts and not (folder / f"text/{stage.name}.json").exists():
        with clock(f"text: {stage.name}"):
            measure_text(world, stage.name)
    if stage.objective.kind == "unified" and not (folder / f"unified/{stage.name}.json").exists():
        with clock(f"foresee: {stage.name}"):
            foresee(world, work)


def _keep_plan(world: World, work: Stagework, learners: list[Learner]) -> None:
    """Write what the stage will train on and who learns; refuse another plan than the one it was begun with."""
    path = world.folder / f"plan/{work.stage.name}.json"
    if path.exists():
        work.plan.check(json.loads(path.read_text()))
        return
    table = [{"pattern": row.pattern, "parameters": row.parameters, "elements": row.elements} for row in learners]
    write_json(path, work.plan.describe() | {"learners": table})


class Clock:
    """Adds up wall seconds by section in times.json, over all processes that worked on a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        """Count the seconds of a block, however it ends."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[section] = round(self._seconds.get(section, 0.0) + time.monotonic() - start, 2)
            write_json(self._path, self._seconds)


def _conclude(world: World) -> None:
    """Print closed-loop success by task, before and after; nothing where nothing was tried."""
    if world.config.rollout is None:
        return
    table = Table(title="closed-loop success, with 95 % intervals")
    for header in ("policy", "task", "success", "interval"):
        table.add_column(header)
    for path in sorted((world.folder / "eval").glob("*.json"), key=lambda path: path.stem != UNTRAINED):
        result = json.loads(path.read_text())
        for task in result["tasks"]:
            share = f"{task['successes']}/{task['episodes']}"
            table.add_row(path.stem, task["task"], share, f"{task['low']:.0%} to {task['high']:.0%}")
        table.add_row(path.stem, "mean", f"{result['mean']:.0%}", f"{result['low']:.0%} to {result['high']:.0%}")
        table.add_section()
    console.print(table)
