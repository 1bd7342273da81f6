"""Joining the parts of a run: sources, statistics, transforms, model, objectives, loaders, policy."""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from trivium import __version__
from trivium.action.choice import open_tokenizer
from trivium.action.prior import ActionPriorConfig
from trivium.action.tokenizer import ActionTokenizer, Robot
from trivium.core.config import to_yaml
from trivium.core.errors import ConfigError
from trivium.core.files import write_json
from trivium.core.log import console, warn
from trivium.core.objective import Objective
from trivium.core.rng import isolated, key, seed_all
from trivium.core.sample import Action, Sample
from trivium.data.bucket import SourceConfig, select
from trivium.data.column import to_json
from trivium.data.index import Index, count
from trivium.data.loader import Loader
from trivium.data.pad import PadConfig
from trivium.data.plan import Plan
from trivium.data.row import Layout, collate
from trivium.data.source.lerobot import LeRobot
from trivium.data.source.source import Source
from trivium.data.stats import Part, measure
from trivium.data.transform import Chain, build_chain, front
from trivium.language.continual import ContinualConfig
from trivium.language.vocab import Vocab
from trivium.nn.compiled import check_compiler
from trivium.pictures import check_unified, open_image_tokenizer, pictures_of
from trivium.policy.act import VlaPolicy
from trivium.policy.sequence import VlaLayout
from trivium.policy.unified import UnifiedConfig
from trivium.policy.vla import Model
from trivium.probe.features import Features
from trivium.run import ObjectiveConfig, Run, Stage
from trivium.vision.image_tokens import ImageTokensConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.supervised import SupervisedConfig

TOKENIZER = "tokenizer.json"
"""The action tokenizer of a run folder."""


@dataclass(frozen=True)
class Stagework:
    """Everything that one stage needs."""

    stage: Stage
    objective: Objective
    plan: Plan
    loader: Loader


@dataclass(frozen=True)
class Widths:
    """What counting tokens needs to know of a model."""

    vocab: Vocab
    num_patches: int
    """Patches that the encoder makes of a picture."""
    tokens_per_image: int
    """Tokens that the connector makes of them."""


class Supply:
    """The data side of a run: sources, statistics, transforms, tokenizer, and the plan of every stage; no weights."""

    def __init__(self, config: Run) -> None:
        """Open the robot's demonstrations, measure them and fit the action tokenizer.

        Raises:
            TriviumError: data or settings are missing or do not fit one another.
        """
        check_unified(config)
        self.config = config
        self._sources: dict[str, Source] = {}
        robot = self.source(config.robot.source)
        assert isinstance(robot, LeRobot), "RobotConfig.source is a LeRobotConfig"
        self.robot = robot
        _check_robot(config, robot)
        _check_rollout(config, robot)
        self._train = select(robot, "train", config.robot.val_share)
        self.stats = measure([(robot, self._train), *self._others()], front(config.transforms))
        self.chain: Chain = build_chain(config.transforms, self.stats)
        self.tokenizer = self._make_tokenizer()

    @cached_property
    def widths(self) -> Widths:
        """What a model will make of words and pictures, read without its weights."""
        model = self.config.model
        grid = model.vision.grid()
        return Widths(model.language.vocab(), grid[0] * grid[1], model.connect.num_tokens(grid))

    @cached_property
    def num_parameters(self) -> int:
        """Size of the model, frozen parameters counted too; asked for only where a bucket depends on it."""
        return sum(parameter.numel() for parameter in build_model(self.config).parameters())

    def source(self, config: SourceConfig) -> Source:
        """Open a source, or return it where an equal one is open: its decoded frames serve all stages."""
        name = to_yaml(config)
        if name not in self._sources:
            self._sources[name] = config.build()
        return self._sources[name]

    def plan(self, stage: Stage) -> Plan:
        """Count every bucket of a stage that is for a model of this size, and plan the stage.

        Raises:
            ConfigError: no bucket is for this model, or one would be repeated too often.
            DataError: a source cannot be used, or a bucket has nothing that fits.
        """
        mixture, layout = stage.mixture, self.layout(stage.objective)
        if mixture.sized:
            mixture = mixture.of_size(self.num_parameters)
        indexes = {}
        for bucket in mixture.buckets:
            source = self.source(bucket.source)
            samples = select(source, bucket.split, bucket.val_share)
            indexes[bucket.name] = _count(bucket.name, source, samples, self.chain, layout)
        return Plan(mixture, indexes, stage.steps * stage.accumulate, key(self.config.seed, "plan", stage.name))

    def layout(self, objective: ObjectiveConfig) -> Layout:
        """Return how samples become rows under an objective."""
        if isinstance(objective, VisionObjectiveConfig):
            return objective.layout(self.widths.num_patches, self.widths.vocab.encode)
        if isinstance(objective, SupervisedConfig):
            return objective.layout(self.widths.num_patches)
        if isinstance(objective, ImageTokensConfig):
            return objective.layout(self.config.model.vision.image_size)
        if isinstance(objective, ContinualConfig):
            return objective.layout(self.widths.vocab)
        if isinstance(objective, ActionPriorConfig):
            return objective.layout()
        if isinstance(objective, UnifiedConfig):
            return objective.layout(self.widths.vocab, pictures_of(objective, self.config), self.tokenizer)
        return objective.layout(
            self.widths.vocab, self.widths.tokens_per_image, self.tokenizer, self.config.model.state == "words"
        )

    def owner(self) -> Robot:
        """Return whose actions the tokenizer spells, and under which normalisation."""
        column = self.stats[self.robot.embodiment]["action"]
        return Robot(self.robot.embodiment, column.names, *column.range())

    def _others(self) -> list[Part]:
        """Return what other robots the stages train on; the policy's own is measured on its demonstrations alone."""
        found: dict[tuple[str, str], Part] = {}
        for bucket in (bucket for stage in self.config.stages for bucket in stage.mixture.buckets):
            source = self.source(bucket.source)
            if source.columns() and source.embodiment != self.robot.embodiment:
                # The same set with and without its cameras counts once.
                place = (source.embodiment, str(getattr(bucket.source, "path", source.name)))
                found.setdefault(place, (source, select(source, bucket.split, bucket.val_share)))
        return list(found.values())

    def _make_tokenizer(self) -> ActionTokenizer:
        motion = self.robot.motion(self._train)
        whole = self._train[motion.valid.all(1)]
        if not len(whole):
            raise ConfigError(
                "robot.source.horizon",
                str(self.config.robot.source.horizon),
                "a horizon shorter than the longest episode",
                "Lower the horizon of the source and of model.action.",
            )
        return self.config.model.tokenizer.fit(self.chain.motion(self.robot.motion(whole)).action)


