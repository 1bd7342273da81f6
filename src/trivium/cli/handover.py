"""Exporting a run: its newest whole checkpoint, and everything its folder knows about it, as one portable folder."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium import __version__
from trivium.action.choice import open_tokenizer
from trivium.action.tokenizer import Robot
from trivium.assemble import TOKENIZER, build_model
from trivium.core.config import to_yaml
from trivium.core.errors import CheckpointError, DataError
from trivium.core.rng import isolated, key
from trivium.data.bucket import SourceConfig
from trivium.data.column import Stats, from_json
from trivium.data.embodiment import Dimension, dimensions
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.source import Source
from trivium.data.tile import TileConfig
from trivium.data.transform import ResizeConfig
from trivium.lineage import UNKNOWN, common, lineage
from trivium.policy.vla import Model
from trivium.report.run_folder import UNTRAINED, RunFolder, read_run
from trivium.run import Run, open_run
from trivium.serve.card import Facts, Grid
from trivium.serve.contract import Contract
from trivium.serve.export import Handover, refuse_foreign, write_export
from trivium.serve.policy import PolicyConfig
from trivium.train.checkpoint import Checkpoints, Saved, load_weights

EXPORT = "export"
"""Folder inside a run folder where an export goes if nothing else is said."""


def export_run(folder: Path, out: Path | None = None) -> Path:
    """Write the newest whole checkpoint of a run as a folder that transformers and a robot can load; return its path.

    A run that is being trained may be exported: nothing in its folder is touched, and the card says at which step.

    Raises:
        CheckpointError: no run folder, one without a checkpoint or statistics, or a place that holds something else.
        DataError: the demonstrations are gone: rate and cameras are read from them.
    """
    out = folder / EXPORT if out is None else out
    config = open_run(folder)
    refuse_foreign(out)
    saved = Checkpoints(folder / "checkpoints").find()
    if saved is None:
        raise CheckpointError(str(folder), "no checkpoint", "a run that has trained", "Train: trivium train RECIPE")
    stats = _statistics(folder / "statistics.json")
    sources: dict[str, Source] = {}

    def open_source(config: SourceConfig) -> Source:
        name = to_yaml(config)
        sources[name] = sources.get(name) or config.build()
        return sources[name]

    robot = open_source(config.robot.source)
    assert isinstance(robot, EpisodeSource), "RobotConfig.source is a set of episodes"
    contract = make_contract(config, robot, stats)
    column = stats[robot.embodiment]["action"]
    owner = Robot(robot.embodiment, column.names, *column.range())
    run = read_run(folder)
    licenses = lineage(config, {stage: plan.model_dump() for stage, plan in run.plans.items()}, open_source)
    parts = Handover(
        model=_model(config, saved),
        settings=PolicyConfig(
            model=config.model, transforms=config.transforms, precision=config.precision, seed=key(config.seed, "act")
        ),
        contract=contract,
        stats=stats,
        tokenizer=open_tokenizer(folder / TOKENIZER, config.model.tokenizer, owner, contract.horizon),
        robot=owner,
        licenses=licenses,
        facts=gather(_Told(config, saved, contract, stats, licenses, run)),
    )
    write_export(out, parts)
    return out


def make_contract(config: Run, robot: EpisodeSource, stats: Stats) -> Contract:
    """Say what the policy of a run asks of an observation.

    Raises:
        CheckpointError: the demonstrations are of another robot than the run's statistics.
    """
    if robot.embodiment not in stats:
        raise CheckpointError(
            "statistics.json",
            ", ".join(map(repr, stats)) or "no robot",
            f"robot {robot.embodiment!r}, as in {config.robot.source.path}",
            "Bring back the set that the run was trained on.",
        )
    names, source = stats[robot.embodiment]["action"].names, config.robot.source
    try:
        about = dimensions(robot.embodiment, len(names), names, source.kinds, "export")
    except DataError:  # a robot that nobody has registered: the card says that its units are not known
        about = tuple(Dimension(name, "position") for name in names)
        units, kinds = ("",) * len(names), ("",) * len(names)
    else:
        units, kinds = tuple(one.unit for one in about), tuple(str(one.kind) for one in about)
    return Contract(
        embodiment=robot.embodiment,
        views=source.views,
        picture_sizes={view: robot.cameras[view] for view in source.views},
        resizes=any(isinstance(step, ResizeConfig | TileConfig) for step in config.transforms),
        history=source.history,
        rate_hz=float(robot.fps),
        horizon=source.horizon,
        state_names=stats[robot.embodiment]["state"].names,
        action_names=names,
        action_units=units,
        action_kinds=kinds,
    )


def _model(config: Run, saved: Saved) -> Model:
    """Build the model with the weights of a checkpoint; adapters of its stage are added to them."""
    stage = config.stages[saved.state.stage_index]
    with isolated(0):
        model = build_model(config)
        stage.adapt(model)
        load_weights(model, saved.folder, "model.")
        stage.hand_over(model)
    return model


def _statistics(path: Path) -> Stats:
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path),
            f"{type(error).__name__}: {error}",
            "the statistics that training wrote",
            "Resume the run (trivium train ...): it measures them again.",
        ) from error


@dataclass(frozen=True, eq=False)
class _Told:
    """What the card is written from."""

    config: Run
    saved: Saved
    contract: Contract
    stats: Stats
    licenses: dict[str, Any]
    run: RunFolder


def gather(told: _Told) -> Facts:
    """Gather what a run folder knows for the model card."""
    config, state, run = told.config, told.saved.state, told.run
    stage = config.stages[state.stage_index]
    last = state.stage_index == len(config.stages) - 1
    summary = [
        f"Weights: stage {stage.name} ({state.stage_index + 1} of {len(config.stages)}), "
        f"step {state.step} of {stage.steps}, in {config.precision}.",
        f"Vision: {_part(config.model.vision)}. Language: {_part(config.model.language)}. "
        f"Action head: {config.model.action.kind}.",
    ]
    if state.step < stage.steps or not last:
        summary.append("The curriculum was not finished when this was exported.")
    return Facts(
        name=config.name,
        summary=summary,
        contract=told.contract,
        license=common(told.licenses),
        datasets=[row["source"] for part in told.licenses["stages"] for row in part["sources"]],
        base_models=[part["name"] for part in told.licenses["weights"]],
        curriculum=_curriculum(told),
        tokens=_tokens(run),
        health=_health(run),
        rollouts=_rollouts(run),
        texts=_texts(run),
        licenses=_licenses(told.licenses),
        missing=_missing(told),
        versions={**run.environment, "exported by trivium": f"{__version__}, commit {_commit()}"},
    )


def _part(config: Any) -> str:
    name = Path(config.path).name if hasattr(config, "path") else "from random weights"
    return f"{config.kind} {name}"


def _curriculum(told: _Told) -> Grid:
    rows = []
    for number, stage in enumerate(told.config.stages):
        done = stage.steps if number < told.saved.state.stage_index else told.saved.state.step
        done = 0 if number > told.saved.state.stage_index else done
        learns = ", ".join(stage.learn) + (" (adapters)" if stage.lora is not None else "")
        groups = "".join(f", {name} {lr:g}" for name, lr in stage.lr_groups.items())
        rows.append((stage.name, stage.objective.kind, learns, f"{done} of {stage.steps}", f"{stage.lr:g}{groups}"))
    return Grid(head=("stage", "objective", "who learns", "steps", "learning rate"), rows=rows)


def _tokens(run: RunFolder) -> Grid:
    rows = []
    for stage, plan in run.plans.items():
        realised = run.metrics[stage].by(0) if stage in run.metrics else None
        for bucket in plan.buckets:
            seen = "not known" if realised is None else f"{realised[bucket.bucket]:,}"
            rows.append((stage, bucket.bucket, f"{bucket.asked:.1%}", f"{bucket.tokens:,}", seen))
    return Grid(head=("stage", "bucket", "share asked", "tokens planned", "tokens seen"), rows=rows)


def _health(run: RunFolder) -> list[Grid]:
    found = []
    for report in run.health:
        names = [note.name for note in report.encoders]
        rows = [
            (target.name, probe, target.metric, *(str(target.curve(name, probe).scores[-1]) for name in names))
            for target in report.targets
            for probe in ("linear", "mlp")
        ]
        title = f"After {report.stage}: {report.verdict}"
        found.append(Grid(head=("target", "probe", "score", *names), rows=rows, title=title))
    return found


def _rollouts(run: RunFolder) -> Grid:
    rows = []
    for label, result in run.evals.items():
        for task in result.tasks:
            interval = f"{task.low:.0%} to {task.high:.0%}"
            rows.append((label, task.task, f"{task.successes} of {task.episodes}", interval))
        rows.append((label, "all", f"{result.mean:.0%}", f"{result.low:.0%} to {result.high:.0%}"))
    return Grid(head=("policy", "task", "success", "95 % interval"), rows=rows, title="Intervals are Wilson's at 95 %.")


def _texts(run: RunFolder) -> Grid:
    rows = [
        (file.stage, score.name, f"{score.bits_per_byte:.3f}", f"{score.low:.3f} to {score.high:.3f}")
        for _, file in run.texts
        if file.step is None
        for score in file.texts
    ]
    return Grid(head=("after", "text", "bits a byte", "95 % interval"), rows=rows)


def _licenses(lines: Mapping[str, Any]) -> Grid:
    rows = [(f"weights of {part['part']}", part["name"], part["license"], "") for part in lines["weights"]]
    for stage in lines["stages"]:
        for row in stage["sources"]:
            own = "; ".join(f"{name}: {number}" for name, number in row["sample_licenses"].items())
            terms = f"{row['license']} (of {row['looked_at']} samples, {own})" if own else row["license"]
            share = "not planned" if row["share"] is None else f"{row['share']:.1%}"
            rows.append((f"stage {stage['stage']}", row["source"], terms, share))
    return Grid(head=("what", "name", "licence", "share of the stage's tokens"), rows=rows)


def _missing(told: _Told) -> list[str]:
    """Say what was not measured, is not known, or went badly."""
    config, run, contract = told.config, told.run, told.contract
    said = list(run.problems)
    ends = [report for report in run.health if report.stage == config.stages[told.saved.state.stage_index].name]
    for report in ends[-1:]:
        for target in report.targets:
            lost = [f"{m.outcome} with {m.control} ({m.probe})" for m in target.margins if m.outcome != "better"]
            if lost:
                said.append(f"Health check: on {target.name} the features are not better: {', '.join(lost)}.")
    tried = {label: result for label, result in run.evals.items() if label != UNTRAINED}
    said += [f"In closed loop ({label}) {1 - found.mean:.0%} of the episodes fail." for label, found in tried.items()]
    if tried and told.saved.state.stage not in tried:
        said.append(f"This checkpoint, of stage {told.saved.state.stage}, was not tried in closed loop.")
    if not all(contract.action_units):
        said.append("The units of some commands are not known: they are those of the demonstrations.")
    for name, column in told.stats[contract.embodiment].items():
        if column.constant():
            said.append(f"{name}: {', '.join(column.constant())} never moved in the demonstrations.")
    unknown = {
        row["source"]
        for stage in told.licenses["stages"]
        for row in stage["sources"]
        if row["license"] == UNKNOWN or UNKNOWN in row["sample_licenses"]
    }
    unknown |= {part["name"] for part in told.licenses["weights"] if part["license"] == UNKNOWN}
    if unknown:
        said.append(f"The licence of {', '.join(sorted(unknown))} is not known.")
    problems = {row["problem"] for stage in told.licenses["stages"] for row in stage["sources"] if row["problem"]}
    return [*said, *sorted(problems)]


def _commit() -> str:
    """Return the commit of this code, where it lies in a git checkout."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "not known"
    return found.stdout.strip() if found.returncode == 0 else "not known"
