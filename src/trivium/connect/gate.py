"""Gated cross-attention (Flamingo): pictures enter inside the language model, through gates that start closed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from trivium.connect.connector import Connector, ResamplerConfig
from trivium.connect.perceiver import EPS, MLP_RATIO, Perceiver
from trivium.core.errors import ConfigError
from trivium.nn.attention import Attention
from trivium.nn.mlp import GatedMlp


class GateConfig(ResamplerConfig):
    """Cross-attention to a picture's latents before every n-th layer; a picture costs one token, a placeholder.

    A token attends to the last picture before it in its own document and to no other, as in Flamingo. Where several
    views stand side by side, the words read the last of them; the earlier ones reach them through their placeholders
    alone, one vector a picture. For policies with several views the other connectors see more.
    """

    kind: Literal["gate"] = "gate"
    every: int = Field(default=4, ge=1)
    """Distance of the layers that have a block before them, counted from the first: 1 to the number of layers; 4 as a
    rule. 1 doubles the size of the model."""

    def fresh(self, width_in: int, grid: tuple[int, int], width_out: int, num_layers: int) -> "Gate":
        """Build between an encoder and a language model of so many layers.

        Raises:
            ConfigError: heads that do not divide, or a distance larger than the number of layers.
        """
        self.check(width_out)
        if self.every > num_layers:
            raise ConfigError(
                "connect.every",
                str(self.every),
                f"1..{num_layers}, the layers of the language model",
                "Lower connect.every or keep more layers.",
            )
        perceiver = Perceiver(width_in, width_out, self.latents, self.depth, self.heads, self.groups)
        blocks = [GateBlock(width_out, self.heads, self.groups) for _ in range(0, num_layers, self.every)]
        return Gate(perceiver, blocks, width_out, self.every)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Return 1: the placeholder that says where in the row a picture stands."""
        return 1


@dataclass(frozen=True, eq=False)
class Readers:
    """Which tokens of a batch look at which picture; a token looks at one at most."""

    index: Int[Tensor, "n x"]
    """For each picture the tokens that look at it, numbered through all rows; the end of a list is filled up."""
    tokens: Int[Tensor, " r"]
    """The tokens that look at any, each once."""
    slots: Int[Tensor, " r"]
    """Where in `index`, flattened, each of them stands."""


Change = Callable[[Float[Tensor, "b t d"]], Float[Tensor, "b t d"]]


class Gate(Connector):
    """A perceiver, a placeholder, and blocks that act inside the language model but belong here.

    Every block leaves tokens that see no picture as they are, to the bit, also when its gates are open: a frozen
    language model stays what it was on text. (Flamingo sends those through the block's perceptron all the same.)
    Paper: https://arxiv.org/abs/2204.14198.
    """

    num_tokens = 1
    token_grid = (1, 1)

    def __init__(self, perceiver: Perceiver, blocks: list["GateBlock"], width: int, every: int) -> None:
        """Join built parts."""
        super().__init__()
        self.every = every
        self.perceiver = perceiver
        # As loud as a word, see Model.state; one dimension, so weight decay spares it.
        self.image_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, patches: Float[Tensor, "n p d"]) -> Float[Tensor, "n 1 e"]:
        """Return the placeholder for each picture: nothing of the picture itself stands in the row."""
        return self.image_token.expand(len(patches), 1, -1)

    def inside(self, patches: Float[Tensor, "n p d"], readers: Readers) -> dict[int, Change]:
        """Return what happens to the hidden states before a layer, by its number; nothing where nobody looks."""
        if not len(readers.tokens):
            return {}
        latents = self.perceiver(patches)
        return {
            number * self.every: partial(cast(GateBlock, block), latents=latents, readers=readers)
            for number, block in enumerate(self.blocks)
        }


class GateBlock(nn.Module):
    """x + tanh(a) attention(norm(x), latents), then x + tanh(b) mlp(norm(x)); a = b = 0 at the start: the identity."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        """Build the two branches with closed gates."""
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=EPS), nn.RMSNorm(width, eps=EPS)
        self.attention = Attention(width, heads, width, groups, bias=False)
        self.mlp = GatedMlp(width, MLP_RATIO * width)
        # Weight decay would close them: it spares what has one dimension.
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden: Float[Tensor, "b t d"], latents: Float[Tensor, "n q d"], readers: Readers
    ) -> Float[Tensor, "b t d"]:
        """Run the block on the tokens that look at a picture, gathered by picture: no mask, and nothing to leak."""
        flat = hidden.flatten(0, 1)
        x = flat[readers.index]
        x = x + self.attention_gate.tanh() * self.attention(self.attention_norm(x), latents)
        x = x + self.mlp_gate.tanh() * self.mlp(self.mlp_norm(x))
        return flat.index_copy(0, readers.tokens, x.flatten(0, 1)[readers.slots]).view_as(hidden)
