"""Packed tensors with declared shapes: what a loader makes and an objective eats."""

from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

IGNORE = -100
"""Target of a token on which no loss is taken (torch's own `ignore_index`)."""


class Kind(IntEnum):
    """Modality of one token in a row."""

    PAD = 0
    TEXT = 1
    IMAGE = 2
    STATE = 3
    ACTION = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """One micro-batch; every field is optional by kind, and a missing field is None.

    Rows are packs: several samples side by side. A sample is one *document*: `documents` numbers the samples of
    the whole batch from 0 (padding is -1), `positions` restart at 0 in each. `*_document` says to which sample
    an image, a state or an action chunk belongs. Image and state tokens are placeholders in `tokens` (id 0):
    the j-th IMAGE token of a document, over its images in order, takes the j-th connector output.
    """

    tokens: Int[Tensor, "b t"] | None = None
    kinds: Int[Tensor, "b t"] | None = None
    documents: Int[Tensor, "b t"] | None = None
    positions: Int[Tensor, "b t"] | None = None
    targets: Int[Tensor, "b t"] | None = None
    """The NEXT token, already shifted; IGNORE where there is none."""
    images: UInt8[Tensor, "n 3 h w"] | None = None
    images_document: Int[Tensor, " n"] | None = None
    states: Float[Tensor, "m s"] | None = None
    states_document: Int[Tensor, " m"] | None = None
    actions: Float[Tensor, "m k a"] | None = None
    """Normalised actions."""
    actions_valid: Bool[Tensor, "m k"] | None = None
    actions_document: Int[Tensor, " m"] | None = None
    dims: Int[Tensor, "o a"] | None = None
    """What each dimension of an action is for every document's robot (core/sample.py), known without an action too."""
    ids: tuple[str, ...] = ()
    """Sample ids by document number: what a report names when a batch went wrong."""
    token_counts: dict[str, int] = field(default_factory=dict)
    """Tokens by "bucket/modality", padding apart: the realised side of the token budget."""

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding (0 for a batch without rows)."""
        return sum(self.token_counts.values())