class World(Supply):
    """A run's parts, opened once: every stage, check and rollout uses the same instances."""

    def __init__(self, config: Run, folder: Path, examine: Callable[["World"], object] = lambda world: None) -> None:
        """Open the data side and build the model with fresh weights.

        Args:
            config: the run.
            folder: of the run.
            examine: called before the folder is written to; what it raises leaves nothing behind.

        Raises:
            TriviumError: data, weights or settings are missing or do not fit one another.
        """
        self.folder, self.device = folder, _device(config)
        super().__init__(config)
        for name, column in self.stats[self.robot.embodiment].items():
            if column.constant():
                warn(f"{name} of {config.robot.source.path} never moves in {', '.join(column.constant())}")
        if config.compile:
            check_compiler(self.device)
        self.model = build_model(config).to(self.device)
        examine(self)
        if config.compile:
            self.model.compile_blocks()
        # Written last: parts that do not fit one another leave nothing behind.
        write_json(folder / "statistics.json", to_json(self.stats))
        write_json(folder / "environment.json", _environment(self.device))
        self.tokenizer.save(folder / TOKENIZER, self.owner())

    def _make_tokenizer(self) -> ActionTokenizer:
        """Open the tokenizer that the folder holds, whatever a later release would fit; fit one for a new folder."""
        path = self.folder / TOKENIZER
        if not path.is_file():
            return super()._make_tokenizer()
        return open_tokenizer(path, self.config.model.tokenizer, self.owner(), self.config.robot.source.horizon)

    @cached_property
    def widths(self) -> Widths:
        """What the model makes of words and pictures."""
        return Widths(self.model.language.vocab, self.model.vision.num_patches, self.model.connect.num_tokens)

    @cached_property
    def num_parameters(self) -> int:
        """Size of the model, frozen parameters counted too."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def stage(self, index: int) -> Stagework:
        """Build the objective, the plan and the loader of one stage."""
        stage = self.config.stages[index]
        objective = build_objective(stage.objective, self.model, self.config, self.folder).to(self.device)
        plan = self.plan(stage)
        sources = {bucket.name: self.source(bucket.source) for bucket in plan.mixture.buckets}
        return Stagework(
            stage, objective, plan, Loader(plan, sources, self.chain, self.layout(stage.objective), plan.seed)
        )

    def policy(self) -> VlaPolicy:
        """Return the model as it stands, ready to act; it answers with chunks in physical units."""
        return VlaPolicy(self.model, self.chain, self._observing(), key(self.config.seed, "act"))

    def features(self, model: Model) -> Features:
        """Return the frozen features of a model: one row of numbers a sample, its action chunk left out."""
        layout = self._observing()

        @torch.no_grad()
        def read(samples: list[Sample]) -> np.ndarray:
            rows = [layout.build(self.chain.forward(_without_action(sample), None)) for sample in samples]
            batch = collate([[("", row)] for row in rows], max(row.length for row in rows)).to(self.device)
            training = model.training
            model.eval()
            found = model.features(batch).float().cpu().numpy()
            model.train(training)
            return found

        return read

    def random_twin(self) -> Model:
        """Build the same architecture with random weights: what the probes of learned features are held against."""
        with isolated(key(self.config.seed, "random twin")):
            twin = build_model(self.config).to(self.device)
            for parameter in twin.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.02)
        return twin.eval()

    def _observing(self) -> VlaLayout:
        return VlaLayout(self.widths.vocab, self.widths.tokens_per_image, None, self.model.state is None)


def build_model(config: Run) -> Model:
    """Build the model of a run: pretrained parts loaded, everything else fresh from the seed."""
    seed_all(key(config.seed, "model"))
    model = config.model.build(config.robot.action_dim, config.robot.state_dim)
    return model.to(getattr(torch, config.precision))


def build_objective(objective: ObjectiveConfig, model: Model, config: Run, folder: Path | None = None) -> Objective:
    """Build an objective on the parts of a model, its own heads in the run's precision.

    Without a run folder (to explain, to count parameters) what earlier stages left there comes with fresh weights.
    """
    if isinstance(objective, UnifiedConfig):
        return objective.build(model, open_image_tokenizer(objective, config, folder))
    return objective.build(model).to(getattr(torch, config.precision))


def _without_action(sample: Sample) -> Sample:
    kept = tuple(segment for segment in sample.segments if not isinstance(segment, Action))
    return Sample(**{**sample.__dict__, "segments": kept})


def _count(name: str, source: Source, samples: np.ndarray, chain: Chain, layout: Layout) -> Index:
    # Where there is no terminal a bar would leave an empty line.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(f"counting tokens: {name}", total=len(samples))
        return count(source, samples, chain, layout, lambda done: bar.update(line, completed=done))


def _device(config: Run) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "'cuda', and torch sees no GPU", "a GPU", "Set device=auto or device=cpu.")
    wanted = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _environment(device: torch.device) -> dict[str, str]:
    """Name what a figure of this run depends on besides its config."""
    packages = ("torch", "transformers", "numpy", "mujoco", "metaworld")
    versions = {name: metadata.version(name) for name in packages if find_spec(name)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "trivium": __version__,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device.type}: {name}, {torch.get_num_threads()} threads",
    }


def _check_robot(config: Run, robot: LeRobot) -> None:
    for name, column, expected in (
        ("state_dim", "state", config.robot.state_dim),
        ("action_dim", "action", config.robot.action_dim),
    ):
        pad = next((step for step in config.transforms if isinstance(step, PadConfig)), None)
        found = robot.columns()[column].shape[1] if pad is None else getattr(pad, name)
        if found != expected:
            said = config.robot.source.path if pad is None else "the pad step of transforms"
            raise ConfigError(f"robot.{name}", str(expected), f"{found}, as in {said}", f"Set robot.{name}={found}.")
    if config.robot.source.future:
        raise ConfigError(
            "robot.source.future",
            str(config.robot.source.future),
            "0: probes and policies see the present alone",
            "Give the future to the buckets of a unified stage, as source=ROBOT.replace(future=...).",
        )
    if config.robot.source.horizon != config.model.action.horizon:
        raise ConfigError(
            "model.action.horizon",
            str(config.model.action.horizon),
            f"{config.robot.source.horizon}, the horizon of robot.source",
            "Give both the same number.",
        )
    for stage in config.stages:
        for bucket in stage.mixture.buckets:
            same = getattr(bucket.source, "path", None) == config.robot.source.path and bucket.split == "train"
            if same and bucket.val_share != config.robot.val_share:
                raise ConfigError(
                    f"stages.{stage.name}: val_share of bucket {bucket.name}",
                    f"{bucket.val_share:g}",
                    f"{config.robot.val_share:g}, as in robot.val_share",
                    "Give both the same number, or probes are tested on what was trained on.",
                )
    target = config.health.target
    if target is not None and target not in robot.truths:
        raise ConfigError(
            "health.target",
            repr(target),
            f"a truth of {config.robot.source.path}: {', '.join(robot.truths) or 'it has none'}",
            "Name one of them, or set health.target=null to leave that probe out.",
        )


def _check_rollout(config: Run, robot: LeRobot) -> None:
    """A policy is tried at the rate, with the views and in the set-up that its demonstrations were recorded in."""
    rollout, source = config.rollout, config.robot.source
    if rollout is None:
        return
    for name, here, there in (
        ("control_hz", str(rollout.control_hz), f"{robot.fps:g}"),
        ("views", ", ".join(rollout.views), ", ".join(source.views)),
    ):
        if here != there:
            raise ConfigError(
                f"rollout.{name}", here, f"{there}, as in {source.path}", "Try the policy as it was taught."
            )
    if rollout.execute > source.horizon:
        raise ConfigError(
            "rollout.execute", str(rollout.execute), f"at most {source.horizon}, the horizon", "Execute fewer commands."
        )
    about = Path(source.path).parent / "demo.json"
    recorded = json.loads(about.read_text()).get("settings", {}) if about.is_file() else {}
    for name in ("spread", "image_size"):
        here = getattr(rollout, name)
        if recorded.get(name, here) != here:
            warn(f"rollout.{name} is {here}, the demonstrations had {recorded[name]} ({about})")
