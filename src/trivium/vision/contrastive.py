"""Pictures and their captions find each other among the others of the batch: CLIP and SigLIP."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trivium.train import parallel
from trivium.vision.gather import gather

MAX_SCALE = 100.0
"""Upper bound of CLIP's learned 1 / temperature; beyond it training becomes unstable (the paper's own bound)."""


@dataclass(frozen=True, eq=False)
class Others:
    """The vectors of all ranks; this rank's own begin at row `start`."""

    images: Float[Tensor, "m d"]
    texts: Float[Tensor, "m d"]
    start: int = 0


class ContrastiveHead(nn.Module):
    """Two projections and a learned temperature; SigLIP has a learned bias too.

    Papers: https://arxiv.org/abs/2103.00020 (CLIP), https://arxiv.org/abs/2303.15343 (SigLIP). Negatives come from
    one micro-batch of all ranks; more accumulation does not make the task harder, more rows do.
    """

    def __init__(self, image_width: int, text_width: int, width: int, loss: Literal["clip", "siglip"] = "clip") -> None:
        """Build; both sides are projected to `width`."""
        super().__init__()
        self.image = nn.Linear(image_width, width, bias=False)
        self.text = nn.Linear(text_width, width, bias=False)
        start = math.log(1 / 0.07) if loss == "clip" else math.log(10.0)
        self.log_scale = nn.Parameter(torch.tensor(start))
        # Nearly all pairs are negatives: without the bias the loss would start near ln 2 times their number.
        self.bias = nn.Parameter(torch.tensor(-10.0)) if loss == "siglip" else None

    def forward(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "n e"], captions: Int[Tensor, "n t"]
    ) -> Float[Tensor, " n"]:
        """Return the loss of each pair (row i of both is a pair) among the pairs of all ranks.

        Args:
            images: one vector a picture.
            texts: one vector a caption.
            captions: token ids, -1 behind their ends; equal captions are no negatives of one another.
        """
        if self.training and self.bias is None:
            # The bound is on the parameter, as in the paper: clamping inside the formula would stop its gradient
            # for good. Before the forward pass is after the last step.
            self.log_scale.data.clamp_(max=math.log(MAX_SCALE))
        x = F.normalize(self.image(images).float(), dim=-1)
        y = F.normalize(self.text(texts).float(), dim=-1)
        words, start = gather(captions, filler=-1)
        _, group = words.unique(dim=0, return_inverse=True)
        same = group[start : start + len(x), None] == group
        others = None
        if parallel.world_size() > 1:
            # One exchange for both sides: ranks that ran two backwards in different orders would wait for each other.
            both, _ = gather(torch.cat([x, y], dim=1))
            images_of_all, texts_of_all = both.chunk(2, dim=1)
            others = Others(images_of_all, texts_of_all, start)
        scale = self.log_scale.float().exp()
        if self.bias is None:
            return clip_losses(x, y, scale, same, others)
        return siglip_losses(x, y, scale, self.bias.float(), same, others)


def clip_losses(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "n m"] | None = None,
    others: Others | None = None,
) -> Float[Tensor, " n"]:
    """Return half the sum of both cross-entropies for each pair of unit vectors; their mean is CLIP's loss.

    Where we differ: `same` marks pairs of captions that are word for word equal. They are no negatives of one
    another, or a simulator's few captions would teach that a picture does not match its own caption.
    """
    everyone = others or Others(images, texts)
    labels = _labels(images, everyone)
    equal = None if same is None else _without(labels, same)
    by_image = scale * images @ everyone.texts.T
    by_image = by_image if equal is None else by_image.masked_fill(equal, -torch.inf)
    if others is None:
        by_text = by_image.T
    else:
        by_text = scale * texts @ everyone.images.T
        by_text = by_text if equal is None else by_text.masked_fill(equal, -torch.inf)
    return (
        F.cross_entropy(by_image, labels, reduction="none") + F.cross_entropy(by_text, labels, reduction="none")
    ) / 2


def siglip_losses(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    same: Bool[Tensor, "n m"] | None = None,
    others: Others | None = None,
) -> Float[Tensor, " n"]:
    """Return, for each picture, the SUM over all captions of -log sigmoid(+-logit); their mean is SigLIP's loss.

    The sum is divided by the pictures and not by the pairs, as in the paper. Where we differ: pairs that `same` marks
    (equal captions) are left out of the sum.
    """
    others = others or Others(images, texts)
    labels = _labels(images, others)
    logits = scale * images @ others.texts.T + bias
    sign = torch.full_like(logits, -1.0).scatter(1, labels[:, None], 1.0)
    losses = -F.logsigmoid(sign * logits)
    if same is not None:
        losses = losses.masked_fill(_without(labels, same), 0.0)
    return losses.sum(1)


def _labels(mine: Float[Tensor, "n d"], others: Others) -> Int[Tensor, " n"]:
    return torch.arange(others.start, others.start + len(mine), device=mine.device)


def _without(labels: Int[Tensor, " n"], same: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
    """Mark equal captions but for a picture's own."""
    return same.scatter(1, labels[:, None], False)
