"""Which tokens of a batch the model may see: all of them, or what modality dropout leaves."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trivium.action.model import given
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError

DROPPED = -1
"""Document of a token that nothing may see: that of padding."""


@dataclass(frozen=True, eq=False)
class Visible:
    """What attention is told about a batch in place of its own `documents` and `positions`."""

    documents: Int[Tensor, "b t"]
    """-1 for padding and for what was dropped."""
    positions: Int[Tensor, "b t"]
    """Counted without the dropped tokens, so that the place of the rest gives nothing away."""
    image: Bool[Tensor, " documents"]
    """Whether a document's pictures may be seen."""
    state: Bool[Tensor, " documents"]
    """Whether a document's state may be seen."""


class ModalityDropoutConfig(Config):
    """Chances with which a robot sample loses a modality in training, each by itself.

    A sample that would lose everything it has keeps everything, so the realised rate of a modality is its chance
    minus the product of the chances of all that the sample has.
    """

    image: float = 0.0
    """Chance to lose all pictures. 0-0.2; more and the policy ignores its eyes."""
    state: float = 0.0
    """Chance to lose the state. 0.1-0.3 against policies that copy the state (GR00T takes 0.2)."""
    text: float = 0.0
    """Chance to lose the instruction. 0-0.2; gives an unconditional policy for guidance."""

    def check(self, where: str) -> None:
        """Refuse chances outside 0..1 (1 excluded: a modality that is always gone should not be in the data).

        Raises:
            ConfigError: a chance is not in 0 <= p < 1.
        """
        for name in ("image", "state", "text"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{where}.{name}", str(getattr(self, name)), "a chance, 0 <= p < 1", "Change it, or drop the data."
                )


def everything(batch: Batch) -> Visible:
    """Return the view of a batch in which nothing is dropped."""
    documents, positions = given(batch.documents, "documents"), given(batch.positions, "positions")
    seen = torch.ones(len(batch.ids), dtype=torch.bool, device=documents.device)
    return Visible(documents, positions, seen, seen)


def drop_modalities(batch: Batch, config: ModalityDropoutConfig) -> Visible:
    """Draw what every robot sample loses; captions, questions and documents lose nothing.

    Dropped tokens join the padding: attention, positions and the action head's context leave them out, so their
    content has no influence at all, not even in the last bit.
    """
    whole = everything(batch)
    if batch.actions_document is None or not (config.image or config.state or config.text):
        return whole
    documents, kinds, asked = whole.documents, given(batch.kinds, "kinds"), prompt(batch)
    robot = torch.zeros_like(whole.image).index_fill(0, batch.actions_document, True)
    lost: dict[Kind, Tensor] = {}
    remains = torch.zeros_like(robot)
    for kind in (Kind.IMAGE, Kind.STATE, Kind.TEXT):
        has = robot & _documents_with(batch, asked & (kinds == kind))
        chance: float = getattr(config, kind.name.lower())
        drawn = torch.rand(len(has), device=has.device) < chance
        lost[kind] = has & drawn
        remains |= has & ~drawn
    gone = torch.zeros_like(documents, dtype=torch.bool)
    for kind in lost:
        lost[kind] &= remains
        gone |= asked & (kinds == kind) & lost[kind][documents.clamp(min=0)]
    kept = documents.masked_fill(gone, DROPPED)
    return Visible(kept, ranks(kept, len(batch.ids)), ~lost[Kind.IMAGE], ~lost[Kind.STATE])


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
