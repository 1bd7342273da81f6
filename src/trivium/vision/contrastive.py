"""CLIP: pictures and their captions find each other among the others of the batch."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

MAX_SCALE = 100.0
"""Upper bound of the learned 1 / temperature; beyond it training becomes unstable (the paper's own bound)."""


class ContrastiveHead(nn.Module):
    """Two projections and a learned temperature. Paper: https://arxiv.org/abs/2103.00020.

    Negatives come from one micro-batch on one rank; more accumulation does not make the task harder, more rows do.
    """

    def __init__(self, image_width: int, text_width: int, width: int) -> None:
        """Build; both sides are projected to `width`."""
        super().__init__()
        self.image = nn.Linear(image_width, width, bias=False)
        self.text = nn.Linear(text_width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "n e"], same: Bool[Tensor, "n n"]
    ) -> Float[Tensor, " n"]:
        """Return the loss of each pair (row i of both is a pair); see `clip_losses` for `same`."""
        if self.training:
            # The bound is on the parameter, as in the paper: clamping inside the formula would stop its gradient
            # for good. Before the forward pass is after the last step.
            self.log_scale.data.clamp_(max=math.log(MAX_SCALE))
        x = F.normalize(self.image(images).float(), dim=-1)
        y = F.normalize(self.text(texts).float(), dim=-1)
        return clip_losses(x, y, self.log_scale.float().exp(), same)


def clip_losses(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "n n"] | None = None,
) -> Float[Tensor, " n"]:
    """Return half the sum of both cross-entropies for each pair of unit vectors; their mean is CLIP's loss.

    Where we differ: `same` marks pairs of captions that are word for word equal. They are no negatives of one
    another, or a simulator's few captions would teach that a picture does not match its own caption.
    """
    logits = scale * images @ texts.T
    if same is not None:
        diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~diagonal, -torch.inf)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels, reduction="none") + F.cross_entropy(logits.T, labels, reduction="none")) / 2
