"""A variational autoencoder of action chunks: a few continuous numbers in place of a chunk.

Not a tokenizer: its latents are no ids, so no vocabulary can hold them. They are a space for policies to act in and a
yardstick for codes: as many numbers as a chunk really needs.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn

from trivium.action.autoencoder import Bent, Chunks, fitted, flatten, from_text, optimise, principal_axes, to_json
from trivium.action.cvae import kl_to_normal
from trivium.action.tokenizer import VERSION, Reach, Robot, stack
from trivium.core.config import Config, parse
from trivium.core.errors import ConfigError, DataError
from trivium.core.files import write_json

ACTIVE = 0.01
"""Variance of a latent's mean over chunks above which it says something (Burda et al., arxiv.org/abs/1509.00519)."""
FIRST_SPREAD = 0.1
"""Spread of the posterior before learning, in units of the prior's."""


class VaeConfig(Config):
    """A VAE of whole chunks. Paper: arxiv.org/abs/1312.6114; as a space for policies to act in: 2304.13705 (ACT)."""

    kind: Literal["vae"] = "vae"
    latent_dim: int = Field(default=16, ge=1, le=512)
    """Numbers that a chunk becomes; at most horizon x dimensions. Those that are not needed collapse to the prior."""
    beta: float = Field(default=1e-3, ge=0, le=1e4)
    """Weight of the KL divergence (nats, summed over latents) against the mean squared error over the chunks' variance.
    1e-4 to 1e-2; higher gives a smoother space and blurred chunks, in the end no active latent at all. (ACT's 10 is
    for a decoder that also sees the observation.)"""
    free_bits: float = Field(default=0.0, ge=0, le=100)
    """Bits a latent may hold uncharged, 0-2: keeps latents from collapsing. Paper: arxiv.org/abs/1606.04934."""

    def fit(self, chunks: Chunks, seed: int = 0) -> "ActionVae":
        """Learn from normalised chunks, in seconds; the same seed gives the same weights.

        Raises:
            ConfigError: more latents than numbers in a chunk, or more weights than a file may hold.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """

        def learn(network: VaeNetwork, flat: Float[Tensor, "m z"]) -> None:
            network.start(flat)
            scale = flat.var(0, correction=0).mean().clamp(min=1e-8)

            def loss(batch: Float[Tensor, "m z"]) -> Float[Tensor, ""]:
                painted, divergence = network(batch)
                return F.mse_loss(painted, batch) / scale + self.beta * charge(divergence, self.free_bits)

            optimise(network, flat, loss)

        return ActionVae(self, *fitted(chunks, seed, self.build, learn))

    def build(self, reach: Reach) -> "VaeNetwork":
        """Build with fresh weights.

        Raises:
            ConfigError: more latents than numbers in a chunk.
        """
        if self.latent_dim > reach.size:
            expected = f"at most {reach.size}, the numbers of a chunk"
            raise ConfigError("vae.latent_dim", str(self.latent_dim), expected, "Lower vae.latent_dim.")
        return VaeNetwork(self.latent_dim, reach.size)


def charge(divergence: Float[Tensor, "m z"], free_bits: float) -> Float[Tensor, ""]:
    """Return the KL loss: mean over chunks, then the sum over latents of what lies above the free bits.

    The sum, not the mean: a mean over latents would lower beta by their number without a word.
    """
    return divergence.mean(0).clamp(min=free_bits * math.log(2)).sum()


