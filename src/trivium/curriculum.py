"""Walking a run through its stages: train, check, save, hand the weights on; from any interruption, go on."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.table import Table
from torch import nn

from trivium.ablate import joins, measure_ablation
from trivium.assemble import Stagework, World
from trivium.assess import UNTRAINED, check_health, draw_samples, foresee, measure_text, roll_out
from trivium.core.errors import CheckpointError
from trivium.core.files import lock_folder, write_json
from trivium.core.log import console, note
from trivium.core.rng import Rng, key, seed_all
from trivium.data.quarantine import Quarantine
from trivium.pictures import keep_tokenizer
from trivium.preflight import check_stages
from trivium.protect import check_protected, watch
from trivium.run import Run, Stage, claim, open_run
from trivium.start import START, renew, take_over
from trivium.train import parallel
from trivium.train.checkpoint import Checkpoints, Saved, load_weights
from trivium.train.guard import EXIT_RESUME, Guard
from trivium.train.loop import run_stage
from trivium.train.meter import Meter
from trivium.train.stage import Learner
from trivium.train.state import State
from trivium.vision.cache import FeatureCache


def execute(config: Run, folder: Path) -> None:
    """Train every stage in order into `folder`, or go on where an earlier process stopped.

    Raises:
        TriviumError: of any kind; the folder then still holds the last complete checkpoint.
        SystemExit: code 75 when asked to stop (Ctrl-C, SIGTERM); everything is saved.
    """
    check_protected(config)
    with lock_folder(folder), Guard() as stop:
        new = claim(config, folder)
        try:
            saved = Checkpoints(folder / "checkpoints").find()
            world = World(config, folder, prepare if saved is None else lambda world: None)
        except BaseException:
            if new:  # a run that could not begin leaves its folder free for the corrected command
                (folder / "config.yaml").unlink()
            raise
        clock = Clock(folder / "times.json")
        with clock("prepare"):
            draw_samples(world)
        tried = config.rollout is not None
        if tried and saved is None and not (folder / f"eval/{UNTRAINED}.json").exists():
            with clock("rollouts: untrained"):
                roll_out(world, UNTRAINED)
        if config.health.texts and saved is None and not (folder / f"text/{UNTRAINED}.json").exists():
            with clock("text: untrained"):
                measure_text(world, UNTRAINED)
        probed = any(guard.watch.startswith("probe.") for guard in config.health.protect)
        if probed and saved is None and not (folder / f"health/{UNTRAINED}.json").exists():
            with clock("health: untrained"):
                check_health(world, UNTRAINED)
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


def prepare(world: World) -> None:
    """Take over the weights that a new run begins with, then look at all its stages before the first one trains.

    Raises:
        TriviumError: they do not fit, or a stage could not learn what it says.
    """
    found = take_over(world.model, {str(part): folder for part, folder in world.config.start.items()})
    check_stages(world)
    if found:
        path = world.folder / START
        if path.exists() and json.loads(path.read_text()) != found:
            raise CheckpointError(
                str(path),
                "other weights now",
                "those that this run began with",
                "Bring them back, or take a new --run.",
            )
        write_json(path, found)


def evaluate(folder: Path, episodes: int) -> None:
    """Roll the newest checkpoint of a run out again, with as many episodes a task as asked.

    Raises:
        CheckpointError: no run folder, or one without a checkpoint.
    """
    world, stage = reopen(folder)
    roll_out(world, stage, episodes)
    _conclude(world)


def check(folder: Path) -> None:
    """Run the health check on the newest checkpoint of a run, and its losses without each sense.

    Raises:
        CheckpointError: no run folder, or one without a checkpoint.
    """
    world, stage = reopen(folder)
    check_health(world, stage)
    measure_ablation(world, stage)


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
        renew(world.model, world.config, stage)  # before the weights of a checkpoint, so that a resume keeps those
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
    with clock(f"train: {stage.name}"), closing(batches), stop.holding(), _cached(world, stage):
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
                (stage.eval_every, lambda now: measure_ablation(world, stage.name, now.step)),
                (stage.eval_every, lambda now: watch(world.config, folder, stage.name, now.step)),
            ),
            stop=stop,
        )
    if not ended or stop():
        note(f"Stopped and saved at {stage.name} step {state.step}. The same command goes on from here.")
        raise SystemExit(EXIT_RESUME)
    stage.hand_over(work.objective)
    keep_tokenizer(work.objective, folder, stage.name)
    _measure(world, work, clock)


def _measure(world: World, work: Stagework, clock: "Clock") -> None:
    """Measure what a stage has left that is not measured yet: an interruption may have come in between."""
    stage, folder = work.stage, world.folder
    asked = {
        "health": (True, lambda: check_health(world, stage.name)),
        "text": (bool(world.config.health.texts), lambda: measure_text(world, stage.name)),
        "ablation": (joins(world.config, stage.name), lambda: measure_ablation(world, stage.name)),
        "unified": (stage.objective.kind == "unified", lambda: foresee(world, work)),
    }
    for what, (wanted, measure) in asked.items():
        if wanted and not (folder / f"{what}/{stage.name}.json").exists():
            with clock(f"{what}: {stage.name}"):
                measure()
    watch(world.config, folder, stage.name)


@contextmanager
def _cached(world: World, stage: Stage) -> Iterator[None]:
    """Let the stage's cache answer for a frozen encoder, and say what it was good for."""
    if not stage.cache_gb:
        yield
        return
    with FeatureCache(world.model.vision, stage.cache_gb).attached(f"stages.{stage.name}.cache_gb") as cache:
        yield
    note(f"{stage.name}: {cache.gain}")


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
        for row in result.get("ablations", ()):
            shares = f"{row['successes']}/{row['episodes']} (with it {row['whole']})"
            lost = f"{row['change']:+.0%} ({row['change_low']:+.0%} to {row['change_high']:+.0%})"
            table.add_row(path.stem, f"without {row['without']}", shares, lost)
        table.add_section()
    console.print(table)
