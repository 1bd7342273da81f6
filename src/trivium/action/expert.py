"""The network of the action heads: a small transformer over the steps of a chunk that looks at the policy's context."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trivium.action.model import Context
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.attention import Attention
from trivium.nn.block import Branch
from trivium.nn.mlp import Mlp
from trivium.nn.norm import AdaptiveNorm
from trivium.nn.position import embed_time


class ExpertConfig(Config):
    """What every action head is asked: how long its chunks are, and how large its network is."""

    horizon: int
    """Steps in a chunk; must equal the horizon of the data. 8-16 at 10 Hz, 50 at 50 Hz."""
    width: int = 192
    """Width of the network; a multiple of 2 * `heads`. 192-256 for a small VLA, 1024 for a billion-sized one."""
    depth: int = 3
    """Number of blocks, each with self-attention, cross-attention to the context and a perceptron."""
    heads: int = 6
    """Attention heads."""

    def check(self, counts: Sequence[str] = ()) -> None:
        """Refuse sizes that no network has; `counts` names further fields that must be 1 or more.

        Raises:
            ConfigError: the width does not divide into even heads, or a size is not positive.
        """
        for name in ("horizon", "width", "depth", "heads", *counts):
            if getattr(self, name) < 1:
                raise ConfigError(f"action.{name}", str(getattr(self, name)), "1 or more", f"Change action.{name}.")
        if self.width % (2 * self.heads):
            raise ConfigError(
                "action.width", str(self.width), f"a multiple of {2 * self.heads} (2 * heads)", "Change width or heads."
            )


Read = tuple[Tensor, Tensor, Tensor]
"""Keys "m h x e", values "m h x e" and mask "m 1 1 x" of a context, as one block reads it."""


class Sight(NamedTuple):
    """What a network made of a context: computed once, used for every draw and every step of sampling."""

    state: Float[Tensor, "m d"]
    read: list[Read]
    """Of every block; empty where there are no tokens, and cross-attention is skipped then."""


class Expert(nn.Module):
    """Blocks over (state, further tokens, one token a step); without a context their cross-attention is skipped.

    With `denoises` the steps' tokens come from noisy actions and a time conditions every norm; without, they are
    learned queries. Both start by answering 0 whatever they are asked, and a context that was never learned changes
    no bit of the answer: a prior's weights hand on to a policy as they are.
    """

    def __init__(
        self, config: ExpertConfig, action_dim: int, state_dim: int, context_width: int, denoises: bool
    ) -> None:
        """Build the layers; see `ExpertConfig`."""
        super().__init__()
        width = config.width
        self.width = width
        self.rise = nn.Linear(action_dim, width) if denoises else None
        self.place = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.state = nn.Linear(state_dim, width)
        self.no_state = nn.Parameter(torch.zeros(width))
        self.time = Mlp(width, width) if denoises else None
        self.context = nn.Sequential(nn.LayerNorm(context_width), nn.Linear(context_width, width))
        condition = width if denoises else None
        self.blocks = nn.ModuleList([ExpertBlock(width, config.heads, condition) for _ in range(config.depth)])
        self.norm = AdaptiveNorm(width, width) if denoises else nn.LayerNorm(width, eps=1e-6)
        self.fall = nn.Linear(width, action_dim)
        # An answer of zero at the start: no random head disturbs a pretrained trunk.
        nn.init.zeros_(self.fall.weight)
        nn.init.zeros_(self.fall.bias)

    def look(self, context: Context) -> Sight:
        """Embed the state, and give every block its keys and values of the context's tokens."""
        dtype = self.fall.weight.dtype
        state = embed_state(context, self.state, self.no_state)
        if context.tokens is None or context.mask is None:
            return Sight(state, [])
        tokens = self.context(context.tokens.to(dtype))
        return Sight(state, [cast(ExpertBlock, block).read(tokens, context.mask) for block in self.blocks])

    def forward(
        self,
        sight: Sight,
        noisy: Float[Tensor, "q k a"] | None = None,
        time: Float[Tensor, " q"] | None = None,
        seen: Bool[Tensor, "q k"] | None = None,
        more: Float[Tensor, "q y d"] | None = None,
    ) -> Float[Tensor, "q k a"]:
        """Answer one vector of actions a step, in float32.

        Args:
            sight: of m samples; their draws lie side by side, so q is a multiple of m.
            noisy: the actions to denoise, at their `time`; None asks the learned queries.
            time: 0 to 1.
            seen: False hides a step from the others (it would tell them what the last real command was).
            more: further tokens beside the state.
        """
        dtype = self.fall.weight.dtype
        steps, condition = self.place.expand(len(sight.state), -1, -1), None
        if noisy is not None and time is not None:
            assert self.rise is not None, "this expert was built without `denoises`"
            assert self.time is not None, "it would have a time"
            condition = self.time(embed_time(time, self.width).to(dtype))
            steps = self.rise(noisy.to(dtype)) + self.place
        token = sight.state.repeat_interleave(len(steps) // len(sight.state), 0)[:, None]
        x = torch.cat([token, steps] if more is None else [token, more, steps], dim=1)
        num_steps = steps.shape[1]
        mask = None if seen is None else F.pad(seen, (x.shape[1] - num_steps, 0), value=True)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x, condition, mask, sight.read[i] if sight.read else None)
        x = x[:, -num_steps:]
        normed = self.norm(x) if condition is None else self.norm(x, condition)[0]
        return self.fall(normed).float()


