"""What every connector offers: patches in, what stands in the row of tokens out, counted without weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trivium.connect.weights import load_weights
from trivium.core.config import Config
from trivium.core.errors import ConfigError


class Connector(nn.Module, ABC):
    """Turns the patches of a picture into `num_tokens` vectors of the language model's width."""

    num_tokens: int
    """What one picture costs in a row."""
    token_grid: tuple[int, int] | None
    """Rows and columns of the tokens where each has a place in the picture; None where they have none."""
    published: ClassVar[Mapping[str, str]] = {}
    """How checkpoints of others name its parts, and what they are called here."""

    @abstractmethod
    def forward(self, patches: Float[Tensor, "n p d"]) -> Float[Tensor, "n q e"]:
        """Return what the placeholders of each picture become, in order."""


class ConnectorConfig(Config, ABC):
    """What all connectors share."""

    path: str | None = None
    """Weights to start from: a safetensors file, or a folder of them. Ours (names that begin with "connect."), and for
    kind mlp InternVL's 1.5 and later; those made for other widths are refused. null starts fresh."""

    def build(self, width_in: int, grid: tuple[int, int], width_out: int, num_layers: int) -> Connector:
        """Build between an encoder (`width_in`, `grid`) and a language model (`width_out`, `num_layers`).

        Raises:
            ConfigError: the parts do not fit one another, or the weights not them.
            SetupError: the weights are not there.
        """
        connector = self.fresh(width_in, grid, width_out, num_layers)
        if self.path is not None:
            load_weights(connector, self.path, connector.published)
        return connector

    @abstractmethod
    def fresh(self, width_in: int, grid: tuple[int, int], width_out: int, num_layers: int) -> Connector:
        """Build with fresh weights.

        Raises:
            ConfigError: the parts do not fit one another.
        """

    @abstractmethod
    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Return what one picture becomes, without weights.

        Raises:
            ConfigError: such a grid cannot be connected.
        """


class ResamplerConfig(ConnectorConfig):
    """What the two connectors that resample patches by latents share."""

    latents: int = Field(default=64, ge=1)
    """Vectors that the patches of a picture, however many, become: 16 to 128. Fewer blur where things are."""
    depth: int = Field(default=3, ge=1)
    """Blocks of the resampler: Idefics2 has 3, Flamingo 6."""
    heads: int = Field(default=16, ge=1)
    """Attention heads; they must divide the width of the language model."""
    groups: int = Field(default=4, ge=1)
    """Heads of keys and values, each for several heads; they must divide `heads`. Fewer cost less and see less."""

    def check(self, width: int) -> None:
        """Refuse heads that do not divide.

        Raises:
            ConfigError: the width is no multiple of `heads`, or `heads` none of `groups`.
        """
        for name, whole, what in (
            ("heads", width, "the width of the language model"),
            ("groups", self.heads, "connect.heads"),
        ):
            if whole % getattr(self, name):
                found, fitting = getattr(self, name), [n for n in range(1, whole + 1) if whole % n == 0]
                raise ConfigError(
                    f"connect.{name}",
                    str(found),
                    f"a divisor of {whole}, {what}",
                    f"Take one of {', '.join(map(str, fitting[:12]))}.",
                )
