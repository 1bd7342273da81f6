"""Action chunks from a conditional variational auto-encoder (ACT)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trivium.action.density import OneAnswer
from trivium.action.expert import Expert, ExpertBlock, ExpertConfig, embed_state
from trivium.action.model import Context, kept, shorter
from trivium.core.errors import ConfigError


class CvaeConfig(ExpertConfig):
    """Chunks by regression beside a latent style that explains what the context does not (ACT).

    Paper: https://arxiv.org/abs/2304.13705.
    """

    kind: Literal["cvae"] = "cvae"
    latent_dim: int = 32
    """Numbers in the style z. 8-64; how many are used is decided by `kl_weight`, not here."""
    kl_weight: float = 10.0
    """Weight of the KL divergence (nats, summed over z) against the L1 error of a normalised action. The paper's 10
    keeps z for what saves ten times its nats, often nothing; 0.01-1 lets it tell two ways of doing a task apart; 0
    lets it copy the chunk, and acting with z = 0 then fails."""

    def build(self, action_dim: int, state_dim: int, context_width: int) -> "Cvae":
        """Build both networks for these dimensions; `context_width` is that of the tokens the policy will look at.

        Raises:
            ConfigError: the width does not divide into even heads, a size is not positive, or the weight is negative.
        """
        self.check(("latent_dim",))
        if not 0 <= self.kl_weight < float("inf"):
            raise ConfigError("action.kl_weight", str(self.kl_weight), "0 or more", "Change action.kl_weight.")
        return Cvae(self, action_dim, state_dim, context_width)


class Cvae(OneAnswer):
    """Learns L1(a, decoder(z, context)) + beta * KL(q(z | a, state) || N(0, 1)); acts with z = 0.

    Where we differ from ACT's code: every decoder layer is used (there only the first of seven reaches the output);
    padding is divided out (there the L1 of a chunk shrinks with its padding) and a chunk counts in both terms by its
    valid steps; the decoder is the expert of the other heads, which reads context tokens of any trunk.
    """

    error_name = "cvae"

    def __init__(self, config: CvaeConfig, action_dim: int, state_dim: int, context_width: int) -> None:
        """Build decoder and encoder; see `CvaeConfig`."""
        super().__init__(config.horizon, action_dim, state_dim)
        self.latent_dim, self.kl_weight = config.latent_dim, config.kl_weight
        self.expert = Expert(config, action_dim, state_dim, context_width, denoises=False)
        self.style = nn.Linear(config.latent_dim, config.width)
        self.encoder = StyleEncoder(config, action_dim, state_dim)

    def loss(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> Float[Tensor, "m k a"]:
        """Return L1 plus the sample's weighted divergence, on every valid element.

        Their mean over a batch of whole chunks is ACT's: L1 per element, KL summed over z and averaged over samples.

        Raises:
            ConfigError: the chunks have another horizon or dimension than the head.
        """
        clean = self.clean(actions, valid)
        mean, log_variance = self.encoder(clean, valid, context)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = shorter(self._decode(z, context) - clean, context).abs()
        divergence = kl_to_normal(mean, log_variance).sum(1)
        return torch.where(valid[..., None], error + self.kl_weight * divergence[:, None, None], 0.0)

    def answer(self, context: Context) -> Float[Tensor, "m k a"]:
        """Return the chunks of the most ordinary style, z = 0."""
        z = torch.zeros(len(context.state), self.latent_dim, device=context.state.device)
        return kept(self._decode(z, context), context)

    def _decode(self, z: Float[Tensor, "m z"], context: Context) -> Float[Tensor, "m k a"]:
        return self.expert(self.expert.look(context), more=self.style(z.to(self.style.weight.dtype))[:, None])


class StyleEncoder(nn.Module):
    """The posterior q(z | chunk, state): a transformer over the state and the steps, read at one learned token."""

    def __init__(self, config: CvaeConfig, action_dim: int, state_dim: int) -> None:
        """Build the layers, as many as the decoder has."""
        super().__init__()
        width = config.width
        self.rise = nn.Linear(action_dim, width)
        self.place = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.state = nn.Linear(state_dim, width)
        self.no_state = nn.Parameter(torch.zeros(width))
        self.token = nn.Parameter(0.02 * torch.randn(width))
        blocks = [ExpertBlock(width, config.heads, None, crossed=False) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fall = nn.Linear(width, 2 * config.latent_dim)
        # q starts as the prior N(0, 1): the first divergence is 0, not a random number times ten.
        nn.init.zeros_(self.fall.weight)
        nn.init.zeros_(self.fall.bias)

    def forward(
        self, actions: Float[Tensor, "m k a"], valid: Bool[Tensor, "m k"], context: Context
    ) -> tuple[Float[Tensor, "m z"], Float[Tensor, "m z"]]:
        """Return mean and log variance of the style of every chunk, in float32."""
        state = embed_state(context, self.state, self.no_state)[:, None]
        steps = self.rise(actions.to(self.place.dtype)) + self.place
        x = torch.cat([self.token.expand_as(state), state, steps], dim=1)
        seen = nn.functional.pad(valid, (2, 0), value=True)[:, None]
        for block in self.blocks:
            x = block(x, None, seen, None)
        mean, log_variance = self.fall(self.norm(x[:, 0])).float().chunk(2, dim=1)
        return mean, log_variance


def kl_to_normal(mean: Float[Tensor, "m z"], log_variance: Float[Tensor, "m z"]) -> Float[Tensor, "m z"]:
    """Return KL(N(mean, variance) || N(0, 1)) of every dimension, in nats.

    Sum it over the dimensions: a mean over them lowers beta by their number. A dimension with nearly 0 says nothing.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
