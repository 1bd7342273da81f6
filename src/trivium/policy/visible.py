"""Which tokens of a batch the model may see: all of them, or what is left when a modality or a camera is taken away."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from trivium.action.model import given
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError

DROPPED = -1
"""Document of a token that nothing may see: that of padding."""
DARK = 8
"""A picture whose brightest number is not above this (of 255) comes from a dead camera: no lit scene is so dark, and
a black frame that went through a video or JPEG comes back within it."""


@dataclass(frozen=True, eq=False)
class Visible:
    """What attention is told about a batch in place of its own `documents` and `positions`."""

    documents: Int[Tensor, "b t"]
    """-1 for padding and for what was dropped."""
    positions: Int[Tensor, "b t"]
    """Counted without the dropped tokens, so that the place of the rest gives nothing away."""
    images: Bool[Tensor, " n"]
    """Whether each picture may be seen."""
    state: Bool[Tensor, " documents"]
    """Whether a document's state may be seen."""


@dataclass(frozen=True, eq=False)
class Lost:
    """What is taken away: single pictures, and the state or the read words of whole documents."""

    images: Bool[Tensor, " n"]
    state: Bool[Tensor, " documents"]
    text: Bool[Tensor, " documents"]


class ModalityDropoutConfig(Config):
    """Chances with which a robot sample loses a modality or a camera in training, each by itself.

    A sample that would lose everything it has keeps everything, so the realised rate of a modality is its chance
    minus the product of the chances of all that the sample has. Cameras likewise: where all of them would fail by
    `view`, none does, so of n cameras each fails with p - p^n; pictures are lost all together by `image` alone.
    """

    image: float = 0.0
    """Chance to lose all pictures. 0-0.2; more and the policy ignores its eyes."""
    view: float = 0.0
    """Chance to lose each single picture of several, so that the policy learns to act when one camera fails. 0.1-0.3;
    more and it stops joining what its cameras see. Samples with one picture are spared."""
    state: float = 0.0
    """Chance to lose the state. 0.1-0.3 against policies that copy the state (GR00T takes 0.2)."""
    text: float = 0.0
    """Chance to lose the instruction. 0-0.2; gives an unconditional policy for guidance."""
    ramp: float = Field(default=0.0, ge=0, le=1)
    """Share of the stage over which all chances rise in a straight line from 0 to their full height; 0 begins with it.
    0.1-0.5 where fresh weights must first learn what the parts are good for."""

    def check(self, where: str) -> None:
        """Refuse chances outside 0..1 (1 excluded: a modality that is always gone should not be in the data).

        Raises:
            ConfigError: a chance is not in 0 <= p < 1, or a ramp of nothing.
        """
        names = ("image", "view", "state", "text")
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{where}.{name}", str(getattr(self, name)), "a chance, 0 <= p < 1", "Change it, or drop the data."
                )
        if self.ramp and not any(getattr(self, name) for name in names):
            raise ConfigError(f"{where}.ramp", f"{self.ramp} with all chances 0", "a chance that rises", "Give one.")

    def strength(self, share: float) -> float:
        """Return what the chances are multiplied with when this share of the stage is done."""
        return min(1.0, share / self.ramp) if self.ramp else 1.0


def everything(batch: Batch) -> Visible:
    """Return the view of a batch in which nothing is taken away."""
    documents, positions = given(batch.documents, "documents"), given(batch.positions, "positions")
    lost = nothing(batch)
    return Visible(documents, positions, ~lost.images, ~lost.state)


def nothing(batch: Batch) -> Lost:
    """Return what is lost when nothing is: where a selection begins."""
    device = given(batch.documents, "documents").device
    pictures = 0 if batch.images_document is None else len(batch.images_document)
    documents = torch.zeros(len(batch.ids), dtype=torch.bool, device=device)
    return Lost(torch.zeros(pictures, dtype=torch.bool, device=device), documents, documents)


def leave_out(batch: Batch, lost: Lost) -> Visible:
    """Take parts of the prompts away.

    Their tokens join the padding: attention, positions and the action head's context leave them out, so their
    content has no influence at all, not even in the last bit. What carries a loss is never taken.
    """
    documents, kinds, asked = given(batch.documents, "documents"), given(batch.kinds, "kinds"), prompt(batch)
    owners = documents.clamp(min=0)
    gone = (kinds == Kind.STATE) & lost.state[owners] | (kinds == Kind.TEXT) & lost.text[owners]
    if len(lost.images):
        holes = kinds == Kind.IMAGE
        # Every picture has as many tokens, and both stand in the order of their documents.
        per_picture = holes.sum().div(len(lost.images), rounding_mode="floor").clamp(min=1)
        number = (holes.flatten().cumsum(0) - 1).div(per_picture, rounding_mode="floor").view_as(documents)
        gone = gone | holes & lost.images[number.clamp(0, len(lost.images) - 1)]
    kept = documents.masked_fill(gone & asked, DROPPED)
    return Visible(kept, ranks(kept, len(batch.ids)), ~lost.images, ~lost.state)


