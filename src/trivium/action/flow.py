"""Flow matching with a small action expert that looks at the policy's context (pi0)."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trivium.action.density import check_temperature, follow, refuse_certainty, refuse_low_precision, trace_back
from trivium.action.expert import Expert, ExpertConfig
from trivium.action.model import ActionModel, Context, Drawn, kept, shorter
from trivium.core.errors import ConfigError


class FlowConfig(ExpertConfig):
    """A flow-matching expert over the steps of a chunk. Paper: https://arxiv.org/abs/2410.24164 (pi0)."""

    kind: Literal["flow"] = "flow"
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
        self.check(("num_draws", "num_steps"))
        if not 0 <= self.start_noise <= 2:
            raise ConfigError("action.start_noise", str(self.start_noise), "0..2", "Change action.start_noise.")
        return Flow(self, action_dim, state_dim, context_width)


class Flow(ActionModel):
    """Learns the velocity u = noise - action along x_t = t * noise + (1 - t) * action; samples from t = 1 to 0.

    The time is openpi's (1 is noise), the opposite of the paper's. The expert differs from pi0's in two ways: it
    reads the trunk's last hidden states by cross-attention instead of sharing attention in every layer, so that any
    trunk will do and the context is encoded once for all draws; and time enters by adaptive norms (as in pi0.5).
    The first loss is 1 + E[a^2].
    """

    error_name = "flow"

    def __init__(self, config: FlowConfig, action_dim: int, state_dim: int, context_width: int) -> None:
        """Build the expert; see `FlowConfig`."""
        super().__init__(config.horizon, action_dim, state_dim)
        self.num_draws, self.num_steps, self.start_noise = config.num_draws, config.num_steps, config.start_noise
        self.expert = Expert(config, action_dim, state_dim, context_width, denoises=True)

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the squared velocity error, a mean over the draws.

        Raises:
            ConfigError: the chunks have another horizon or dimension than the head.
        """
        clean = self.clean(actions, valid).repeat_interleave(self.num_draws, 0)
        noise = kept(torch.randn_like(clean), context)
        time = draw_time(len(clean), clean.device)
        share = time[:, None, None]
        noisy = share * noise + (1 - share) * clean
        seen = valid.repeat_interleave(self.num_draws, 0)
        found = self.expert(self.expert.look(context), noisy, time, seen)
        error = shorter(found - (noise - clean), context, share).square()
        error = error.unflatten(0, (len(actions), self.num_draws)).mean(1)
        return torch.where(valid[..., None], error, 0.0)

    @torch.no_grad()
    def sample(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Float[Tensor, "m k a"]:
        """Draw chunks by integrating from noise; the context's keys and values are computed once for all steps.

        A temperature takes the place of `start_noise`.
        """
        noise = self._noise(context, generator, self._spread(temperature))
        return integrate(self._velocity(context), noise, self.num_steps)

    @torch.no_grad()
    def draw(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Drawn:
        """Draw chunks with the exact density of the Euler steps; see `density.follow`.

        Raises:
            ConfigError: temperature (or `start_noise`) 0, or a head that is not float32.
        """
        spread = self._density_spread(temperature)
        noise = self._noise(context, generator, spread)
        return Drawn(*follow(self._velocity(context), noise, self.num_steps, spread), noise)

    def log_prob(
        self,
        actions: Float[Tensor, "m k a"],
        context: Context,
        temperature: float | None = None,
        noise: Float[Tensor, "m k a"] | None = None,
    ) -> Float[Tensor, " m"]:
        """Return the log density of given chunks, found by running the Euler steps backwards.

        Raises:
            ConfigError: temperature (or `start_noise`) 0, or a head that is not float32.
            TrainingError: a chunk that the flow cannot reach.
        """
        spread = self._density_spread(temperature)
        return trace_back(self._velocity(context), actions, self.num_steps, spread, noise)[1]

    def _spread(self, temperature: float | None) -> float:
        return self.start_noise if temperature is None else check_temperature(temperature)

    def _density_spread(self, temperature: float | None) -> float:
        refuse_low_precision(self.expert.fall.weight)
        return refuse_certainty(self._spread(temperature), self.error_name)

    def _noise(self, context: Context, generator: torch.Generator | None, spread: float) -> Float[Tensor, "m k a"]:
        shape, device = (len(context.state), self.horizon, self.action_dim), context.state.device
        return kept(spread * torch.randn(shape, generator=generator, device=device), context)

    def _velocity(self, context: Context) -> Callable[[Tensor, float], Tensor]:
        sight = self.expert.look(context)

        def velocity(x: Tensor, time: float) -> Tensor:
            return kept(self.expert(sight, x, torch.full((len(x),), time, device=x.device)), context)

        return velocity


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
