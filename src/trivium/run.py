"""A whole experiment as one value: model, data, stages, checks; and how a recipe becomes one."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from trivium.action.prior import ActionPriorConfig
from trivium.core.config import Config, from_yaml, override, to_yaml
from trivium.core.errors import CheckpointError, ConfigError, SetupError
from trivium.core.files import write_atomic
from trivium.data.bucket import MixtureConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import TransformConfig
from trivium.eval.rollout import RolloutConfig
from trivium.language.continual import ContinualConfig
from trivium.language.heldout import HeldOutConfig
from trivium.language.lora import LoraConfig, adapt, merge, take_out
from trivium.language.model import LanguageModel
from trivium.policy.objective import VlaConfig
from trivium.policy.unified import UnifiedConfig
from trivium.policy.vla import ModelConfig
from trivium.probe.check import HealthConfig
from trivium.synth.ground import GroundConfig
from trivium.train.optim import Group
from trivium.train.stage import Learner, StageConfig
from trivium.vision.image_tokens import ImageTokensConfig
from trivium.vision.objective import VisionObjectiveConfig
from trivium.vision.supervised import SupervisedConfig

ObjectiveConfig = Annotated[
    VisionObjectiveConfig
    | SupervisedConfig
    | ImageTokensConfig
    | ContinualConfig
    | ActionPriorConfig
    | VlaConfig
    | UnifiedConfig,
    Field(discriminator="kind"),
]


class Stage(StageConfig):
    """One stage of the curriculum: what it learns, from which data, and which parameters move.

    A recipe leaves a stage out by not listing it, and the command line by `stages.NAME=null`; a stage is repeated by
    listing it again under a name of its own: `connect().replace(name="connector-2")`.
    """

    objective: ObjectiveConfig
    """What is learned: vision (contrastive + MAE), supervised (classes of pictures), image_tokens (pictures as
    tokens), continual (next token), prior (actions alone), vla (alignment), unified (pictures as words too)."""
    mixture: MixtureConfig
    """What it is learned from, in shares of tokens."""
    lora: LoraConfig | None = None
    """Learn low-rank adapters of the language model instead of its weights; `learn` names them "language.lora", or
    "language.lora.20-29" by layer. They are added to the weights when the stage ends. null learns weights."""
    fresh: tuple[str, ...] = ()
    """Patterns of parameters that begin this stage with new random weights, whatever earlier stages taught them:
    ("action",) gives a new task a head of its own (VLAct). They must learn in this stage, and cannot belong to
    pretrained parts. () goes on with all weights."""

    cache_gb: float = Field(default=0.0, ge=0)
    """Gigabytes of memory for what a frozen encoder makes of pictures: one that comes again is not encoded again. It
    needs a frozen `vision` and transforms that leave pictures as they are (no random shift, no JPEG); a picture takes
    its patches x width x 2 or 4 bytes. The gain is printed at the end. 0 encodes always."""

    def freeze(self, objective: nn.Module) -> tuple[list[Group], list[Learner]]:
        """Put adapters in and freeze what does not learn.

        Raises:
            ConfigError: a pattern fits nothing, nothing would learn, or adapters that no pattern names.
            SetupError: adapters without peft.
        """
        self.adapt(objective)
        groups, table = super().freeze(objective)
        if self.lora is not None:
            adapters = _language(objective, f"stages.{self.name}.lora").get_submodule("lora")
            if not any(parameter.requires_grad for parameter in adapters.parameters()):
                raise ConfigError(
                    f"stages.{self.name}.learn",
                    f"{', '.join(self.learn)}, and adapters that do not learn",
                    "a pattern for them",
                    'Add "language.lora", or set lora=null.',
                )
        return groups, table

    def adapt(self, module: nn.Module) -> None:
        """Put this stage's adapters into the language model below a module; nothing where the stage has none.

        Raises:
            ConfigError: there is no language model.
            SetupError: peft is not installed.
        """
        if self.lora is not None:
            where = f"stages.{self.name}.lora"
            adapt(_language(module, where), self.lora, where)

    def take_out(self, module: nn.Module) -> None:
        """Take this stage's adapters out again as if they had never been there."""
        language = _language(module, f"stages.{self.name}.lora") if self.lora is not None else None
        if language is not None and hasattr(language, "lora"):
            take_out(language)

    def hand_over(self, module: nn.Module) -> None:
        """Leave plain weights to the next stage: adapters are added to them and vanish."""
        if self.lora is not None:
            where = f"stages.{self.name}.lora"
            merge(_language(module, where), where)


