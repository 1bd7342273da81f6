"""Writing a trained policy as a folder that transformers and a robot can load, whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from trivium import __version__
from trivium.action.tokenizer import ActionTokenizer, Robot
from trivium.core.errors import CheckpointError
from trivium.core.files import publish_folder, write_atomic, write_json
from trivium.data.column import Stats, to_json
from trivium.language.hub_folder import vocab_to_json, write_language
from trivium.policy.vla import Model
from trivium.serve.card import Facts, render
from trivium.serve.contract import Contract
from trivium.serve.policy import (
    ACTION_TOKENIZER,
    FORMAT,
    LANGUAGE,
    POLICY,
    STATISTICS,
    VERSION,
    VISION,
    WEIGHTS,
    PolicyConfig,
    digest,
)
from trivium.vision.hub_folder import write_vision
from trivium.vision.pretrained import PretrainedVisionConfig

LICENSES = "LICENSES.json"
CARD = "README.md"


@dataclass(frozen=True, eq=False, kw_only=True)
class Handover:
    """Everything that goes into an exported folder."""

    model: Model
    settings: PolicyConfig
    contract: Contract
    stats: Stats
    tokenizer: ActionTokenizer
    robot: Robot
    licenses: Mapping[str, Any]
    """Licence lineage, as it will stand in LICENSES.json."""
    facts: Facts
    """What the model card says."""


def write_export(folder: Path, parts: Handover) -> None:
    """Write the folder; an older export of that name is replaced when the new one stands.

    ====================== =====================================================================================
    README.md              the model card
    policy.json            settings, robot, vocabulary, and size and sha256 of every other file that is loaded
    model.safetensors      every weight that language/ does not hold, under the names of the run
    statistics.json        of states and actions, for the transforms
    action_tokenizer.json  action chunks as ids
    language/              trunk, head and tokenizer: AutoModelForCausalLM, AutoTokenizer
    vision/                the encoder's config and, where its family allows, its weights: AutoModel
    LICENSES.json          what the weights were made from, under which terms
    ====================== =====================================================================================

    Raises:
        CheckpointError: the folder holds something else, or cannot be written.
    """
    refuse_foreign(folder)
    publish_folder(folder, lambda partial: _fill(partial, parts))


def refuse_foreign(folder: Path) -> None:
    """Refuse a place that holds anything but an older export.

    Raises:
        CheckpointError: a file, or a folder with other things in it.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / POLICY).is_file():
        found = f"a folder without {POLICY}" if folder.is_dir() else "a file"
        raise CheckpointError(str(folder), found, "a new folder, or an older export", "Name another with --out.")


def _fill(folder: Path, parts: Handover) -> None:
    model, settings = parts.model, parts.settings
    names = write_language(model.language, settings.model.language, folder / LANGUAGE)
    held = {f"language.{name}" for name in names}
    vision, facts = settings.model.vision, parts.facts
    # What they began with is in the weights below.
    changes: dict[str, Any] = {"connect": settings.model.connect.replace(path=None)}
    if isinstance(vision, PretrainedVisionConfig):
        facts = facts.add_vision(write_vision(model.vision, vision, folder / VISION))
        changes["vision"] = vision.replace(path=VISION)
    if hasattr(settings.model.language, "path"):
        changes["language"] = settings.model.language.replace(path=LANGUAGE)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in held}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / STATISTICS, to_json(parts.stats))
    parts.tokenizer.save(folder / ACTION_TOKENIZER, parts.robot)
    write_json(folder / LICENSES, dict(parts.licenses))
    write_atomic(folder / CARD, render(facts))
    portable = settings.replace(model=settings.model.replace(**changes))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    about = {
        "format": FORMAT,
        "version": VERSION,
        "trivium": __version__,
        "robot": parts.contract.to_json(),
        "vocabulary": vocab_to_json(model.language.vocab, settings.model.language),
        "settings": portable.model_dump(mode="json"),
        # The card and the licences may be edited by hand; what is loaded may not.
        "files": {
            path.relative_to(folder).as_posix(): digest(path) for path in files if path.name not in (CARD, LICENSES)
        },
    }
    write_json(folder / POLICY, about)  # last: it says that the rest is whole