def embed_state(context: Context, state: nn.Linear, no_state: Float[Tensor, " d"]) -> Float[Tensor, "m d"]:
    """Embed the states that are known; where one is not, its numbers are never read."""
    known = context.state_known[:, None]
    clean = torch.where(known, context.state, 0.0).to(no_state.dtype)
    return torch.where(known, state(clean), no_state)


class ExpertBlock(nn.Module):
    """Self-attention over the steps, cross-attention to what was read, perceptron; conditioned on the time, or not."""

    def __init__(self, width: int, heads: int, condition: int | None, crossed: bool = True) -> None:
        """Build the branches.

        Args:
            width: of the tokens.
            heads: attention heads.
            condition: width of what conditions the norms; None for plain norms.
            crossed: whether there is a cross-attention at all.
        """
        super().__init__()
        self.attention = Branch(Attention(width, heads), width, condition)
        self.cross = Branch(ReadAttention(width, heads, condition is None), width, condition) if crossed else None
        self.mlp = Branch(Mlp(width, 4 * width), width, condition)

    def read(self, context: Float[Tensor, "m x d"], mask: Bool[Tensor, "m x"]) -> Read:
        """Read the context with this block's keys and values."""
        assert self.cross is not None, "this block was built without cross-attention"
        return cast(ReadAttention, self.cross.inner).read(context, mask)

    def forward(
        self,
        x: Float[Tensor, "q y d"],
        condition: Float[Tensor, "q d"] | None,
        mask: Bool[Tensor, "q 1 y"] | None,
        read: Read | None,
    ) -> Float[Tensor, "q y d"]:
        """Run the block; without a context the cross branch is skipped, so a prior's weights hand on as they are."""
        x = self.attention(x, condition, None, mask)
        if read is not None and self.cross is not None:
            x = self.cross(x, condition, *read)
        return self.mlp(x, condition)


class ReadAttention(nn.Module):
    """Cross-attention in two acts: read the context once, then ask it as often as there are draws or steps."""

    def __init__(self, width: int, heads: int, silent: bool) -> None:
        """Build the projections.

        Args:
            width: of the tokens that ask and of those that are read.
            heads: attention heads.
            silent: start by answering 0; for a branch whose gate does not start closed.
        """
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        if silent:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def read(self, context: Float[Tensor, "m x d"], mask: Bool[Tensor, "m x"]) -> Read:
        """Return keys, values and mask; a sample that may see nothing sees zeros (softmax over nothing is NaN)."""
        key, value = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        value = torch.where(mask[:, None, :, None], value, 0.0)
        opened = mask | ~mask.any(1, keepdim=True)
        return key, value, opened[:, None, None]

    def forward(
        self,
        x: Float[Tensor, "q y d"],
        key: Float[Tensor, "m h x e"],
        value: Float[Tensor, "m h x e"],
        mask: Bool[Tensor, "m 1 1 x"],
    ) -> Float[Tensor, "q y d"]:
        """Ask; the draws of a sample are folded into its queries, so that nothing of the context is repeated."""
        query = self.query(x).reshape(len(key), -1, self.heads, key.shape[-1]).transpose(1, 2)
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(answer.transpose(1, 2).reshape_as(x))
