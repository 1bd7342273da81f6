"""What a run folder says, read for the report: every file's shape, and a sentence for what is missing or broken.

========================  ==============================================================================
file                      shape
========================  ==============================================================================
config.yaml               the resolved Run; read here: name, seed, stages[name, steps, learn, lr, objective.kind]
plan/<stage>.json         `PlanFile`: buckets asked and planned, padding, dropped by reason, who learns
metrics.jsonl             a line a step: stage, step, loss{}, lr{}, grad_norm, tokens{"bucket/modality"},
                          tokens_per_s, data_wait, skipped (null stands for a number that is not finite)
quarantine.jsonl          a line a bad sample of a stage: stage, bucket, id, where, kind, short{}; absent without any
health/<stage>.json       `trivium.probe.health.HealthReport`; <stage>-<step> for checks inside a stage
text/<stage>.json         `TextFile`: held-out text in bits a byte; "untrained" before the first stage,
                          <stage>-<step> inside one; absent where no text is measured
ablation/<stage>.json     `report.stability.AblationFile`: held-out losses without each sense; stages that join alone
alarms.jsonl              a line an alarm of the guard against negative transfer; absent without any
unified/<stage>.json      `trivium.policy.foresight.Foresight`; unified/<stage>.png has a row a painted sample
eval/<label>.json         `EvalFile`: success by task with Wilson intervals, clips; "untrained" is the control
samples/samples.json      list of `Strip`: a picture, the instruction, the state and the action chunk after it
times.json                {section: seconds}, sections "prepare", "train: STAGE", "health: STAGE", ...
environment.json          {name: version}
========================  ==============================================================================
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from trivium.core.errors import CheckpointError
from trivium.language.heldout import TextScore
from trivium.probe.health import HealthReport
from trivium.report.metrics import StageMetrics, read_metrics

T = TypeVar("T")
UNTRAINED = "untrained"


class Record(BaseModel):
    """A piece of a file: what we read is checked, what we do not know is left alone."""

    model_config = ConfigDict(frozen=True)


class ObjectiveEntry(Record):
    """What a stage learns."""

    kind: str = ""


class StageEntry(Record):
    """A stage as config.yaml has it."""

    name: str
    steps: int
    learn: tuple[str, ...] = ()
    lr: float = 0.0
    objective: ObjectiveEntry = ObjectiveEntry()


class ConfigFile(Record):
    """The few settings that the page speaks of; the rest is printed as it stands."""

    name: str
    seed: int = 0
    stages: tuple[StageEntry, ...]


class BucketShare(Record):
    """A bucket's part of a stage: shares of tokens, and the samples that could not be used."""

    bucket: str
    asked: float
    planned: float
    tokens: int
    samples: int = 0
    epochs: float = 0.0
    dropped: dict[str, int] = {}
    dropped_samples: tuple[int, ...] = ()


class Learner(Record):
    """Parameters that a pattern lets learn; the last row counts the frozen ones."""

    pattern: str
    parameters: int
    elements: int


class PlanFile(Record):
    """What a stage was to train on, and who learns in it."""

    buckets: tuple[BucketShare, ...]
    padding: float = 0.0
    learners: tuple[Learner, ...] = ()


class BadSample(Record):
    """A record that was bad, and whether what took its place was smaller."""

    stage: str
    bucket: str
    id: str
    where: str
    kind: str
    short: dict[str, int] = {}


class TaskResult(Record):
    """Closed-loop success on one task."""

    task: str
    successes: int
    episodes: int
    low: float
    high: float
    mean_length: float | None = None
    videos: tuple[str, ...] = ()


class AblationRow(Record):
    """Success without one sense, over episodes that were played with all of them too."""

    without: str
    successes: int
    whole: int
    episodes: int
    low: float
    high: float
    change: float
    change_low: float
    change_high: float


class EvalFile(Record):
    """Closed-loop success of one policy."""

    label: str = ""
    tasks: tuple[TaskResult, ...]
    mean: float
    low: float
    high: float
    ablations: tuple[AblationRow, ...] = ()


class TextFile(Record):
    """Held-out text under the language model as it stood."""

    stage: str
    step: int | None = None
    """Steps of the stage that were behind it; null at its end."""
    texts: tuple[TextScore, ...]


class Strip(Record):
    """One aligned sample: what was seen and the commands that followed, in the units of the data."""

    id: str = ""
    image: str
    instruction: str = ""
    state: dict[str, float] = {}
    names: tuple[str, ...] = ()
    actions: tuple[tuple[float, ...], ...]
    valid: tuple[bool, ...] = ()


@dataclass(frozen=True, eq=False)
class RunFolder:
    """Everything read; `problems` are sentences about what is missing or broken."""

    root: Path
    config: ConfigFile
    config_text: str
    plans: Mapping[str, PlanFile]
    metrics: Mapping[str, StageMetrics]
    health: tuple[HealthReport, ...]
    evals: Mapping[str, EvalFile]
    strips: tuple[Strip, ...]
    times: Mapping[str, float]
    environment: Mapping[str, str]
    problems: tuple[str, ...] = field(default=())
    quarantined: tuple[BadSample, ...] = ()
    texts: tuple[tuple[int, TextFile], ...] = ()
    """Measurements of held-out text with the steps of the run behind them, in order."""

    def file(self, name: str) -> Path | None:
        """Find a file that another file names; one outside the run folder is not ours to show."""
        for base in (self.root, self.root / "eval", self.root / "samples"):
            path = (base / name).resolve()
            if path.is_file() and path.is_relative_to(self.root.resolve()):
                return path
        return None


