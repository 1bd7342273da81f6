"""A variational autoencoder of action chunks: a few continuous numbers in place of a chunk."""

import math
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn

from trivium.action.autoencoder import (
    LONGEST,
    Bent,
    Chunks,
    check_robot,
    fitted,
    flatten,
    mean_error,
    optimise,
    principal_axes,
    stacked,
    unflatten,
)
from trivium.core.config import Config, parse
from trivium.core.errors import ConfigError, DataError
from trivium.core.log import note
from trivium.nn.stored import load_module, save_module

FORMAT = "trivium-action-vae"
ACTIVE = 0.01
"""Variance of a latent's mean over chunks above which it says something (Burda et al., arxiv.org/abs/1509.00519)."""
FIRST_SPREAD = 0.1
"""Spread of the posterior before learning, in units of the prior's."""


class VaeConfig(Config):
    """A VAE of whole chunks. Paper: arxiv.org/abs/1312.6114; as a space for policies to act in: 2304.13705 (ACT)."""

    kind: Literal["vae"] = "vae"
    latent_dim: int = Field(default=16, ge=1, le=512)
    """Numbers that a chunk becomes; at most horizon x dimensions. Those that are not needed collapse to the prior."""
    beta: float = Field(default=1e-3, ge=0)
    """Weight of the KL divergence (nats, summed over latents) against the mean squared error over the chunks' variance.
    1e-4 to 1e-2; higher gives a smoother space and blurred chunks, in the end no active latent at all. (ACT's 10 is
    for a decoder that also sees the observation.)"""
    free_bits: float = Field(default=0.0, ge=0)
    """Bits a latent may hold uncharged, 0-2: keeps latents from collapsing. Paper: arxiv.org/abs/1606.04934."""

    def fit(self, chunks: Chunks, seed: int = 0) -> "ActionVae":
        """Learn from normalised chunks, in seconds; the same seed gives the same weights.

        Raises:
            ConfigError: more latents than numbers in a chunk.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        vae = cast(ActionVae, fitted(chunks, seed, self._make))
        active = vae.active_units(chunks)
        note(f"action VAE: {active} of {self.latent_dim} latents are active")
        return vae

    def _make(self, flat: Float[Tensor, "m z"], horizon: int) -> "ActionVae":
        vae = ActionVae(self, horizon, flat.shape[1] // horizon)
        vae.start(flat)
        scale = flat.var(0).mean().clamp(min=1e-8)

        def loss(batch: Float[Tensor, "m z"]) -> Float[Tensor, ""]:
            painted, divergence = vae(batch)
            return mean_error(painted, batch) / scale + self.beta * charge(divergence, self.free_bits)

        optimise(vae, flat, loss)
        return vae


def divergence_from_prior(mean: Float[Tensor, "m z"], log_variance: Float[Tensor, "m z"]) -> Float[Tensor, "m z"]:
    """Return KL(N(mean, variance) || N(0, 1)) of every latent of every chunk, in nats."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def charge(divergence: Float[Tensor, "m z"], free_bits: float) -> Float[Tensor, ""]:
    """Return the KL loss: mean over chunks, then the sum over latents of what lies above the free bits.

    The sum, not the mean: a mean over latents would lower beta by their number without a word.
    """
    return divergence.mean(0).clamp(min=free_bits * math.log(2)).sum()


