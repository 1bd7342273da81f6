"""A policy from an exported folder: nothing of the code that trains, reads data sets or probes is imported."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trivium.action.choice import open_tokenizer
from trivium.action.tokenizer import Robot
from trivium.core.config import Config, parse
from trivium.core.errors import CheckpointError, ConfigError, TriviumError
from trivium.core.rng import isolated
from trivium.core.sample import Sample
from trivium.data.column import Stats, from_json
from trivium.data.transform import TransformConfig, build_chain
from trivium.language.hub_folder import held_names, read_language
from trivium.policy.act import VlaPolicy
from trivium.policy.sequence import VlaLayout
from trivium.policy.speak import SpeakingPolicy
from trivium.policy.vla import Model, ModelConfig
from trivium.serve.contract import Contract, Observation
from trivium.synth.ground import GroundConfig
from trivium.vision.pretrained import PretrainedVisionConfig

FORMAT, VERSION = "trivium-policy", 1
POLICY, WEIGHTS, STATISTICS = "policy.json", "model.safetensors", "statistics.json"
LANGUAGE, VISION = "language", "vision"
ACTION_TOKENIZER = "action_tokenizer.json"
"""Not tokenizer.json: a hub would take that for the words'."""
TODO = "Export the run again: trivium export RUN"


class PolicyConfig(Config):
    """The settings of a run that a policy is built from; paths point into the exported folder."""

    model: ModelConfig
    """The parts, as the run had them."""
    transforms: tuple[Annotated[TransformConfig | GroundConfig, Field(discriminator="kind")], ...]
    """Steps between an observation and the model, and back from its answer to commands."""
    precision: Literal["float32", "bfloat16"]
    """Type of the weights."""
    seed: int
    """What the noise of the action head starts from until `reset` says otherwise."""


class Policy:
    """An exported policy: observations in, chunks of commands in physical units out.

    `policy` is the `VlaPolicy` inside, with log-probabilities and features for reinforcement learning; `contract`
    says what an observation holds, what the commands mean and how many of them there are a second.
    """

    def __init__(self, policy: VlaPolicy, contract: Contract) -> None:
        """Join a policy and what it asks for."""
        self.policy, self.contract = policy, contract

    def reset(self, seed: int) -> None:
        """Start the noise again, so that an episode can be repeated."""
        self.policy.reset(seed)

    def act(
        self, observation: Observation | Sequence[Observation], temperature: float | None = None
    ) -> Float[np.ndarray, "*m k a"]:
        """Return a chunk of commands for an observation, or one each for several, in physical units.

        Args:
            observation: a `Sample`, or {"images": {view: array}, "state": array, "instruction": words}; or several,
                of any lengths of words, that share one pass through the model.
            temperature: how much to explore; None as the head was taught, 0 its most typical answer.

        Raises:
            DataError: an observation lacks a field or has a wrong one, or the answer is not finite.
        """
        one = isinstance(observation, Sample | Mapping)
        chunks = self.policy.act(self.samples([observation] if one else observation), temperature)
        return chunks[0] if one else chunks

    def samples(self, observations: Sequence[Observation]) -> list[Sample]:
        """Return observations as samples, every field checked: what `policy.draw` and `policy.features` take.

        Raises:
            DataError: an observation lacks a field or has a wrong one.
        """
        return [self.contract.sample(observation, place) for place, observation in enumerate(observations)]


