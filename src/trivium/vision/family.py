"""The kinds of transformers model that we know, and how each is taken apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trivium.vision.encoder import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Parts:
    """A ViT in pieces, under one set of names whatever the family calls them."""

    patch: nn.Conv2d
    prefix: Float[Tensor, "x d"]
    """Class and register tokens, their positions added; they come before the patches."""
    positions: Float[Tensor, "p d"] | None
    """Of the patches alone, for a square grid; None where the layers turn queries and keys instead."""
    first_norm: nn.Module
    blocks: nn.ModuleList
    last_norm: nn.Module
    turn: nn.Module | None = None
    """What makes (cosine, sine) of a picture's patches for the layers (rotary positions)."""


@dataclass(frozen=True)
class Family:
    """How one kind of transformers model is loaded, normalised and taken apart."""

    model: str
    take_apart: Callable[[Any], Parts] | None
    """None for a convolutional network."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    unused: tuple[str, ...] = ("pooler.", "embeddings.mask_token")
    """Weights a checkpoint may lack, because we leave them out."""
    resample: Mapping[str, Any] = field(default_factory=lambda: {"mode": "bicubic"})
    """How positions are interpolated to another grid."""
    options: Mapping[str, Any] = field(default_factory=lambda: {"attention_mask": None})
    """What a block is called with besides the tokens."""
    inside: str = ""
    """Where the encoder's weights stand in the files of the whole model that it is a part of, as a pattern."""


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


def _dinov3(model: Any) -> Parts:
    parts = model.embeddings
    return Parts(
        patch=parts.patch_embeddings,
        prefix=torch.cat([parts.cls_token[0], parts.register_tokens[0]]),
        positions=None,
        first_norm=nn.Identity(),
        blocks=model.model.layer,
        last_norm=model.norm,
        turn=model.rope_embeddings,
    )


def _siglip2(model: Any) -> Parts:
    parts = model.embeddings
    # It embeds patches that were cut outside, as (row, column, channel): a convolution has the channel first.
    weight = parts.patch_embedding.weight.unflatten(1, (parts.patch_size, parts.patch_size, -1)).permute(0, 3, 1, 2)
    patch = nn.Conv2d(weight.shape[1], weight.shape[0], parts.patch_size, parts.patch_size)
    patch.weight, patch.bias = nn.Parameter(weight.detach().contiguous()), parts.patch_embedding.bias
    positions = parts.position_embedding.weight
    return Parts(patch, positions[:0], positions, nn.Identity(), model.encoder.layers, model.post_layernorm)


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
_SIGLIP2 = Family(
    "Siglip2VisionModel",
    _siglip2,
    mean=_HALF,
    std=_HALF,
    unused=("head.",),
    resample={"mode": "bilinear", "antialias": True},
)
_INTERNVL = Family("InternVLVisionModel", _dinov2, options={}, inside=r"^(model\.)?vision_tower\.")
FAMILIES = {
    "dinov2": Family("Dinov2Model", _dinov2),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _dinov2),
    "vit": Family("ViTModel", _dinov2, mean=_HALF, std=_HALF),
    "vit_mae": Family("ViTMAEModel", _dinov2),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov3_vit": Family("DINOv3ViTModel", _dinov3),
    "internvl": _INTERNVL,
    "internvl_vision": _INTERNVL,
    "resnet": Family("ResNetModel", None),
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "siglip_vision_model": _SIGLIP,
}