class ActionVae(nn.Module):
    """Chunks to `latent_dim` numbers and back, by means alone; latents of 0 are the typical chunk."""

    def __init__(self, config: VaeConfig, horizon: int, action_dim: int) -> None:
        """Build with fresh weights.

        Raises:
            ConfigError: more latents than numbers in a chunk.
        """
        super().__init__()
        self.config, self.horizon, self.action_dim = config, horizon, action_dim
        size = horizon * action_dim
        if config.latent_dim > size:
            expected = f"at most {size}, the numbers of a chunk"
            raise ConfigError("vae.latent_dim", str(config.latent_dim), expected, "Lower vae.latent_dim.")
        self.down = Bent(size, 2 * config.latent_dim)
        self.up = Bent(config.latent_dim, size)

    def forward(self, flat: Float[Tensor, "m z"]) -> tuple[Float[Tensor, "m z"], Float[Tensor, "m y"]]:
        """Return flat chunks decoded from a draw of the posterior, and the divergence of every latent."""
        mean, log_variance = self.posterior(flat)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.up(drawn), divergence_from_prior(mean, log_variance)

    def posterior(self, flat: Float[Tensor, "m z"]) -> tuple[Float[Tensor, "m y"], Float[Tensor, "m y"]]:
        """Return mean and log variance of the latents of flat chunks."""
        mean, log_variance = self.down(flat).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    @torch.no_grad()
    def encode(self, chunks: Chunks) -> Float32[np.ndarray, "m y"]:
        """Return the mean latents of normalised chunks.

        Raises:
            DataError: another shape than the VAE was fitted on, or NaN or infinity.
        """
        return self.posterior(flatten(stacked(chunks, (self.horizon, self.action_dim))))[0].numpy()

    @torch.no_grad()
    def decode(self, latents: Float[np.ndarray, "m y"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of latents, within the limit whatever the latents are.

        Raises:
            DataError: another number of latents, or NaN or infinity.
        """
        wanted = self.config.latent_dim
        if latents.ndim != 2 or latents.shape[1] != wanted or not np.isfinite(latents).all():
            found = "NaN or infinity" if latents.shape[1:] == (wanted,) else f"shape {latents.shape}"
            expected = f"finite numbers, {wanted} a chunk"
            raise DataError("action latents", found, expected, "Decode what `encode` or a policy over it gave.")
        # Beyond this no chunk has ever been, and float32 would overflow on the way to the limit.
        tame = torch.from_numpy(latents.astype(np.float64).clip(-1e6, 1e6).astype(np.float32))
        return unflatten(self.up(tame), self.horizon)

    @torch.no_grad()
    def active_units(self, chunks: Chunks) -> int:
        """Return how many latents say anything about these chunks."""
        return int((np.var(self.encode(chunks), axis=0) > ACTIVE).sum())

    @torch.no_grad()
    def start(self, flat: Float[Tensor, "m z"]) -> None:
        """Begin as principal components of unit spread, with a narrow posterior."""
        mean, axes, spread = principal_axes(flat)
        count = self.config.latent_dim
        axes, spread = axes[:count], spread[:count].clamp(min=1e-4)
        weight = axes / spread[:, None]
        self.down.straight.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        spreads = torch.full((count,), 2 * math.log(FIRST_SPREAD))
        self.down.straight.bias.copy_(torch.cat([-weight @ mean, spreads]))
        self.up.straight.weight.copy_((axes * spread[:, None]).T)
        self.up.straight.bias.copy_(mean)

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        about = {"config": self.config.model_dump(mode="json"), "horizon": self.horizon, "action_dim": self.action_dim}
        save_module(path, FORMAT, self, about)

    @classmethod
    def load(cls, path: Path, horizon: int, action_dim: int) -> "ActionVae":
        """Read what `save` wrote, for chunks of this shape.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind, or of another robot or horizon.
        """
        vae = load_module(path, FORMAT, _build, "Fit it again: it takes seconds from the training chunks.")
        check_robot(str(path), (vae.horizon, vae.action_dim), (horizon, action_dim))
        return vae


def _build(about: dict[str, Any]) -> ActionVae:
    horizon, action_dim = about["horizon"], about["action_dim"]
    for size in (horizon, action_dim):
        if type(size) is not int or not 0 < size <= LONGEST:
            raise ValueError(f"chunks of {horizon!r} x {action_dim!r}")
    return ActionVae(parse(VaeConfig, about["config"], "config"), horizon, action_dim)
