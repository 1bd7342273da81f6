"""Flow matching with a small action expert that looks at the policy's context (pi0)."""

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trivium.action.model import ActionModel, Context
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.attention import Attention
from trivium.nn.block import Branch
from trivium.nn.mlp import Mlp
from trivium.nn.norm import AdaptiveNorm
from trivium.nn.position import embed_time


class FlowConfig(Config):
    """A flow-matching expert over the steps of a chunk. Paper: https://arxiv.org/abs/2410.24164 (pi0)."""

    kind: Literal["flow"] = "flow"
    horizon: int
    """Steps in a chunk; must equal the horizon of the data. 8-16 at 10 Hz, 50 at 50 Hz."""
    width: int = 192
    """Width of the expert; a multiple of 2 * `heads`. 192-256 for a small VLA, 1024 for a billion-sized one."""
    depth: int = 3
    """Number of blocks, each with self-attention, cross-attention to the context and a perceptron."""
    heads: int = 6
    """Attention heads."""
    num_draws: int = 4
    """Noise and time draws a sample in one step; they share the context, so a draw costs only the expert. More
    draws, less gradient noise; beyond 8 the expert starts to dominate the step."""
    num_steps: int = 10
    """Euler steps when sampling. 5 narrows the spread of actions by a third, 50 costs five times more for 5 %."""
    start_noise: float = 1.0
    """Spread of the noise that sampling starts from, over that of training. 1 draws from the learned distribution,
    0 always gives the same, most typical chunk, which often acts better and never explores; above 1 acts wildly."""

    def build(self, action_dim: int, state_dim: int, context_width: int) -> "Flow":
        """Build the expert for these dimensions; `context_width` is that of the tokens it will look at.

        Raises:
            ConfigError: the width does not divide into even heads, or a size is not positive.
        """
        if self.width % (2 * self.heads):
            raise ConfigError(
                "action.width", str(self.width), f"a multiple of {2 * self.heads} (2 * heads)", "Change width or heads."
            )
        for name in ("horizon", "width", "depth", "heads", "num_draws", "num_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"action.{name}", str(getattr(self, name)), "1 or more", f"Change action.{name}.")
        if not 0 <= self.start_noise <= 2:
            raise ConfigError("action.start_noise", str(self.start_noise), "0..2", "Change action.start_noise.")
        return Flow(self, action_dim, state_dim, context_width)


class Flow(ActionModel):
    """Learns the velocity u = noise - action along x_t = t * noise + (1 - t) * action; samples from t = 1 to 0.

    The time is openpi's (1 is noise), the opposite of the paper's. The expert differs from pi0's in two ways: it
    reads the trunk's last hidden states by cross-attention instead of sharing attention in every layer, so that any
    trunk will do and the context is encoded once for all draws; and time enters by adaptive norms (as in pi0.5).
    """

    def __init__(self, config: FlowConfig, action_dim: int, state_dim: int, context_width: int) -> None:
        """Build the expert; see `FlowConfig`."""
        super().__init__()
        width = config.width
        self.horizon, self.action_dim, self.state_dim = config.horizon, action_dim, state_dim
        self.width, self.num_draws, self.num_steps = width, config.num_draws, config.num_steps
        self.start_noise = config.start_noise
        self.rise = nn.Linear(action_dim, width)
        self.place = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.state = nn.Linear(state_dim, width)
        self.no_state = nn.Parameter(torch.zeros(width))
        self.time = Mlp(width, width)
        self.context = nn.Sequential(nn.LayerNorm(context_width), nn.Linear(context_width, width))
        self.blocks = nn.ModuleList([ExpertBlock(width, config.heads) for _ in range(config.depth)])
        self.norm = AdaptiveNorm(width, width)
        self.fall = nn.Linear(width, action_dim)
        # Zero velocity at the start: the first loss is 1 + E[a^2], and no random head disturbs a pretrained trunk.
        nn.init.zeros_(self.fall.weight)
        nn.init.zeros_(self.fall.bias)

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the squared velocity error, a mean over the draws.

        Raises:
            ConfigError: the chunks have another horizon or dimension than the head.
        """
        self._check(actions)
        samples, draws = len(actions), self.num_draws
        clean = torch.where(valid[..., None], actions.float(), 0.0)
        clean = clean.repeat_interleave(draws, 0)
        noise = torch.randn_like(clean)
        time = draw_time(len(clean), clean.device)
        share = time[:, None, None]
        noisy = share * noise + (1 - share) * clean
        seen = valid.repeat_interleave(draws, 0)[:, None]
        found = self.velocity(noisy, time, self._read(context), self._embed_state(context), seen)
        error = (found - (noise - clean)).square().unflatten(0, (samples, draws)).mean(1)
        return torch.where(valid[..., None], error, 0.0)

    @torch.no_grad()
    def sample(self, context: Context, generator: torch.Generator | None = None) -> Float[Tensor, "m k a"]:
        """Draw chunks by integrating from noise; the context's keys and values are computed once for all steps."""
        shape = (len(context.state), self.horizon, self.action_dim)
        device = context.state.device
        noise = self.start_noise * torch.randn(shape, generator=generator, device=device)
        read, state = self._read(context), self._embed_state(context)

        def velocity(x: Tensor, time: float) -> Tensor:
            return self.velocity(x, torch.full((shape[0],), time, device=device), read, state)

        return integrate(velocity, noise, self.num_steps)

    def velocity(
        self,
        noisy: Float[Tensor, "q k a"],
        time: Float[Tensor, " q"],
        read: list["Read"],
        state: Float[Tensor, "m d"],
        seen: Bool[Tensor, "q 1 k"] | None = None,
    ) -> Float[Tensor, "q k a"]:
        """Predict noise - action. A sample's draws lie side by side: q = m * draws; `seen` hides steps that are not
        valid, which would tell the others what the last real command was.
        """  # noqa: D205
        dtype = self.rise.weight.dtype
        condition = self.time(embed_time(time, self.width).to(dtype))
        token = state.repeat_interleave(len(noisy) // len(state), 0)[:, None]
        x = torch.cat([token, self.rise(noisy.to(dtype)) + self.place], dim=1)
        mask = None if seen is None else F.pad(seen, (1, 0), value=True)
        for i, block in enumerate(self.blocks):
            x = block(x, condition, mask, read[i] if read else None)
        normed, _ = self.norm(x[:, 1:], condition)
        return self.fall(normed).float()

    def _read(self, context: Context) -> list["Read"]:
        """Project the context and give every block its keys and values; a prior's empty list skips cross-attention."""
        if context.tokens is None or context.mask is None:
            return []
        tokens = self.context(context.tokens.to(self.rise.weight.dtype))
        return [cast(ExpertBlock, block).read(tokens, context.mask) for block in self.blocks]

    def _embed_state(self, context: Context) -> Float[Tensor, "m d"]:
        known = context.state_known[:, None]
        clean = torch.where(known, context.state, 0.0).to(self.rise.weight.dtype)
        return torch.where(known, self.state(clean), self.no_state)

    def _check(self, actions: Float[Tensor, "m k a"]) -> None:
        if tuple(actions.shape[1:]) != (self.horizon, self.action_dim):
            raise ConfigError(
                "action.horizon",
                f"chunks of {actions.shape[1]} steps x {actions.shape[2]} dimensions",
                f"{self.horizon} x {self.action_dim}",
                "Give the data source and action.horizon the same number, and build for the source's action dimension.",
            )


Read = tuple[Tensor, Tensor, Tensor]
"""Keys "m h x e", values "m h x e" and mask "m 1 1 x" of a context, as one block reads it."""


class ExpertBlock(nn.Module):
    """Self-attention over the steps, cross-attention to what was read, perceptron; all conditioned on the time."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the branches."""
        super().__init__()
        self.attention = Branch(Attention(width, heads), width, width)
        self.cross = Branch(ReadAttention(width, heads), width, width)
        self.mlp = Branch(Mlp(width, 4 * width), width, width)

    def read(self, context: Float[Tensor, "m x d"], mask: Bool[Tensor, "m x"]) -> Read:
        """Read the context with this block's keys and values."""
        return cast(ReadAttention, self.cross.inner).read(context, mask)

    def forward(
        self,
        x: Float[Tensor, "q y d"],
        condition: Float[Tensor, "q d"],
        mask: Bool[Tensor, "q 1 y"] | None,
        read: Read | None,
    ) -> Float[Tensor, "q y d"]:
        """Run the block; without a context the cross branch is skipped, so a prior's weights hand on as they are."""
        x = self.attention(x, condition, None, mask)
        if read is not None:
            x = self.cross(x, condition, *read)
        return self.mlp(x, condition)


class ReadAttention(nn.Module):
    """Cross-attention in two acts: read the context once, then ask it as often as there are draws or Euler steps."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the projections."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

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


def draw_time(count: int, device: torch.device | str = "cpu") -> Float[Tensor, " m"]:
    """Draw t = 0.999 * Beta(1.5, 1) + 0.001, pi0's law, which leans to the noisy end.

    Beta(1.5, 1) has the distribution function t^1.5, so a uniform number to the power 2/3 is an exact draw.
    """
    return 0.999 * torch.rand(count, device=device) ** (2 / 3) + 0.001


def integrate(
    velocity: Callable[[Tensor, float], Tensor], noise: Float[Tensor, "m k a"], num_steps: int
) -> Float[Tensor, "m k a"]:
    """Follow the velocity from t = 1 (noise) to t = 0 (data) in equal Euler steps."""
    x = noise.float()
    for i in range(num_steps):
        x = x - velocity(x, 1 - i / num_steps) / num_steps
    return x
