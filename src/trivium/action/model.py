"""What every action head offers: an error to learn from, and chunks to execute."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trivium.core.batch import Batch
from trivium.core.errors import ConfigError
from trivium.core.objective import Loss, Losses
from trivium.core.sample import ABSENT, CIRCLE


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """What an action head may look at, one row a sample; a motion prior has no `tokens`, only the state.

    Where `state_known` is False the numbers in `state` are never read: a state that modality dropout took away, or
    that the sample never had, has no influence at all.
    """

    state: Float[Tensor, "m s"]
    """Normalised state."""
    state_known: Bool[Tensor, " m"]
    tokens: Float[Tensor, "m x d"] | None = None
    mask: Bool[Tensor, "m x"] | None = None
    """True where a token may be seen; given exactly when `tokens` is."""
    dims: Int[Tensor, "m a"] | None = None
    """What each dimension of the action is for the robot of each sample: `ABSENT`, `LINE` or `CIRCLE` of
    core/sample.py; None where all are there and none is an angle."""

    def __post_init__(self) -> None:
        assert (self.tokens is None) == (self.mask is None), "context tokens and their mask come together"


@dataclass(frozen=True, eq=False)
class Drawn:
    """Chunks that a head drew, and how likely each was."""

    actions: Float[Tensor, "m k a"]
    """Normalised."""
    log_prob: Float[Tensor, " m"]
    """Nats, of the whole chunk: the density over its k * a normalised numbers (Lebesgue measure)."""
    noise: Float[Tensor, "m k a"]
    """What they were made from; hand it to `log_prob` with the chunks and it need not search."""


class ActionModel(nn.Module, ABC):
    """A head that learns chunks of normalised actions of one shape."""

    error_name: ClassVar[str]
    """What reports call the head's error: the name of its loss and of the loss's group."""

    def __init__(self, horizon: int, action_dim: int, state_dim: int) -> None:
        """Say of what shape chunks and states are."""
        super().__init__()
        self.horizon, self.action_dim, self.state_dim = horizon, action_dim, state_dim

    @abstractmethod
    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the error of every element in float32, not reduced; steps that are not valid give exactly 0."""

    @abstractmethod
    def sample(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Float[Tensor, "m k a"]:
        """Draw one chunk a sample, in float32; a head that knows only one answer gives that.

        `temperature` says how much it explores: the spread of the starting noise over that of training for heads that
        take noise away, the standard deviation around the answer for those that know one; None leaves it to the head.
        """

    def draw(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Drawn:
        """Draw chunks as `sample` does, with their log-probabilities; no gradient.

        Raises:
            ConfigError: this head has no density, or draws nothing at this temperature.
        """
        raise self._no_density()

    def log_prob(
        self,
        actions: Float[Tensor, "m k a"],
        context: Context,
        temperature: float | None = None,
        noise: Float[Tensor, "m k a"] | None = None,
    ) -> Float[Tensor, " m"]:
        """Return the log-probability of given normalised chunks (`Drawn.log_prob`), with gradient.

        `noise` is what they were drawn from, where that is known: a head that runs backwards begins its search there.

        Raises:
            ConfigError: this head has no density, or draws nothing at this temperature.
            TrainingError: a chunk that the head cannot make.
        """
        raise self._no_density()

    def _no_density(self) -> ConfigError:
        return ConfigError(
            f"log-probabilities of the {self.error_name} head",
            "a sampler that clips and so has no density",
            "a head with one: flow (exact), regress or cvae (normal around the answer)",
            "Train one of those for policy gradients, or learn from weighted losses of this one.",
        )

    def clean(self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"]) -> Float[Tensor, "m k a"]:
        """Return the chunks in float32 with zeros where they are not valid, whatever stands there.

        Raises:
            ConfigError: they have another horizon or dimension than the head.
        """
        if tuple(actions.shape[1:]) != (self.horizon, self.action_dim):
            raise ConfigError(
                "action.horizon",
                f"chunks of {actions.shape[1]} steps x {actions.shape[2]} dimensions",
                f"{self.horizon} x {self.action_dim}",
                "Give the data source and action.horizon the same number, and build for the source's action dimension.",
            )
        return torch.where(valid[..., None], actions.float(), 0.0)

    def parts(self) -> Mapping[str, "ActionModel"]:
        """Return the heads that learn here, by the name of their error: this one, or several in one."""
        return {self.error_name: self}


TURN = 2.0
"""A full turn of a normalised angle: `Normalize` makes pi 1."""


def kept(x: Float[Tensor, "q k a"], context: Context) -> Float[Tensor, "q k a"]:
    """Return `x` with exact zeros in the dimensions that a sample's robot lacks; its draws lie side by side."""
    if context.dims is None:
        return x
    there = (context.dims != ABSENT).repeat_interleave(len(x) // len(context.dims), 0)
    return torch.where(there[:, None], x, 0.0)


def shorter(
    difference: Float[Tensor, "q k a"], context: Context, share: Tensor | float = 1.0
) -> Float[Tensor, "q k a"]:
    """Return a difference by the shorter way round where a dimension is an angle.

    `share` times the difference is how far two actions lie apart: 1 for a head that answers with actions, t for a
    velocity at flow time t, the ratio of noise to signal for predicted noise. A whole turn more or less is no error.
    """
    if context.dims is None:
        return difference
    round_about = (context.dims == CIRCLE).repeat_interleave(len(difference) // len(context.dims), 0)
    apart = difference * share
    return torch.where(round_about[:, None], (apart - TURN * (apart / TURN).round()) / share, difference)


def num_elements(valid: Bool[Tensor, "m k"], action_dim: int, dims: Int[Tensor, "m a"] | None) -> float:
    """Count the numbers that count: real steps, in dimensions that the robot has."""
    if dims is None:
        return float(valid.sum()) * action_dim
    return float((valid.sum(1) * (dims != ABSENT).sum(1)).sum())


def head_losses(
    action: ActionModel,
    actions: Float[Tensor, "m k a"],
    valid: Bool[Tensor, "m k"],
    context: Context,
    scale: float = 1.0,
) -> Losses:
    """Return the loss of every head, each a group of its own, over the same elements."""
    count = num_elements(valid, action.action_dim, context.dims)
    found = {name: kept(head.loss(actions, valid, context), context) for name, head in action.parts().items()}
    return Losses({name: Loss(error.sum(), count, group=name, scale=scale) for name, error in found.items()})


def given(tensor: Tensor | None, what: str) -> Tensor:
    """Return a field of a batch that this objective cannot do without."""
    assert tensor is not None, f"the batch has no {what}: its layout is not the one of this objective"
    return tensor


def gather_state(
    batch: Batch, documents: Int[Tensor, " m"], state_dim: int
) -> tuple[Float[Tensor, "m s"], Bool[Tensor, " m"]]:
    """Return the state of each document and whether it has one; zeros stand where it has none."""
    device = documents.device
    if batch.states is None or batch.states_document is None:
        nothing = torch.zeros(len(documents), state_dim, device=device)
        return nothing, torch.zeros(len(documents), dtype=torch.bool, device=device)
    place = torch.full((len(batch.ids),), -1, dtype=torch.long, device=device)
    place[batch.states_document] = torch.arange(len(batch.states), device=device)
    place = place[documents]
    known = place >= 0
    return torch.where(known[:, None], batch.states[place.clamp(min=0)], 0.0), known
