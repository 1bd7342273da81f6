"""Encoders that transformers knows, taken apart and put together behind our interface (its only user in this wing)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.hub import load_part, refuse_missing, use_our_attention
from trivium.vision.encoder import IMAGENET_MEAN, IMAGENET_STD, PatchEncoder, cut, normalise


class PretrainedVisionConfig(Config):
    """An encoder that learned elsewhere: a transformers ViT from a folder or by name, its first layers or all."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    """Local folder or hub name of a DINOv2 (with registers or not), ViT, ViT-MAE, CLIP or SigLIP model."""
    num_layers: int
    """How many of its first blocks to keep (the last norm always stays). Middle layers often transfer better to
    robot control than the last; more than it has is refused."""
    image_size: int
    """Side of the square pictures in pixels, a multiple of the model's patch; positions are interpolated to it."""

    def build(self) -> "PretrainedEncoder":
        """Load the weights (float32) and keep the first blocks.

        Raises:
            SetupError: the weights are not there or not complete.
            ConfigError: not a model we know, too many layers, or a size that the patch does not divide.
        """
        where = "vision.path"
        config = load_part(transformers.AutoConfig.from_pretrained, self.path, where)
        family = _FAMILIES.get(config.model_type)
        if family is None:
            known = ", ".join(sorted(_FAMILIES))
            raise ConfigError(where, f"a {config.model_type} model", f"one of {known}", "Choose another encoder.")
        # The class names are strings so that a config can be read without importing every model's code.
        loader = getattr(transformers, family.model).from_pretrained
        model, report = load_part(loader, self.path, where, dtype=torch.float32, output_loading_info=True)
        missing = [name for name in report["missing_keys"] if not name.startswith(family.unused)]
        refuse_missing(missing, self.path, where)
        use_our_attention(model)
        parts = family.take_apart(model)
        self._check(len(parts.blocks), parts.patch.kernel_size[0])
        return PretrainedEncoder(parts, family, self.num_layers, self.image_size)

    def grid(self) -> tuple[int, int]:
        """Return rows and columns of patches from the model's config: no weights are read.

        Raises:
            SetupError: the config is not there.
            ConfigError: a size that the patch does not divide.
        """
        config = load_part(transformers.AutoConfig.from_pretrained, self.path, "vision.path")
        patch_size = getattr(config, "vision_config", config).patch_size
        self._check_size(patch_size)
        return self.image_size // patch_size, self.image_size // patch_size

    def _check(self, depth: int, patch_size: int) -> None:
        if not 1 <= self.num_layers <= depth:
            raise ConfigError(
                "vision.num_layers", str(self.num_layers), f"1..{depth} for {self.path}", "Change num_layers."
            )
        self._check_size(patch_size)

    def _check_size(self, patch_size: int) -> None:
        if self.image_size % patch_size:
            below = max(self.image_size // patch_size, 1) * patch_size
            raise ConfigError(
                "vision.image_size",
                str(self.image_size),
                f"a multiple of the patch, {patch_size} pixels",
                f"Use {below} or {below + patch_size}.",
            )


@dataclass(frozen=True)
class Parts:
    """A ViT in pieces, under one set of names whatever the family calls them."""

    patch: nn.Conv2d
    prefix: Float[Tensor, "x d"]
    """Class and register tokens, their positions added; they come before the patches."""
    positions: Float[Tensor, "p d"]
    """Of the patches alone, for a square grid."""
    first_norm: nn.Module
    blocks: nn.ModuleList
    last_norm: nn.Module


@dataclass(frozen=True)
class Family:
    """How one kind of transformers model is loaded, normalised and taken apart."""

    model: str
    take_apart: Callable[[Any], Parts]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    unused: tuple[str, ...] = ("pooler.", "embeddings.mask_token")
    """Weights a checkpoint may lack, because we leave them out."""


class PretrainedEncoder(PatchEncoder):
    """The first blocks of a pretrained ViT; every piece is a plain parameter of ours, so any of it can be frozen."""

    def __init__(self, parts: Parts, family: Family, num_layers: int, image_size: int) -> None:
        """Keep `num_layers` blocks and interpolate the positions to `image_size`."""
        super().__init__()
        self.patch_size = parts.patch.kernel_size[0]
        side = image_size // self.patch_size
        self.grid, self.image_size, self.width = (side, side), image_size, parts.patch.out_channels
        self.mean, self.std = family.mean, family.std
        self.patch = as_linear(parts.patch)
        self.prefix = nn.Parameter(parts.prefix.detach().clone())
        self.positions = nn.Parameter(interpolate(parts.positions.detach(), self.grid))
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
        hidden = self.first_norm(hidden)
        for block in self.blocks:
            hidden = block(hidden, attention_mask=None)
        return self.norm(hidden[:, extra:])


def as_linear(conv: nn.Conv2d) -> nn.Linear:
    """Turn a patch convolution (stride = kernel) into the linear layer that equals it: one GEMM on every device."""
    linear = nn.Linear(conv.weight[0].numel(), conv.out_channels)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.zero_() if conv.bias is None else linear.bias.copy_(conv.bias)
    return linear


def interpolate(positions: Float[Tensor, "p d"], grid: tuple[int, int]) -> Float[Tensor, "q d"]:
    """Resample the positions of a square grid to another, bicubic without anti-aliasing, as transformers does."""
    side = round(len(positions) ** 0.5)
    assert side * side == len(positions), f"{len(positions)} positions are not a square grid"
    if (side, side) == grid:
        return positions.clone()
    square = positions.float().T.reshape(1, -1, side, side)
    return F.interpolate(square, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T.contiguous()


def _dinov2(model: Any) -> Parts:
    parts = model.embeddings
    prefix = parts.cls_token[0] + parts.position_embeddings[0, :1]
    # Registers carry no position: https://arxiv.org/abs/2309.16588
    if hasattr(parts, "register_tokens"):
        prefix = torch.cat([prefix, parts.register_tokens[0]])
    blocks = getattr(model, "encoder", None)
    return Parts(
        patch=parts.patch_embeddings.projection,
        prefix=prefix,
        positions=parts.position_embeddings[0, 1:],
        first_norm=nn.Identity(),
        blocks=model.layers if blocks is None else blocks.layer,
        last_norm=model.layernorm,
    )


def _clip(model: Any) -> Parts:
    parts = model.embeddings
    positions = parts.position_embedding.weight
    # CLIP has a class token and a norm before its blocks, SigLIP neither.
    num_prefix = 1 if hasattr(parts, "class_embedding") else 0
    return Parts(
        patch=parts.patch_embedding,
        prefix=parts.class_embedding[None] + positions[:1] if num_prefix else positions[:0],
        positions=positions[num_prefix:],
        first_norm=getattr(model, "pre_layrnorm", nn.Identity()),
        blocks=model.encoder.layers,
        last_norm=model.post_layernorm,
    )


_HALF = (0.5, 0.5, 0.5)
_CLIP = Family(
    "CLIPVisionModel",
    _clip,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
_SIGLIP = Family("SiglipVisionModel", _clip, mean=_HALF, std=_HALF, unused=("head.",))
_FAMILIES = {
    "dinov2": Family("Dinov2Model", _dinov2),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _dinov2),
    "vit": Family("ViTModel", _dinov2, mean=_HALF, std=_HALF),
    "vit_mae": Family("ViTMAEModel", _dinov2),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}
