"""The image tokenizer of a unified stage: where it comes from, and how one stage hands it to the next."""

from pathlib import Path

import torch

from trivium.core.errors import ConfigError
from trivium.core.objective import Objective
from trivium.data.source.episode import EpisodeConfig
from trivium.policy.unified import FILE, UnifiedConfig
from trivium.policy.unified_layout import IMAGE, STATE, Pictures, check_room
from trivium.run import Run, Stage
from trivium.vision.image_tokens import ImageTokensConfig, ImageTokensObjective
from trivium.vision.tokenizer import ImageTokenizer

FOLDER = "image_tokens"
"""Where a run folder keeps what its image_tokens stages learned: one file a stage."""


def check_unified(config: Run) -> None:
    """Refuse unified stages that could not begin, before the first step of the first stage.

    Raises:
        ConfigError: no such tokenizer, one for other pictures, or a vocabulary without room; stage and field are named.
        CheckpointError: the tokenizer's file is damaged.
    """
    side = config.model.vision.image_size
    for number, stage in enumerate(config.stages):
        objective, where = stage.objective, f"stages.{stage.name}.objective.tokenizer"
        if not isinstance(objective, UnifiedConfig):
            continue
        name = objective.tokenizer
        if name.endswith(FILE):
            if not Path(name).is_file():
                todo = (
                    f"Copy {FOLDER}/STAGE{FILE} of the run that trained it, or name an image_tokens stage of this one."
                )
                raise ConfigError(where, f"no file {name}", "an image tokenizer", todo)
        elif name not in (known := [stage.name for stage in config.stages[:number] if _makes_tokens(stage)]):
            expected = f"an earlier image_tokens stage ({', '.join(known) or 'there is none'}), or a path in {FILE}"
            raise ConfigError(where, repr(name), expected, "Put such a stage before it, or name a file.")
        pictures = pictures_of(objective, config)
        if pictures.image_size != side:
            found = f"a tokenizer for pictures of {pictures.image_size} x {pictures.image_size}"
            todo = "Name another file, or change image_size and the Resize step."
            raise ConfigError(where, found, f"{side} x {side}, as model.vision takes them", todo)
        spans = config.model.language.spans
        check_room(spans.get(IMAGE, 0), pictures.num_codes, f"stages.{stage.name}: model.language.spans.{IMAGE}")
        if STATE not in spans and any(isinstance(bucket.source, EpisodeConfig) for bucket in stage.mixture.buckets):
            found = f"stages.{stage.name}: model.language.spans.{STATE}"
            raise ConfigError(found, "no such span", "ids for the robot's state", "Add for example state: 256.")


def pictures_of(objective: UnifiedConfig, config: Run) -> Pictures:
    """Return what a layout must know of the tokenizer, before it is trained."""
    if objective.tokenizer.endswith(FILE):
        tokenizer = ImageTokenizer.load(Path(objective.tokenizer))
    else:
        with torch.device("meta"):
            tokenizer = _untrained(objective, config)
    return Pictures(tokenizer.image_size, tokenizer.tokens_per_image, tokenizer.vocab_size)


def open_image_tokenizer(objective: UnifiedConfig, config: Run, folder: Path | None) -> ImageTokenizer:
    """Return the tokenizer that a unified stage looks through.

    Without a run folder, where shapes alone are asked for, that of another stage comes untrained.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if objective.tokenizer.endswith(FILE):
        return ImageTokenizer.load(Path(objective.tokenizer))
    if folder is None:
        return _untrained(objective, config)
    return ImageTokenizer.load(_place(folder, objective.tokenizer))


def keep_tokenizer(objective: Objective, folder: Path, stage: str) -> None:
    """Write what an image_tokens stage has learned, at its end; other stages leave nothing.

    A file, not a module handed on: a unified stage that is resumed in another process then reads the same bits.
    """
    if isinstance(objective, ImageTokensObjective):
        objective.tokenizer.save(_place(folder, stage))


def _place(folder: Path, stage: str) -> Path:
    return folder / FOLDER / f"{stage}{FILE}"


def _makes_tokens(stage: Stage) -> bool:
    return isinstance(stage.objective, ImageTokensConfig)


def _untrained(objective: UnifiedConfig, config: Run) -> ImageTokenizer:
    maker = next(stage.objective for stage in config.stages if stage.name == objective.tokenizer)
    assert isinstance(maker, ImageTokensConfig), "check_unified has looked"
    return maker.network.build(config.model.vision.image_size)