class VaeNetwork(nn.Module):
    """Encoder and decoder; chunks are flat here."""

    def __init__(self, latent_dim: int, size: int) -> None:
        """Build with fresh weights for chunks of `size` numbers."""
        super().__init__()
        self.latent_dim = latent_dim
        self.down = Bent(size, 2 * latent_dim)
        self.up = Bent(latent_dim, size)

    def forward(self, flat: Float[Tensor, "m z"]) -> tuple[Float[Tensor, "m z"], Float[Tensor, "m y"]]:
        """Return flat chunks decoded from a draw of the posterior, and the divergence of every latent."""
        mean, log_variance = self.posterior(flat)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.up(drawn), kl_to_normal(mean, log_variance)

    def posterior(self, flat: Float[Tensor, "m z"]) -> tuple[Float[Tensor, "m y"], Float[Tensor, "m y"]]:
        """Return mean and log variance of the latents of flat chunks."""
        mean, log_variance = self.down(flat).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    @torch.no_grad()
    def start(self, flat: Float[Tensor, "m z"]) -> None:
        """Begin as principal components of unit spread, with a narrow posterior."""
        mean, axes, spread = principal_axes(flat)
        axes, spread = axes[: self.latent_dim], spread[: self.latent_dim].clamp(min=1e-4)
        weight = axes / spread[:, None]
        self.down.straight.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        spreads = torch.full((self.latent_dim,), 2 * math.log(FIRST_SPREAD))
        self.down.straight.bias.copy_(torch.cat([-weight @ mean, spreads]))
        self.up.straight.weight.copy_((axes * spread[:, None]).T)
        self.up.straight.bias.copy_(mean)


class ActionVae:
    """Chunks to `latent_dim` numbers and back, by means alone; latents of 0 are the typical chunk.

    Every latent vector decodes to a finite chunk within reach. A file is opened by `choice.open_vae`.
    """

    FORMAT: ClassVar[str] = "trivium-vae"

    def __init__(self, config: VaeConfig, reach: Reach, network: VaeNetwork) -> None:
        """Wrap a fitted network; `VaeConfig.fit` and `from_json` are the ways to get one."""
        self.config, self.reach, self.network = config, reach, network
        self.horizon, self.action_dim, self.latent_dim = reach.horizon, reach.action_dim, config.latent_dim

    def encode(self, chunks: Chunks) -> Float32[np.ndarray, "m y"]:
        """Return the mean latents of normalised chunks.

        Raises:
            DataError: another shape than the VAE was fitted on, or NaN or infinity.
        """
        many = stack(chunks, self.horizon, self.action_dim, numbered=True)
        with torch.no_grad():
            return self.network.posterior(flatten(many))[0].numpy()

    def decode(self, latents: Float[np.ndarray, "m y"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of latents, within reach whatever the latents are.

        Raises:
            DataError: another number of latents, or NaN or infinity.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim or not np.isfinite(latents).all():
            found = "NaN or infinity" if latents.shape[1:] == (self.latent_dim,) else f"shape {latents.shape}"
            expected = f"finite numbers, {self.latent_dim} a chunk"
            raise DataError("action latents", found, expected, "Decode what `encode` or a policy over it gave.")
        # Beyond this no chunk has ever been, and float32 would overflow on the way to the limit.
        tame = torch.from_numpy(latents.astype(np.float64).clip(-1e6, 1e6).astype(np.float32))
        with torch.no_grad():
            flat = self.network.up(tame).numpy()
        return self.reach.clip(flat.reshape(-1, self.horizon, self.action_dim))

    def active_units(self, chunks: Chunks) -> int:
        """Return how many latents say anything about these chunks."""
        return int((np.var(self.encode(chunks), axis=0) > ACTIVE).sum())

    def to_json(self) -> dict[str, Any]:
        """Return the settings, the reach and the weights."""
        return to_json(self.config, self.reach, self.network)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ActionVae":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: settings that nobody could have fitted.
            ValueError: not what it wrote.
        """
        config, reach = parse(VaeConfig, data["config"], "config"), Reach.from_json(data["reach"])
        return cls(config, reach, from_text(lambda: config.build(reach), data["weights"]))

    def save(self, path: Path, robot: Robot) -> None:
        """Write one file, whole or not at all; `robot` is whose chunks it was fitted on."""
        head = {"format": self.FORMAT, "version": VERSION, "robot": robot.to_json()}
        write_json(path, head | self.to_json())