def read_run(root: Path) -> RunFolder:
    """Read a run folder as far as it goes.

    Raises:
        CheckpointError: it is not a run folder, or its config.yaml is not one.
    """
    text = _config_text(root)
    config = _config(root / "config.yaml", text)
    problems: list[str] = []
    metrics = read_metrics(root / "metrics.jsonl", problems)
    plans = {
        s.name: p
        for s in config.stages
        if (p := _load(root, f"plan/{s.name}.json", PlanFile.model_validate_json, problems))
    }
    health = _health(root, config, problems)
    evals = _evals(root, problems)
    strips = _load(root, "samples/samples.json", TypeAdapter(tuple[Strip, ...]).validate_json, problems) or ()
    times = _load(root, "times.json", TypeAdapter(dict[str, float]).validate_json, problems) or {}
    environment = _load(root, "environment.json", TypeAdapter(dict[str, str]).validate_json, problems) or {}
    bad = _quarantined(root / "quarantine.jsonl", problems)
    texts = _texts(root, config, problems)
    return RunFolder(
        root, config, text, plans, metrics, health, evals, strips, times, environment, tuple(problems), bad, texts
    )


def _config_text(root: Path) -> str:
    path = root / "config.yaml"
    if not path.is_file():
        found = "no such folder" if not root.is_dir() else "no config.yaml in it"
        raise CheckpointError(
            str(root), found, "a run folder", "Name a folder that `trivium train` made, such as runs/NAME."
        )
    return path.read_text()


def _config(path: Path, text: str) -> ConfigFile:
    try:
        return ConfigFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise CheckpointError(
            str(path), _reason(error), "the resolved config of a run", "Bring back the file that training wrote."
        ) from error


def _load(root: Path, name: str, parse: Callable[[bytes], T], problems: list[str]) -> T | None:
    """Read and check one JSON file; a missing or broken one becomes a sentence: the others still say much."""
    path = root / name
    if not path.is_file():
        problems.append(f"{name} is not there{_WITHOUT.get(name.partition('/')[0], '.')}")
        return None
    try:
        return parse(path.read_bytes())
    except (ValidationError, OSError) as error:
        problems.append(f"{name} cannot be read ({_reason(error)}); what it holds is left out.")
        return None


_WITHOUT = {
    "plan": ": that stage has not been planned yet, so the page cannot compare token shares.",
    "samples": ": no aligned samples to look at.",
    "times.json": ": how long each part took is not known.",
    "environment.json": ": which versions and machine trained this run is not known.",
}


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return " ".join(str(error).split())


def _health(root: Path, config: ConfigFile, problems: list[str]) -> tuple[HealthReport, ...]:
    """Read the checks in the order in which they were made: by stage, those inside a stage before its end."""
    order = {UNTRAINED: -1} | {stage.name: number for number, stage in enumerate(config.stages)}

    def place(path: Path) -> tuple[float, float, str]:
        if path.stem in order:
            return order[path.stem], float("inf"), ""
        stage, _, step = path.stem.rpartition("-")
        if stage in order and step.isdecimal():
            return order[stage], float(step), ""
        return float("inf"), 0.0, path.stem

    paths = sorted((root / "health").glob("*.json"), key=place)
    found = [_load(root, f"health/{path.name}", HealthReport.model_validate_json, problems) for path in paths]
    if missing := [s.name for s in config.stages if not (root / f"health/{s.name}.json").is_file()]:
        problems.append(f"No health check at the end of {', '.join(missing)}.")
    return tuple(report for report in found if report)


def _texts(root: Path, config: ConfigFile, problems: list[str]) -> tuple[tuple[int, TextFile], ...]:
    """Read the measurements of held-out text and place them along the run; those of unknown stages are left out."""
    ends: dict[str, tuple[int, int]] = {UNTRAINED: (0, 0)}
    for stage in config.stages:
        begin = max(end for _, end in ends.values())
        ends[stage.name] = begin, begin + stage.steps
    paths = sorted((root / "text").glob("*.json"))
    read = [_load(root, f"text/{path.name}", TextFile.model_validate_json, problems) for path in paths]
    found = []
    for file in read:
        if file is not None and file.stage in ends:
            begin, end = ends[file.stage]
            found.append((end if file.step is None else begin + file.step, file))
    # Where a check falls on the last step of a stage, the one at its end comes after it.
    return tuple(sorted(found, key=lambda pair: (pair[0], pair[1].step is None)))


def _quarantined(path: Path, problems: list[str]) -> tuple[BadSample, ...]:
    """Read the bad samples; there is no file where there are none."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.is_file() else [], 1):
        try:
            found.append(BadSample.model_validate_json(line))
        except ValidationError as error:
            if line.endswith(b"\n"):  # the last one may be half written just now
                problems.append(f"{path.name}: line {number} cannot be read ({_reason(error)}); it is left out.")
    return tuple(found)


def _evals(root: Path, problems: list[str]) -> dict[str, EvalFile]:
    """Read the closed-loop results, the untrained control first."""
    paths = sorted((root / "eval").glob("*.json"), key=lambda path: (path.stem != UNTRAINED, path.stem))
    found = {path.stem: _load(root, f"eval/{path.name}", EvalFile.model_validate_json, problems) for path in paths}
    read: dict[str, Any] = {label: result for label, result in found.items() if result}
    if not read:
        problems.append("No closed-loop results: the policy has not been tried in a simulator.")
    elif UNTRAINED not in read:
        problems.append("No rollouts of the untrained network: success stands without its control.")
    elif len(read) == 1:
        problems.append("No rollouts after training: only the untrained network has been tried.")
    return read