def drop_modalities(batch: Batch, config: ModalityDropoutConfig, share: float = 1.0) -> Visible:
    """Draw what every robot sample loses when `share` of the stage is done; other samples lose nothing."""
    strength = config.strength(share)
    if batch.actions_document is None or not strength * (config.image + config.view + config.state + config.text):
        return everything(batch)
    kinds, asked, none = given(batch.kinds, "kinds"), prompt(batch), nothing(batch)
    robot = none.state.index_fill(0, batch.actions_document, True)
    lost: dict[Kind, Tensor] = {}
    remains = torch.zeros_like(robot)
    for kind in (Kind.IMAGE, Kind.STATE, Kind.TEXT):
        has = robot & _documents_with(batch, asked & (kinds == kind))
        chance: float = getattr(config, kind.name.lower())
        drawn = torch.rand(len(has), device=has.device) < strength * chance
        lost[kind] = has & drawn
        remains |= has & ~drawn
    images = none.images
    if batch.images_document is not None:
        images = (lost[Kind.IMAGE] & remains)[batch.images_document]
        if config.view:
            images = images | _failing(batch.images_document, robot, strength * config.view)
    return leave_out(batch, Lost(images, lost[Kind.STATE] & remains, lost[Kind.TEXT] & remains))


def without_dark(batch: Batch) -> Visible:
    """Leave the pictures of dead cameras out of observations: a camera that fails sends black frames, not none.

    So a policy that was trained to miss a camera meets at work what it met in training. An observation of which
    nothing else is left keeps its dark pictures.
    """
    if batch.images is None or batch.images_document is None:
        return everything(batch)
    none, kinds = nothing(batch), given(batch.kinds, "kinds")
    dark = batch.images.flatten(1).amax(1) <= DARK
    remains = _documents_with(batch, prompt(batch) & (kinds != Kind.IMAGE))
    remains = remains.index_fill(0, batch.images_document[~dark], True)
    return leave_out(batch, Lost(dark & remains[batch.images_document], none.state, none.text))


def prompt(batch: Batch) -> Bool[Tensor, "b t"]:
    """Mark what a document gives before it asks for anything: the tokens before the first that predicts a learned one.

    That is all there is when the policy runs, so it is all that the action head and the probes may see: an answer or
    an action token that training feeds back in would be a leak.
    """
    documents, positions = given(batch.documents, "documents"), given(batch.positions, "positions")
    asks = (given(batch.targets, "targets") != IGNORE) & (documents >= 0)
    first = torch.full((len(batch.ids),), documents.shape[1], dtype=torch.long, device=documents.device)
    first = first.scatter_reduce(0, documents[asks], positions[asks], "amin")
    return (documents >= 0) & (positions < first[documents.clamp(min=0)])


def ranks(documents: Int[Tensor, "*shape"], num_documents: int) -> Int[Tensor, "*shape"]:
    """Number the tokens of every document from 0, in order; a token of no document (-1) gets 0.

    Documents do not interleave, but may have gaps of -1.
    """
    flat = documents.flatten()
    inside = flat >= 0
    count = inside.cumsum(0) - 1
    slot = torch.where(inside, flat, num_documents)
    first = torch.full((num_documents + 1,), len(flat), dtype=count.dtype, device=flat.device)
    first = first.scatter_reduce(0, slot, count, "amin")
    return torch.where(inside, count - first[slot], 0).view_as(documents)


def _documents_with(batch: Batch, tokens: Bool[Tensor, "b t"]) -> Bool[Tensor, " documents"]:
    documents = given(batch.documents, "documents")
    found = torch.zeros(len(batch.ids), dtype=torch.bool, device=tokens.device)
    return found.index_fill(0, documents[tokens & (documents >= 0)], True)


def _failing(owners: Int[Tensor, " n"], robot: Bool[Tensor, " documents"], chance: float) -> Bool[Tensor, " n"]:
    """Draw which single pictures fail; a sample whose every picture would fail keeps them all."""
    drawn = torch.rand(len(owners), device=owners.device) < chance
    left = torch.zeros_like(robot).index_fill(0, owners[~drawn], True)
    return drawn & (robot & left)[owners]
