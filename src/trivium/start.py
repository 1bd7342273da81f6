"""Where weights begin: parts that another run has taught, and parts that a stage gives new random ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trivium.core.errors import CheckpointError, ConfigError
from trivium.core.rng import isolated, key
from trivium.policy.vla import Model, project_state
from trivium.run import Run, Stage
from trivium.train.checkpoint import Checkpoints, file_sha256, read_weights
from trivium.train.stage import select

START = "start.json"
"""Which weights of other runs a run began with: folder, file, sha256, stage and step by part."""
WEIGHTS = "model.safetensors"


def take_over(model: Model, start: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Copy parts of other runs into a model; return what was taken from where, by part.

    Every parameter and running statistic of a part must be there in its shape, and no other; all parts are looked at
    before the first is changed. Numbers are rounded to the precision of this run.

    Raises:
        ConfigError: a parameter is missing, is one too many, or has another shape.
        CheckpointError: a folder without weights.
    """
    found: dict[str, dict[str, Any]] = {}
    taken: list[tuple[nn.Module, dict[str, Tensor]]] = []
    for part, folder in start.items():
        module = getattr(model, part, None)
        if not isinstance(module, nn.Module):
            todo = f"Leave start.{part} out."
            raise ConfigError(f"start.{part}", folder, f"a part of this model, which has no {part}", todo)
        file, about = _locate(Path(folder), f"start.{part}")
        module = getattr(model, part)
        if module is None:
            todo = "Leave it out, or set model.state=embedding."
            raise ConfigError(f"start.{part}", "a model that puts the state in words", "one that has this part", todo)
        weights = _below(read_weights(file.parent), part)
        _check(part, weights, module.state_dict(), file)
        taken.append((module, weights))
        found[part] = {"folder": folder, "file": str(file), "sha256": file_sha256(file), **about}
    for module, weights in taken:
        module.load_state_dict(weights)
    return found


def renew(model: Model, config: Run, stage: Stage) -> None:
    """Give the parameters that a stage names in `fresh` new random weights, which follow from its name and the seed.

    Running statistics go with the parameters of their module. Done again it gives the same numbers.

    Raises:
        ConfigError: a pattern fits nothing, or fits a pretrained part.
    """
    chosen = fresh_names(model, config, stage)
    for part in sorted({name.split(".")[0] for name in chosen}):
        with isolated(key(config.seed, "fresh", stage.name, part)):
            twin = _build_part(part, model, config)
        names = {name.removeprefix(f"{part}.") for name in chosen if name.startswith(f"{part}.")}
        owners = {name.rpartition(".")[0] for name in names}
        mine, drawn = model.get_submodule(part), dict(twin.named_parameters()) | dict(twin.named_buffers())
        with torch.no_grad():
            for name, parameter in mine.named_parameters():
                if name in names:
                    parameter.copy_(drawn[name])
            for name, buffer in mine.named_buffers():
                if name.rpartition(".")[0] in owners:
                    buffer.copy_(drawn[name])


def fresh_names(model: Model, config: Run, stage: Stage) -> set[str]:
    """Return the parameters that a stage gives new random weights.

    Raises:
        ConfigError: a pattern fits nothing, or fits a pretrained part.
    """
    where = f"stages.{stage.name}.fresh"
    chosen = select(model, stage.fresh, where) if stage.fresh else set()
    for part, settings in (("vision", config.model.vision), ("language", config.model.language)):
        if settings.kind == "pretrained" and any(name.startswith(f"{part}.") for name in chosen):
            raise ConfigError(
                where, f"{part}, whose weights are pretrained", "parts that begin at random", f"Take {part} out of it."
            )
    return chosen


def _build_part(part: str, model: Model, config: Run) -> nn.Module:
    parts, vision, width = config.model, model.vision, model.language.width
    if part == "vision":
        return parts.vision.build()
    if part == "language":
        return parts.language.build()
    if part == "connect":
        return parts.connect.fresh(vision.width, vision.grid, width, len(model.language.layers))
    if part == "action":
        return parts.action.build(config.robot.action_dim, config.robot.state_dim, width)
    if part == "context":
        return parts.context.build(vision.width, vision.num_patches, width)
    assert part == "state", f"a model has no part {part!r}"
    return project_state(config.robot.state_dim, width)


def _locate(folder: Path, where: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of weights in a run folder (its newest checkpoint) or in an export, and what is known of it."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS, {"stage": "", "step": 0}
    saved = Checkpoints(folder / "checkpoints").find() if (folder / "checkpoints").is_dir() else None
    if saved is None:
        raise CheckpointError(
            where,
            f"{folder} without checkpoints or {WEIGHTS}",
            "the folder of a run that has trained, or of an export",
            "Correct the path, or train that run first.",
        )
    return saved.folder / WEIGHTS, {"stage": saved.state.stage, "step": saved.state.step}


def _below(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the weights of a part; in a checkpoint the model stands below "model", beside the heads of its stage."""
    whole = any(name.startswith("model.") for name in weights)
    prefix = f"model.{part}." if whole else f"{part}."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _check(part: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that are not exactly those of a part."""
    for name in [*expected, *(found.keys() - expected.keys())]:
        there, here = found.get(name), expected.get(name)
        if there is not None and here is not None and there.shape == here.shape:
            continue
        raise ConfigError(
            f"start.{part}",
            f"{'no parameter' if there is None else 'the parameter'} '{part}.{name}'"
            + (f" of shape {tuple(there.shape)}" if there is not None else "")
            + f" in {file}",
            f"one of shape {tuple(here.shape)}" if here is not None else "none, as this model has no such parameter",
            f"Give model.{part} the settings of that run, or leave start.{part} out.",
        )
