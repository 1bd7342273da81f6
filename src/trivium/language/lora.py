"""Low-rank adapters: what a stage learns in place of the weights themselves, and adds to them when it ends."""

from importlib.util import find_spec

from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from trivium.core.config import Config
from trivium.core.errors import SetupError, TrainingError
from trivium.language.model import LanguageModel


class LoraConfig(Config):
    """Adapters W + scale * B A beside every matrix of the language model's layers (https://arxiv.org/abs/2106.09685).

    B starts at zero, so a stage begins exactly where the one before ended. The paper writes scale as alpha / rank, and
    adapts attention alone; all matrices learn more at the same size (https://arxiv.org/abs/2305.14314).
    """

    rank: int = Field(default=16, ge=1)
    """Rows of A and columns of B, 4 to 128. Too small: the loss stops early; too large: no cheaper than the weights."""
    scale: float = Field(default=2.0, gt=0)
    """Factor of what the adapters add, 1 to 4. It acts like a learning rate: change one or the other."""


def adapt(language: LanguageModel, config: LoraConfig, where: str) -> None:
    """Put fresh adapters into the layers; they stand under `language.lora`, a list by layer, for freeze patterns.

    Args:
        language: the model, changed in place; its own weights keep their values.
        config: size of the adapters.
        where: dotted path of the config, for errors.

    Raises:
        SetupError: peft is not installed.
    """
    assert not hasattr(language, "lora"), "adapters of an earlier stage were not merged"
    if not find_spec("peft"):
        raise SetupError(where, "no package 'peft'", "the extra `lora`", "Type: pip install -e '.[lora]'")
    import peft  # heavy, and an extra

    found = {name: part for name, part in language.layers.named_modules() if isinstance(part, nn.Linear | Conv1D)}
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.rank * config.scale,  # pyright: ignore[reportArgumentType] - divided by r again
        target_modules=list(found),
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in found.values()),
    )
    peft.inject_adapter_in_model(settings, language.layers)
    language.lora = nn.ModuleList(
        nn.ModuleList(half for part in _adapted(layer).values() for half in (part.lora_A, part.lora_B))
        for layer in language.layers
    )
    language.lora.to(language.embedding.weight.dtype)


def merge(language: LanguageModel, where: str) -> None:
    """Add the adapters to the weights and take them out: the model has its plain names again.

    In bfloat16 the sum is rounded to a weight's 8 bits, so the loss may move a little.

    Raises:
        TrainingError: an adapter is not finite; `where` says in which stage.
    """
    for name, part in _adapted(language.layers).items():
        try:
            part.merge(safe_merge=True)
        except ValueError as error:
            raise TrainingError(
                where, f"adapters of {name} that are not finite", "finite ones", "Lower the stage's lr or lora.scale."
            ) from error
    take_out(language)


def take_out(language: LanguageModel) -> None:
    """Take the adapters out and leave the weights beside them as they are, to the bit."""
    for name, part in _adapted(language.layers).items():
        parent, _, last = name.rpartition(".")
        setattr(language.layers.get_submodule(parent), last, part.get_base_layer())
    del language.lora, language.layers.peft_config


def _adapted(module: nn.Module) -> dict:
    """Return the layers of peft below a module, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: part for name, part in module.named_modules() if isinstance(part, LoraLayer)}