def load_policy(folder: Path | str, device: str = "cpu", speaking: bool = False) -> Policy:
    """Load what `trivium export` wrote; nothing outside the folder is read.

    Args:
        folder: the export.
        device: where to act.
        speaking: act by the action tokens that the trunk writes, where it learned them, in place of the head's chunks.

    Raises:
        CheckpointError: no exported folder, one of another version, or a file that is missing or damaged.
        ConfigError: a device that torch does not have.
    """
    folder = Path(folder)
    about = _read_about(folder)
    place = _device(device)
    try:
        config = parse(PolicyConfig, about["settings"], str(folder / POLICY))
        contract = Contract.from_json(about["robot"])
        stats = from_json(json.loads((folder / STATISTICS).read_text()))
    except TriviumError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / POLICY, f"{type(error).__name__}: {error}") from error
    _check_statistics(folder, contract, stats)
    with isolated(0):
        model = _model(folder, config, contract, about)
    layout = VlaLayout(model.language.vocab, model.connect.num_tokens, None, model.state is None)
    parts = (model.to(place).eval(), build_chain(config.transforms, stats), layout)
    if not speaking:
        return Policy(VlaPolicy(*parts, config.seed), contract)
    column = stats[contract.embodiment]["action"]
    owner = Robot(contract.embodiment, column.names, *column.range())
    tokenizer = open_tokenizer(folder / ACTION_TOKENIZER, config.model.tokenizer, owner, contract.horizon)
    return Policy(SpeakingPolicy(*parts, tokenizer, config.seed), contract)


def digest(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / POLICY
    if not path.is_file():
        run = (folder / "config.yaml").is_file()
        found = "no such folder" if not folder.is_dir() else "a run folder" if run else f"no {POLICY}"
        todo = f"Type: trivium export {folder}" if run else "Name a folder that `trivium export` wrote."
        raise CheckpointError(str(folder), found, "an exported policy", todo)
    try:
        about = json.loads(path.read_text())
        found = f"format {about['format']!r} version {about['version']!r}"
        files: dict[str, Any] = dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if (about["format"], about["version"]) != (FORMAT, VERSION):
        raise CheckpointError(str(path), found, f"format {FORMAT!r} version {VERSION}", TODO)
    for name, expected in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise _damaged(path, f"a file outside the folder, {name!r}")
        if not file.is_file():
            raise CheckpointError(str(file), "no such file", "a whole export", TODO)
        if digest(file) != expected:
            raise _damaged(file, "other bytes than were written")
    return about


def _check_statistics(folder: Path, contract: Contract, stats: Stats) -> None:
    robots, path = ", ".join(map(repr, stats)) or "no robot", f"{folder / STATISTICS}"
    if contract.embodiment not in stats:
        raise CheckpointError(path, robots, f"robot {contract.embodiment!r}", TODO)
    for column, names in (("state", contract.state_names), ("action", contract.action_names)):
        found = stats[contract.embodiment].get(column)
        if found is None or found.names != names:
            said = "nothing" if found is None else ", ".join(found.names)
            raise CheckpointError(f"{path}: {column}", said, ", ".join(names), TODO)


def _model(folder: Path, config: PolicyConfig, contract: Contract, about: Mapping[str, Any]) -> Model:
    """Build the model and put every weight in its place, in the run's precision."""
    path = folder / WEIGHTS
    try:
        language = read_language(folder / LANGUAGE, about["vocabulary"])
        vision = config.model.vision
        if isinstance(vision, PretrainedVisionConfig):
            encoder = vision.replace(path=str(folder / VISION)).skeleton()
        else:
            encoder = vision.build()
        held = {f"language.{name}" for name in held_names(language)}
        model = config.model.join(encoder, language, len(contract.action_names), len(contract.state_names))
        weights = load_file(path)
    except CheckpointError:
        raise
    except (TriviumError, OSError, SafetensorError, KeyError) as error:
        raise _damaged(path if isinstance(error, SafetensorError) else folder, f"{error}") from error
    model.to(getattr(torch, config.precision))
    mine: dict[str, Tensor] = model.state_dict()
    wanted = mine.keys() - held
    wrong = sorted(wanted ^ weights.keys())
    wrong += [n for n in wanted & weights.keys() if _kind(mine[n]) != _kind(weights[n])]
    if wrong:
        raise _damaged(path, f"{len(wrong)} weights that do not fit, such as {wrong[0]!r}")
    model.load_state_dict(weights, strict=False)
    return model


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("device", repr(name), "a device of this machine, such as 'cpu'", "Name another.") from error
    return place


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(str(path), found, "what `trivium export` wrote", TODO)
