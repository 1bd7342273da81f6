"""The section on stability: what the policy does without one of its senses, and what alarms were raised."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trivium.report import plots
from trivium.report.run_folder import UNTRAINED, Record, RunFolder


class Change(Record):
    """By how much a held-out loss changed when a sense was gone, paired by episode."""

    change: float
    low: float
    high: float


class SenseRow(Record):
    """The changes of one sense, by loss."""

    sense: str
    losses: dict[str, Change]


class Level(Record):
    """A held-out loss with every sense."""

    value: float
    low: float
    high: float


class AblationFile(Record):
    """ablation/<stage>.json: held-out losses whole and without each sense."""

    stage: str
    step: int | None = None
    episodes: int
    samples: int
    units: dict[str, str]
    whole: dict[str, Level]
    without: tuple[SenseRow, ...]


class Alarm(Record):
    """A line of alarms.jsonl; `text` is the alarm as training said it."""

    watch: str
    stage: str
    step: int | None = None
    text: str


def stability_section(folder: RunFolder) -> dict[str, Any]:
    """Gather what the template draws, from the run folder alone; empty parts where nothing was measured."""
    problems: list[str] = []
    files = _ablations(folder, problems)
    alarms = _alarms(folder.root / "alarms.jsonl", problems)
    played = [(label, result) for label, result in folder.evals.items() if label != UNTRAINED and result.ablations]
    return {
        "files": files,
        "losses": list(dict.fromkeys(loss for file in files for loss in file.whole)),
        "played": played,
        "alarms": alarms,
        "success_drawing": plots.without_senses(played[-1][1]) if played else "",
        "loss_drawing": plots.loss_without(_drawn(files[-1]), files[-1].units) if files else "",
        "problems": problems,
    }


def _drawn(file: AblationFile) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Turn rows by sense into rows by loss."""
    return {
        loss: {
            row.sense: (row.losses[loss].change, row.losses[loss].low, row.losses[loss].high)
            for row in file.without
            if loss in row.losses
        }
        for loss in file.whole
    }


def _ablations(folder: RunFolder, problems: list[str]) -> list[AblationFile]:
    """Read the measurements at the ends of stages, in the order of the stages."""
    found = []
    for stage in folder.config.stages:
        path = folder.root / f"ablation/{stage.name}.json"
        try:
            found += [AblationFile.model_validate_json(path.read_bytes())] if path.is_file() else []
        except (ValidationError, OSError):
            problems.append(f"ablation/{path.name} cannot be read; what it holds is left out.")
    return found


def _alarms(path: Path, problems: list[str]) -> list[Alarm]:
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            found.append(Alarm.model_validate(json.loads(line)))
        except ValueError:
            problems.append(f"{path.name}: line {number} cannot be read; it is left out.")
    return found
