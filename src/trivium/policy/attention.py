"""Who may look at whom in a row, as sentences and as numbers of blocks."""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from trivium.core.batch import Batch
from trivium.policy.visible import Visible, prompt

Rule = Literal["causal", "prefix"]

SENTENCES: dict[Rule, str] = {
    "causal": "A token looks at itself and at what stands before it in its own sample.",
    "prefix": "What a sample gives (pictures, instruction, state) looks at all that it gives, both ways; "
    "what it asks for (answers, action tokens) looks at what is given and at what stands before it.",
}
"""What the trunk does, by rule."""

ALWAYS = (
    "No token looks into another sample of its row.",
    "Nobody looks at what modality dropout took away, and the rest closes ranks, so that no place tells of it.",
    "The action head looks at what the sample gives: never at answers, never at action tokens.",
)
"""What holds under every rule."""


def number_blocks(batch: Batch, visible: Visible, rule: Rule) -> Int[Tensor, "b t"] | None:
    """Return a number for every token: it sees its own sample's tokens of no higher number; None goes by place.

    Under "prefix" the prompt is one block, as in PaliGemma and pi0 (https://arxiv.org/abs/2410.24164); the token that
    predicts the first learned one stands outside, so that the prompt is the same when a policy runs.
    """
    if rule == "causal":
        return None
    return torch.where(prompt(batch), 0, visible.positions + 1)
