"""A pretrained encoder as a folder that transformers loads, where its family can be put together again."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from trivium.nn.hub import quiet
from trivium.vision.encoder import Encoder
from trivium.vision.family import FAMILIES, Family
from trivium.vision.pretrained import PretrainedVisionConfig

APART = {"resnet": "its blocks keep running statistics", "vit_mae": "transformers hides patches at random in it"}
APART["siglip2"] = APART["siglip2_vision_model"] = "it embeds patches that were cut outside"
"""Families whose weights stay in our own file, and why."""


def write_vision(encoder: Encoder, config: PretrainedVisionConfig, folder: Path) -> str:
    """Write the encoder's config and, where possible, its weights, for pictures of the size it was taught.

    The config alone is what `PretrainedVisionConfig.skeleton` builds from; the weights are for transformers.

    Returns:
        Why no weights were written; "" where they were.
    """
    settings = config.read()
    family = FAMILIES[settings.model_type]
    if family.take_apart is not None:
        settings = _as_taught(settings, encoder)
    model = getattr(transformers, family.model)(settings)
    why = APART.get(settings.model_type) or _put_together(encoder, model, family)
    if why:
        settings.save_pretrained(folder)
        return why
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(("pooler.", "head."))}
    with quiet():
        model.save_pretrained(folder, state_dict=kept)
    return ""


def _as_taught(settings: Any, encoder: Encoder) -> Any:
    """Return a config of transformers with the depth and the size of pictures of an encoder."""
    sizes = {"image_size": encoder.image_size, "num_patches": encoder.num_patches}
    changes: dict[str, Any] = {"num_hidden_layers": len(encoder.blocks)}
    for name, size in sizes.items():
        if hasattr(settings, name):
            changes[name] = [size, size] if isinstance(getattr(settings, name), list | tuple) else size
    if settings.model_type.startswith("siglip"):
        changes["vision_use_head"] = False
    # Names of stages follow from the depth.
    kept = {k: v for k, v in settings.to_dict().items() if k not in ("out_features", "out_indices", "stage_names")}
    return type(settings)(**kept | changes)


@torch.no_grad()
def _put_together(encoder: Any, model: Any, family: Family) -> str:
    """Copy an encoder's weights into a model of transformers, undoing `family.take_apart`; say why where one cannot."""
    assert family.take_apart is not None, "a convolutional network"
    model.to(encoder.patch.weight.dtype)
    parts, places = family.take_apart(model), model.embeddings
    if parts.patch.bias is None and bool(encoder.patch.bias.any()):
        return "its patches learned a bias, for which the family has no place"
    parts.patch.weight.copy_(encoder.patch.weight.view_as(parts.patch.weight))
    if parts.patch.bias is not None:
        parts.patch.bias.copy_(encoder.patch.bias)
    parts.blocks.load_state_dict(encoder.blocks.state_dict())
    parts.last_norm.load_state_dict(encoder.norm.state_dict())
    if hasattr(encoder, "first_norm"):
        parts.first_norm.load_state_dict(encoder.first_norm.state_dict())
    prefix: Tensor = encoder.prefix
    for name in ("cls_token", "class_embedding"):
        if hasattr(places, name):
            getattr(places, name).copy_(prefix[:1].view_as(getattr(places, name)))
    if hasattr(places, "register_tokens"):
        places.register_tokens.copy_(prefix[1:].view_as(places.register_tokens))
    for name in ("position_embeddings", "position_embedding"):
        if (held := getattr(places, name, None)) is not None:
            table = held if isinstance(held, Tensor) else held.weight
            # What stands before the patches has its position in it already.
            before = table.new_zeros(table.view(-1, table.shape[-1]).shape[0] - len(encoder.positions), table.shape[-1])
            table.copy_(torch.cat([before, encoder.positions]).view_as(table))
    return ""
