"""The guard against negative transfer: what must not be lost is watched, and a loss raises an alarm with advice."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trivium.action.several import SeveralConfig
from trivium.assess import UNTRAINED
from trivium.core.errors import ConfigError
from trivium.core.files import write_atomic
from trivium.core.log import warn
from trivium.core.rng import numpy_rng
from trivium.policy.objective import VlaConfig
from trivium.probe.curve import resample
from trivium.run import Run, Stage

ALARMS = "alarms.jsonl"
SIGMAS = 3.0
"""A worsening within so many standard errors is noise: one false alarm in 700 comparisons."""
PROBES = {"object": "object position", "actions": "next actions", "task": "task identity"}
"""Targets of the health check by their short names."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One measurement of what is protected; more is worse."""

    stage: str
    step: int | None
    """Steps of the stage that were behind it; None at its end, and before the first stage."""
    value: float
    error: float
    """Standard error of the value by itself."""
    sums: np.ndarray | None = None
    """Sum and count by document or episode, "e 2", where two measurements can be compared pair by pair."""

    @property
    def when(self) -> str:
        """Say where in the run it was taken."""
        if self.stage == UNTRAINED:
            return "before the first stage"
        return f"at the end of {self.stage}" if self.step is None else f"at step {self.step} of {self.stage}"


def check_protected(config: Run) -> None:
    """Refuse what cannot be watched, before anything is trained.

    Raises:
        ConfigError: a name that nothing measures.
    """
    known = [f"text.{text.name}" for text in config.health.texts]
    known += [f"probe.{name}" for name in PROBES if name != "object" or config.health.target]
    if config.health.ablate and any(isinstance(stage.objective, VlaConfig) for stage in config.stages):
        action = config.model.action
        heads = action.heads if isinstance(action, SeveralConfig) else (action,)
        known += ["loss.text", "loss.action_token", *(f"loss.{head.kind.removesuffix('_unet')}" for head in heads)]
    for number, guard in enumerate(config.health.protect):
        if guard.watch not in known:
            raise ConfigError(
                f"health.protect.{number}.watch",
                repr(guard.watch),
                f"one of {', '.join(known)}",
                "Name one of them; held-out texts are added in health.texts, held-out losses by health.ablate.",
            )


def watch(config: Run, folder: Path, stage: str, step: int | None = None) -> list[dict[str, Any]]:
    """Compare what is protected, as just measured, with every earlier end of a stage; write down and say what fell.

    An alarm is raised where it is worse by more than is tolerated and by more than three standard errors, paired by
    document or episode where both measurements have them. Training goes on: whether the price is worth paying is for
    a person to say.
    """
    alarms = []
    for guard in config.health.protect:
        readings = list(_readings(config, folder, guard.watch))
        now = next((found for found in readings if (found.stage, found.step) == (stage, step)), None)
        if now is None:
            continue
        past = readings[: readings.index(now)]
        worst = max((_judge(before, now) for before in past if _ends(before, now)), default=None, key=lambda v: v[0])
        if worst is None or worst[0] <= max(guard.tolerance, SIGMAS * worst[1]):
            continue
        change, error, before = worst
        held = [found for found in past[past.index(before) :] if _judge(before, found)[0] <= guard.tolerance]
        alarm = {
            "watch": guard.watch,
            "stage": stage,
            "step": step,
            "before": before.value,
            "now": now.value,
            "worse": change,
            "low": change - SIGMAS * error,
            "high": change + SIGMAS * error,
            "tolerance": guard.tolerance,
            "held": held[-1].when if held else before.when,
            "when": now.when,
            "advice": advise(config, next(s for s in config.stages if s.name == stage), guard.watch),
        }
        alarms.append(alarm | {"text": say(alarm)})
    _keep(folder / ALARMS, alarms)
    for alarm in alarms:
        warn(alarm["text"])
    return alarms


def say(alarm: Mapping[str, Any]) -> str:
    """Write an alarm out: what fell, by how much, since when, and what may help."""
    kind, _, name = str(alarm["watch"]).partition(".")
    what, unit = {
        "text": (f"held-out text {name!r}", " bits a byte"),
        "probe": (f"the probe of {PROBES.get(name, name)}", ""),
        "loss": (f"held-out loss {name!r}", ""),
    }[kind]
    sign = -1 if kind == "probe" else 1  # a score that fell, a loss that rose
    figures = ", ".join(f"{sign * alarm[end]:+.3f}" for end in ("low", "high")[::sign])
    return (
        f"NEGATIVE TRANSFER {alarm['when']}: {what} went from {sign * alarm['before']:.3f} to "
        f"{sign * alarm['now']:.3f}{unit} ({sign * alarm['worse']:+.3f} [{figures}], tolerated "
        f"{sign * alarm['tolerance']:+.3f}). It was still held {alarm['held']}. {' '.join(alarm['advice'])}"
    )


