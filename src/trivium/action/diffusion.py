"""Diffusion Policy: chunks by taking noise away step by step, with a transformer or a U-Net as the denoiser."""

import importlib
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trivium.action.density import check_temperature
from trivium.action.diffusion_unet import Unet
from trivium.action.expert import Expert, ExpertConfig
from trivium.action.model import ActionModel, Context, kept, shorter
from trivium.core.errors import ConfigError, SetupError

NUM_LEVELS = 100
"""Levels of noise that are learned; the paper's."""


class DiffusionConfig(ExpertConfig):
    """Diffusion Policy with a transformer that denoises a chunk. Paper: https://arxiv.org/abs/2303.04137."""

    kind: Literal["diffusion"] = "diffusion"
    num_draws: int = 4
    """Noise draws a sample in one step; they share the context, so a draw costs only the denoiser. 1-8."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """How noise is taken away: "ddim" in few steps, deterministic after the first noise; "ddpm" draws noise in every
    step and needs nearly all 100 of them."""
    num_steps: int = 10
    """Steps when sampling, 1 to 100: 8-16 with ddim, 100 with ddpm."""
    limit: float = 1.5
    """Largest normalised command, both ways: every guess of the clean chunk is clipped to it on the way, and so is the
    answer. 1 is the 99 % quantile of the data; too small and fast motions are never played."""

    def build(self, action_dim: int, state_dim: int, context_width: int) -> "Diffusion":
        """Build the denoiser for these dimensions; `context_width` is that of the tokens it will look at.

        Raises:
            ConfigError: a size or the number of steps is out of range.
            SetupError: diffusers is not installed.
        """
        self.check(("num_draws", "num_steps"))
        if self.num_steps > NUM_LEVELS:
            raise ConfigError("action.num_steps", str(self.num_steps), f"1..{NUM_LEVELS}", "Change action.num_steps.")
        if not 0 < self.limit < float("inf"):
            raise ConfigError("action.limit", str(self.limit), "above 0", "Change action.limit.")
        return Diffusion(self, action_dim, state_dim, self.denoiser(action_dim, state_dim, context_width))

    def denoiser(self, action_dim: int, state_dim: int, context_width: int) -> "Denoiser":
        """Build the network."""
        return Expert(self, action_dim, state_dim, context_width, denoises=True)


class DiffusionUnetConfig(DiffusionConfig):
    """Diffusion Policy with a U-Net over time, of `depth` levels; the horizon is halved from each to the next."""

    kind: Literal["diffusion_unet"] = "diffusion_unet"
    width: int = 96
    """Channels of the first level, doubled on each next; a multiple of 8 and of 2 * `heads`. 64-256; the paper's 256
    at depth 3 are 65 million weights."""

    def denoiser(self, action_dim: int, state_dim: int, context_width: int) -> "Denoiser":
        """Build the network.

        Raises:
            ConfigError: the horizon or the width does not divide as it must.
        """
        halved = 2 ** (self.depth - 1)
        for name, part in (("horizon", halved), ("width", 8)):
            if getattr(self, name) % part:
                found = str(getattr(self, name))
                raise ConfigError(f"action.{name}", found, f"a multiple of {part}", f"Change {name} or depth.")
        return Unet(self, action_dim, state_dim, context_width)


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts the noise in a chunk; `look` is what it does once for all draws and steps."""

    def look(self, context: Context) -> Any:
        """Make what `__call__` needs of a context."""
        ...

    def __call__(
        self, sight: Any, noisy: Float[Tensor, "q k a"], time: Float[Tensor, " q"], seen: Bool[Tensor, "q k"] | None
    ) -> Float[Tensor, "q k a"]:
        """Predict the noise in float32; time runs from 0 (clean) to 1."""
        ...


class Diffusion(ActionModel):
    """Learns the noise e in x_k = sqrt(abar_k) a + sqrt(1 - abar_k) e; the squared cosine schedule of 100 levels.

    Schedule and samplers are diffusers'. Where we differ from the paper's code: time enters the transformer by adaptive
    norms and its steps see one another both ways (there causally), the same network as the flow head's, so that the
    two differ in the method alone; guesses are clipped at `limit`, because quantile-normalised actions go beyond 1;
    steps that are not valid are hidden, not trained on; and the weights act as they are unless their stage says
    `average` (EMA, which the paper always takes). The first loss is 1.
    """

    error_name = "diffusion"

    def __init__(self, config: DiffusionConfig, action_dim: int, state_dim: int, network: Denoiser) -> None:
        """Hold the network and the schedule."""
        super().__init__(config.horizon, action_dim, state_dim)
        self.num_draws, self.num_steps, self.limit = config.num_draws, config.num_steps, config.limit
        self.network = network
        # No buffer: a model in bfloat16 would round the schedule.
        self.scheduler = load_scheduler(config.sampler, config.limit)

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return the squared error of the predicted noise, a mean over the draws.

        Raises:
            ConfigError: the chunks have another horizon or dimension than the head.
        """
        clean = self.clean(actions, valid).repeat_interleave(self.num_draws, 0)
        noise = kept(torch.randn_like(clean), context)
        level = torch.randint(NUM_LEVELS, (len(clean),), device=clean.device)
        noisy = self.scheduler.add_noise(clean, noise, level)
        seen = valid.repeat_interleave(self.num_draws, 0)
        found = self.network(self.network.look(context), noisy, level / NUM_LEVELS, seen)
        signal = self.scheduler.alphas_cumprod.to(clean.device)[level][:, None, None]
        error = shorter(found - noise, context, ((1 - signal) / signal).sqrt()).square()
        error = error.unflatten(0, (len(actions), self.num_draws)).mean(1)
        return torch.where(valid[..., None], error, 0.0)

    @torch.no_grad()
    def sample(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Float[Tensor, "m k a"]:
        """Draw chunks from noise, within the limit; a temperature scales the noise at the start, 1 if not given."""
        shape = (len(context.state), self.horizon, self.action_dim)
        device = context.state.device
        x = kept(torch.randn(shape, generator=generator, device=device), context)
        x = x if temperature is None else check_temperature(temperature) * x
        sight = self.network.look(context)
        self.scheduler.set_timesteps(self.num_steps)
        # Training on another device left it there.
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(device)
        for level in self.scheduler.timesteps.tolist():
            time = torch.full((shape[0],), level / NUM_LEVELS, device=device)
            noise = self.network(sight, x, time, None)
            x = kept(self.scheduler.step(noise, level, x, generator=generator).prev_sample, context)
        return x.clamp(-self.limit, self.limit)


def load_scheduler(sampler: Literal["ddim", "ddpm"], limit: float) -> Any:
    """Return diffusers' scheduler in the paper's settings; imported here, because only this head needs the package.

    Raises:
        SetupError: diffusers is not installed.
    """
    try:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{sampler}")
    except ImportError as error:
        raise SetupError(
            "action.kind: diffusion",
            f"no package diffusers ({error})",
            "the `diffusion` extra",
            "Type: pip install 'trivium[diffusion]', or take the flow head, which needs nothing.",
        ) from error
    settings = {"variance_type": "fixed_small"} if sampler == "ddpm" else {"set_alpha_to_one": True}
    return getattr(module, f"{sampler.upper()}Scheduler")(
        num_train_timesteps=NUM_LEVELS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=True,
        clip_sample_range=limit,
        **settings,
    )