class RobotConfig(Config):
    """The robot that the policy drives, and the demonstrations that say how it moves."""

    source: LeRobotConfig
    """Demonstrations: their training side gives the statistics and the action tokenizer, their held-out side the
    health check's samples."""
    val_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of episodes held out; keep it equal to the `val_share` of the buckets that train on this source."""
    state_dim: int = Field(ge=1)
    """Dimensions of the state, padded ones too; checked against the source, or the pad step."""
    action_dim: int = Field(ge=1)
    """Dimensions of an action, padded ones too; checked against the source, or the pad step."""


class ProtectConfig(Config):
    """Something that no stage may spoil: an alarm is raised where it got worse."""

    watch: str = Field(pattern=r"^(text|probe|loss)\.[A-Za-z0-9_.-]+$")
    """What: "text.NAME" (bits a byte of a held-out text), "probe.object", "probe.actions" or "probe.task" (score of the
    linear probe), "loss.text", "loss.action_token" or "loss.flow" (held-out loss, see `ablate`)."""
    tolerance: float = Field(ge=0)
    """By how much it may get worse than at any earlier end of a stage: 0.02 to 0.1 bits a byte, 0.01 to 0.05 of a
    score. A worsening within three standard errors is noise and never counts."""


class CheckConfig(Config):
    """The transferability health check after every stage."""

    num_samples: int = Field(default=1500, ge=100)
    """Held-out frames that features are taken of, spread evenly; 1000 to 5000. Fewer give wide intervals."""
    target: str | None = "object"
    """Name of the simulator truth whose position the probes must find (column truth.NAME of the demonstrations); null
    where nobody measured one, as on most real robots."""
    probe: HealthConfig = HealthConfig()
    """How thorough the probes are."""
    ablate: int = Field(default=100, ge=0)
    """Held-out frames on which the losses of a stage that joins modalities are taken again without each camera, the
    state and the instruction: 100 to 1000, spread evenly. Costs (views + 3) forward passes a frame; 0 leaves it out."""
    texts: tuple[HeldOutConfig, ...] = ()
    """Corpora on which the language model is measured before the first stage, at every check and after every stage:
    the old domain and the new one show what was forgotten for what was learned. () measures none."""
    protect: tuple[ProtectConfig, ...] = ()
    """What the guard against negative transfer watches at every check; its alarms stand in alarms.jsonl and in the
    report, and training goes on."""


class Run(Config):
    """A whole experiment: what a recipe's function returns, and what `config.yaml` of a run folder holds."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Names the run folder runs/NAME."""
    seed: int = Field(default=0, ge=0)
    """Everything random follows from it: fresh weights, data order, masks, noise. Another seed is another run."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the weights while training; masters and moments are float32 in both. bfloat16 is 2 to 3 times faster
    where the processor has it, and several times slower where it does not (CPUs without AVX-512-BF16 or AMX)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU when torch sees one."""
    compile: bool = False
    """Compile the encoder's blocks and the language model's layers (torch.compile, one by one). A minute or more at the
    start of every stage that freezes other layers, for faster steps: worth it on a GPU and long stages. Sums are taken
    in another order, so losses differ in their last digits from a run without."""
    robot: RobotConfig
    """The robot and its demonstrations."""
    transforms: tuple[Annotated[TransformConfig | GroundConfig, Field(discriminator="kind")], ...]
    """Steps between every source and the model, in order; the same steps, mirrored, serve the robot."""
    model: ModelConfig
    """The parts: vision, connector, language, action."""
    start: dict[Literal["vision", "connect", "language", "action", "state", "context"], str] = {}
    """Parts that begin with what another run taught them, by the folder of that run or of an export:
    {"vision": "runs/small"} gives this run the encoder that learned through a small language model (progressive
    scaling). Every parameter of the part must be there in its shape, and no other. {} begins as `model` says."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """The curriculum. Weights pass from each stage to the next by themselves."""
    health: CheckConfig = CheckConfig()
    """What is probed after every stage."""
    rollout: RolloutConfig | None
    """What is tried in the simulator, before the first stage and after the last; null where there is no simulator."""


def _language(module: nn.Module, where: str) -> LanguageModel:
    language = getattr(module, "language", None)
    if not isinstance(language, LanguageModel):
        found = f"adapters in a {type(module).__name__}"
        raise ConfigError(where, found, "an objective with a language model", "Set lora=null in that stage.")
    return language


def load(recipe: Path, overrides: Sequence[str] = ()) -> Run:
    """Read a recipe (.py with `recipe()`) or a resolved config (.yaml), and apply dotted overrides.

    Raises:
        ConfigError: no such file, no `recipe` in it, or a setting that is wrong.
        SetupError: the recipe imports a package that is not installed.
    """
    if not recipe.is_file():
        known = ", ".join(sorted(str(path) for path in Path("recipes").glob("*.py"))) or "none here"
        raise ConfigError(str(recipe), "no such file", "a recipe", f"Recipes in this folder: {known}.")
    written = recipe.suffix in (".yaml", ".yml")
    config = from_yaml(Run, recipe.read_text(), str(recipe)) if written else _call(recipe)
    config = override(config, overrides)
    names = [stage.name for stage in config.stages]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError("stages", f"two stages named {twice.pop()!r}", "names of their own", "Rename one of them.")
    return config


def claim(config: Run, folder: Path) -> bool:
    """Write the resolved config into a new run folder, or make sure that the folder holds this very run.

    Returns True where the folder was new.

    Raises:
        CheckpointError: the folder belongs to a run with other settings, or holds something else.
    """
    path, text = folder / "config.yaml", to_yaml(config)
    if not path.exists():
        strangers = [item.name for item in folder.iterdir() if not item.name.startswith(".")]
        if strangers:
            raise CheckpointError(
                str(folder), f"{strangers[0]} and no config.yaml", "a new or empty folder", "Name another with --run."
            )
        write_atomic(path, text)
        return True
    if (before := path.read_text()) != text:
        old, new = before.splitlines(), text.splitlines()
        changed = next((line for line in new if line not in old), "fewer settings").strip()
        raise CheckpointError(
            str(path),
            f"another run's settings (first difference: {changed!r})",
            "the settings of this command",
            "Give another folder with --run, or take the changes back to go on with this one.",
        )
    return False


def open_run(folder: Path) -> Run:
    """Read the settings of a run folder.

    Raises:
        CheckpointError: it is no run folder.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise CheckpointError(str(folder), "no config.yaml", "a run folder", "Make one: trivium train RECIPE")
    return from_yaml(Run, path.read_text(), str(path))


def _call(recipe: Path) -> Run:
    spec = importlib.util.spec_from_file_location(f"trivium_recipe_{recipe.stem}", recipe)
    if spec is None or spec.loader is None:
        raise ConfigError(str(recipe), f"a file that ends in {recipe.suffix!r}", ".py, .yaml or .yml", "Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "recipe", None)
        config = make() if callable(make) else None
    except ModuleNotFoundError as error:
        raise SetupError(
            str(recipe), f"an import of {error.name!r}", "an installed package", f"Type: pip install {error.name}"
        ) from error
    except SyntaxError as error:
        raise ConfigError(f"{recipe}:{error.lineno}", error.msg, "Python", "Mend that line.") from error
    if not callable(make):
        raise ConfigError(str(recipe), "no function `recipe`", "def recipe() -> Run: ...", "See recipes/quickstart.py.")
    if not isinstance(config, Run):
        raise ConfigError(f"{recipe}: recipe()", f"a {type(config).__name__}", "a trivium.run.Run", "Return a Run.")
    return config