def advise(config: Run, stage: Stage, name: str) -> list[str]:
    """Say what may help against a loss in this stage, from what the stage does."""
    kind, _, what = name.partition(".")
    part = "vision" if kind == "probe" else "language"
    advice: list[str] = []
    if kind == "text":
        text = next(text for text in config.health.texts if text.name == what)
        path = getattr(text.source, "path", "")
        replayed = [b for b in stage.mixture.buckets if getattr(b.source, "path", None) == path]
        if replayed:
            total = sum(bucket.weight for bucket in stage.mixture.buckets)
            share = sum(bucket.weight for bucket in replayed) / total
            advice.append(f"Raise the share of bucket {replayed[0].name!r}, which replays it (now {share:.0%}).")
        else:
            advice.append(f"Replay it: a bucket on {path} with 5 to 25 % of the stage's tokens (now 0 %).")
    if kind == "loss" and isinstance(stage.objective, VlaConfig):
        weight = getattr(stage.objective, f"{what}_weight", stage.objective.flow_weight)
        advice.append(f"Raise its weight in the objective (now {weight:g}), or the share of its samples.")
    if any(pattern == "*" or pattern.split(".")[0] == part for pattern in stage.learn):
        fitting = [lr for pattern, lr in stage.lr_groups.items() if pattern.split(".")[0] == part]
        lr = fitting[0] if fitting else stage.lr
        advice.append(f"Lower the rate of {part} (now {lr:g}): lr_groups={{{part!r}: {lr / 5:.1g}}}.")
        half = config.model.language.num_layers // 2
        if part == "vision":
            advice.append('Freeze its lower blocks: learn "!vision.blocks.0-N".')
        elif half:
            advice.append(f'Freeze its lower half: learn "!language.layers.0-{half - 1}".')
        if part == "language" and stage.lora is None:
            advice.append("Learn adapters in place of its weights: lora.")
        if isinstance(stage.objective, VlaConfig) and stage.objective.flow_weight and not stage.objective.insulate:
            needs = "" if stage.objective.action_token_weight else " (and action_token_weight above 0)"
            advice.append(f"Keep the action head's gradient out of the trunk: objective.insulate=true{needs}.")
    elif kind != "loss":
        advice.append(f"{part} is frozen in this stage: what reads or feeds it has moved; lower the stage's lr.")
    return advice


def _ends(before: Measured, now: Measured) -> bool:
    """Whether a measurement stands at the end of an earlier stage, or before the first."""
    return before.step is None and before.stage != now.stage


def _judge(before: Measured, now: Measured) -> tuple[float, float, Measured]:
    """Return by how much it is worse, with the standard error of that, and than what."""
    if before.sums is None or now.sums is None or not np.array_equal(before.sums[:, 1], now.sums[:, 1]):
        return now.value - before.value, float(np.hypot(before.error, now.error)), before
    gap = np.stack([now.sums[:, 0] - before.sums[:, 0], now.sums[:, 1]], 1)
    return (*_mean(gap), before)


def _mean(sums: np.ndarray) -> tuple[float, float]:
    """Return a ratio of sums and its standard error over resampled rows; one row alone says nothing of its error."""
    number = len(sums)
    weights = resample(np.zeros(number, int), 1000, numpy_rng(0, "protect", number)) if number > 1 else np.ones((2, 1))
    draws = (weights @ sums[:, 0]) / np.maximum(weights @ sums[:, 1], 1e-300)
    # Resampling n rows shows (n - 1) / n of their variance.
    error = float(draws[1:].std() * (number / (number - 1)) ** 0.5) if number > 1 else float("inf")
    return float(draws[0]), error


def _readings(config: Run, folder: Path, name: str) -> Iterator[Measured]:
    """Read all measurements of one protected thing in the order of the run."""
    kind, _, what = name.partition(".")
    place = folder / {"text": "text", "probe": "health", "loss": "ablation"}[kind]
    for stage in (UNTRAINED, *(stage.name for stage in config.stages)):
        steps = sorted(int(path.stem.rpartition("-")[2]) for path in place.glob(f"{stage}-[0-9]*.json"))
        for step in (*steps, None):
            path = place / (f"{stage}.json" if step is None else f"{stage}-{step:06d}.json")
            found = _measured(kind, what, json.loads(path.read_text())) if path.is_file() else None
            if found is not None:
                yield Measured(stage, step, *found)


def _measured(kind: str, what: str, record: Mapping[str, Any]) -> tuple[float, float, np.ndarray | None] | None:
    """Find value, standard error and sums in the record of a measurement; None where it is not in it."""
    if kind == "probe":
        for target in record.get("targets", ()):
            if target["name"] == PROBES[what]:
                curve = next(c for c in target["curves"] if (c["encoder"], c["probe"]) == (record["subject"], "linear"))
                score = curve["scores"][-1]
                return -score["value"], (score["high"] - score["low"]) / 3.92, None
        return None
    if kind == "text":
        text = next((text for text in record["texts"] if text["name"] == what), None)
        pairs = None if text is None else [text["nats"], text["bytes"]]
        sums = None if pairs is None else np.array(pairs, float).T / [np.log(2), 1]
    else:
        found = record["by_episode"].get(what)
        sums = None if found is None else np.array(found)
    return None if sums is None else (*_mean(sums), sums)


def _keep(path: Path, alarms: list[dict[str, Any]]) -> None:
    """Add alarms to the file, each once: a check that runs again after a resume says the same."""
    lines = path.read_text().splitlines() if path.is_file() else []
    there = {(found["watch"], found["stage"], found["step"]) for found in map(json.loads, lines)}
    new = [a for a in alarms if (a["watch"], a["stage"], a["step"]) not in there]
    if new:
        write_atomic(path, "".join(line + "\n" for line in [*lines, *(json.dumps(alarm) for alarm in new)]))
