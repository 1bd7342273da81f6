"""Several heads that learn together on one trunk; the first of them acts."""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from trivium.action.cvae import CvaeConfig
from trivium.action.diffusion import DiffusionConfig, DiffusionUnetConfig
from trivium.action.flow import FlowConfig
from trivium.action.model import ActionModel, Context, Drawn
from trivium.action.regress import RegressConfig
from trivium.core.config import Config
from trivium.core.errors import ConfigError

OneHead = FlowConfig | RegressConfig | CvaeConfig | DiffusionConfig | DiffusionUnetConfig
"""Any head by itself."""


class SeveralConfig(Config):
    """Heads of different kinds under one trunk, each with a loss of its own name.

    A trunk that learned under one head is worse than none under another: taken to a flow head, one trained by
    regression fell from 60.5 to 55.1 % where three heads together gave 77.0 (VLAct, https://github.com/starVLA/VLAct).
    """

    kind: Literal["several"] = "several"
    heads: tuple[Annotated[OneHead, Field(discriminator="kind")], ...] = Field(min_length=2)
    """The heads, all with one horizon and no two of a kind; the first one acts, the others only teach the trunk."""

    @property
    def horizon(self) -> int:
        """Steps in a chunk, of every head."""
        return self.heads[0].horizon

    def build(self, action_dim: int, state_dim: int, context_width: int) -> "Several":
        """Build all heads.

        Raises:
            ConfigError: two of a kind, two horizons, or a head that does not work.
        """
        for place, head in enumerate(self.heads):
            if head.horizon != self.horizon:
                raise ConfigError(
                    f"action.heads.{place}.horizon",
                    str(head.horizon),
                    f"{self.horizon}, as in the first head",
                    "Give all heads the horizon of the data.",
                )
        built = [_build(place, head, (action_dim, state_dim, context_width)) for place, head in enumerate(self.heads)]
        names = [head.error_name for head in built]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ConfigError(f"action.heads.{place}", f"a second {name} head", "one of each", "Leave one out.")
        return Several(built)


def _build(place: int, head: OneHead, sizes: tuple[int, int, int]) -> ActionModel:
    """Build one head; what is wrong with it is said of its own place in the list."""
    try:
        return head.build(*sizes)
    except ConfigError as error:
        where = error.where.replace("action.", f"action.heads.{place}.", 1)
        raise ConfigError(where, error.found, error.expected, error.todo) from error


class Several(ActionModel):
    """Heads by the name of their error, under `action.heads.NAME`; they share nothing but what they look at."""

    error_name = "several"

    def __init__(self, heads: list[ActionModel]) -> None:
        """Hold built heads of one shape."""
        first = heads[0]
        super().__init__(first.horizon, first.action_dim, first.state_dim)
        self.heads = nn.ModuleDict({head.error_name: head for head in heads})
        self._acting = first.error_name

    def parts(self) -> dict[str, ActionModel]:
        """Return the heads."""
        return {name: head for name, head in self.heads.items() if isinstance(head, ActionModel)}

    @property
    def acting(self) -> ActionModel:
        """The head that acts."""
        return self.parts()[self._acting]

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the sum of the heads' errors; objectives ask `parts` and weigh each by itself."""
        return torch.stack([head.loss(actions, valid, context) for head in self.parts().values()]).sum(0)

    def sample(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Float[Tensor, "m k a"]:
        """Draw chunks from the head that acts."""
        return self.acting.sample(context, generator, temperature)

    def draw(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Drawn:
        """Draw chunks and their log-probabilities from the head that acts."""
        return self.acting.draw(context, generator, temperature)

    def log_prob(
        self,
        actions: Float[Tensor, "m k a"],
        context: Context,
        temperature: float | None = None,
        noise: Float[Tensor, "m k a"] | None = None,
    ) -> Float[Tensor, " m"]:
        """Return the log-probability of chunks under the head that acts."""
        return self.acting.log_prob(actions, context, temperature, noise)
