"""What every action head offers: an error to learn from, and chunks to execute."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trivium.core.batch import Batch
from trivium.core.errors import ConfigError


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

    def __post_init__(self) -> None:
        assert (self.tokens is None) == (self.mask is None), "context tokens and their mask come together"


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
    def sample(self, context: Context, generator: torch.Generator | None = None) -> Float[Tensor, "m k a"]:
        """Draw one chunk a sample, in float32; a head that knows only one answer gives that."""

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
