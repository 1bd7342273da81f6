"""The one contract for learning: a module that turns a batch into named, weighted losses with counts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from trivium.core.batch import Batch

NEXT_TOKEN = ("text", "image", "next_image", "action_token")
"""Losses that are cross entropies of a next token: summed in nats, reported in bits."""


@dataclass(frozen=True, eq=False)
class Loss:
    """A sum over elements and how many there were; `sum / count` is what a person reads.

    Losses of one `group` share a denominator, the *weighted* count over all micro-batches and ranks:
    L = sum_groups [ sum_{i in g} w_i sum_i / sum_{i in g} w_i count_i ]. Next-token losses of all modalities are
    one group (Emu3.5 weighs vision tokens 0.5 against text 1.0); a head with its own kind of error is a group
    of its own, and `scale` is its weight against the other groups.
    """

    sum: Float[Tensor, ""]
    count: float
    weight: float = 1.0
    group: str = "tokens"
    scale: float = 1.0


class Losses(dict[str, Loss]):
    """Losses by name, such as "text", "action_token", "flow"."""

    def counts(self) -> dict[str, float]:
        """Weighted counts by group: what must be summed over micro-batches and ranks before `total`."""
        counts: dict[str, float] = {}
        for loss in self.values():
            counts[loss.group] = counts.get(loss.group, 0.0) + loss.weight * loss.count
        return counts

    def total(self, counts: Mapping[str, float]) -> Float[Tensor, ""]:
        """Sum into the scalar to differentiate, normalised by the GLOBAL weighted counts.

        Micro-batches and ranks then add up to exactly the gradient of one big batch; a mean of means does not.
        """
        terms = [loss.scale * loss.weight * loss.sum / max(counts[loss.group], 1e-12) for loss in self.values()]
        if not terms:
            raise AssertionError("an objective returned no losses at all")
        return sum(terms[1:], terms[0])


class Objective(nn.Module, ABC):
    """What a stage learns. All methods of the house (contrastive, MAE, next-token, flow, VLA) are Objectives.

    The shared parts of the model hang under the fixed names `vision`, `connect`, `language`, `action`, whatever
    the objective; weights pass from stage to stage because the *same modules* are handed in.
    """

    def begin_step(self, share: float) -> None:
        """Hear which share of the stage's steps is done, before each of them; what follows a schedule listens.

        It follows from the step alone, so that a resumed stage goes on as if nothing had been.
        """

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return `Losses.counts()` of this batch without running the model (known from targets and masks)."""

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Compute the losses of one micro-batch."""

    @abstractmethod
    def fake_batch(self) -> Batch:
        """Make a small valid batch on the CPU: tests, dry runs and memory estimates use it."""
