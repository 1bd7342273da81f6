"""Encoders that transformers knows, taken apart and put together behind our interface (its only user in this wing)."""

from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.hub import load_part, refuse_missing, use_our_attention
from trivium.vision.encoder import Encoder, PatchEncoder, cut, normalise
from trivium.vision.family import FAMILIES, Family, Parts
from trivium.vision.whole import PretrainedResnet, RotaryEncoder, as_linear, interpolate


class PretrainedVisionConfig(Config):
    """An encoder that learned elsewhere: a transformers ViT from a folder or by name, its first layers or all."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    """Local folder or hub name of a DINOv2 (with registers or not), DINOv3, ViT, ViT-MAE, CLIP, SigLIP, SigLIP 2 or
    InternViT (inside an InternVL, or alone) model, or of a ResNet."""
    num_layers: int
    """How many of its first blocks to keep (the last norm always stays). Middle layers often transfer better to
    robot control than the last; more than it has is refused. Of a ResNet all residual blocks are counted through."""
    image_size: int
    """Side of the square pictures in pixels, a multiple of the model's patch; positions are interpolated to it."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a picture skips the last block in training, less in earlier ones; InternVL takes 0.1. A frozen
    encoder never skips. Too high: the loss falls slowly and never as far. A ResNet has none."""

    def build(self) -> Encoder:
        """Load the weights (float32) and keep the first blocks.

        Raises:
            SetupError: the weights are not there or not complete.
            ConfigError: not a model we know, too many layers, or a size that the patch does not divide.
        """
        family = self._family(self.read())
        # The class names are strings so that a config can be read without importing every model's code.
        loader = getattr(transformers, family.model).from_pretrained
        options = {"key_mapping": {family.inside: ""}} if family.inside else {}
        model, report = load_part(
            loader, self.path, "vision.path", dtype=torch.float32, output_loading_info=True, **options
        )
        missing = [name for name in report["missing_keys"] if not name.startswith(family.unused)]
        refuse_missing(missing, self.path, "vision.path")
        return self._encoder(model, family)

    def skeleton(self) -> Encoder:
        """Build the encoder from the folder's config alone, its weights random: for who brings them from elsewhere.

        Raises:
            SetupError: the config is not there.
            ConfigError: not a model we know, too many layers, or a size that the patch does not divide.
        """
        config = self.read()
        family = self._family(config)
        return self._encoder(getattr(transformers, family.model)(config), family)

    def _encoder(self, model: Any, family: Family) -> Encoder:
        if family.take_apart is None:
            self._check(sum(model.config.depths))
            if self.drop_path:
                raise ConfigError("vision.drop_path", f"{self.drop_path} for a ResNet", "0.0", "Set drop_path=0.0.")
            return PretrainedResnet(model, self.num_layers, self.image_size)
        use_our_attention(model)
        parts = family.take_apart(model)
        self._check(len(parts.blocks))
        self._check_size(parts.patch.kernel_size[0])
        make = PretrainedEncoder if parts.turn is None else RotaryEncoder
        return make(parts, family, self.num_layers, self.image_size, self.drop_path)

    def grid(self) -> tuple[int, int]:
        """Return rows and columns of patches from the model's config: no weights are read.

        Raises:
            SetupError: the config is not there.
            ConfigError: not a model we know, or a size that the patch does not divide.
        """
        config = self.read()
        if self._family(config).take_apart is None:
            self._check(sum(config.depths))
            side = PretrainedResnet.side(config, self.num_layers, self.image_size)
            return side, side
        patch = config.patch_size
        patch_size = patch if isinstance(patch, int) else patch[0]
        self._check_size(patch_size)
        return self.image_size // patch_size, self.image_size // patch_size

    def read(self) -> Any:
        """Return the config of the vision part.

        Raises:
            SetupError: the config is not there.
            ConfigError: not a model we know.
        """
        config = load_part(transformers.AutoConfig.from_pretrained, self.path, "vision.path")
        self._family(config)
        return getattr(config, "vision_config", config)

    def _family(self, config: Any) -> Family:
        family = FAMILIES.get(config.model_type)
        if family is None:
            known = ", ".join(sorted(FAMILIES))
            raise ConfigError(
                "vision.path", f"a {config.model_type} model", f"one of {known}", "Choose another encoder."
            )
        return family

    def _check(self, depth: int) -> None:
        if not 1 <= self.num_layers <= depth:
            raise ConfigError(
                "vision.num_layers", str(self.num_layers), f"1..{depth} for {self.path}", "Change num_layers."
            )

    def _check_size(self, patch_size: int) -> None:
        if self.image_size % patch_size:
            below = max(self.image_size // patch_size, 1) * patch_size
            raise ConfigError(
                "vision.image_size",
                str(self.image_size),
                f"a multiple of the patch, {patch_size} pixels",
                f"Use {below} or {below + patch_size}.",
            )


class PretrainedEncoder(PatchEncoder):
    """The first blocks of a pretrained ViT; every piece is a plain parameter of ours, so any of it can be frozen."""

    def __init__(self, parts: Parts, family: Family, num_layers: int, image_size: int, drop_path: float) -> None:
        """Keep the first blocks and interpolate the positions to the size of the pictures."""
        super().__init__()
        assert parts.positions is not None, "a model whose positions are added to its patches"
        self.patch_size, self.drop_path = parts.patch.kernel_size[0], drop_path
        side = image_size // self.patch_size
        self.grid, self.image_size, self.width = (side, side), image_size, parts.patch.out_channels
        self.mean, self.std, self.options = family.mean, family.std, family.options
        self.patch = as_linear(parts.patch)
        self.prefix = nn.Parameter(parts.prefix.detach().clone())
        self.positions = nn.Parameter(interpolate(parts.positions.detach(), self.grid, family.resample))
        self.first_norm = parts.first_norm
        self.blocks = parts.blocks[:num_layers]
        self.norm = parts.last_norm
        self.train()

    def embed(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Project patches and add positions."""
        self.check(images)
        pixels = normalise(images, self.mean, self.std).to(self.patch.weight.dtype)
        return self.patch(cut(pixels, self.patch_size).flatten(2)) + self.positions

    def encode(self, tokens: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """Run the kept blocks and the last norm; class and register tokens go along and are left behind."""
        extra = len(self.prefix)
        hidden = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        hidden = self.through(self.first_norm(hidden), **self.options)
        return self.norm(hidden[:, extra:])
