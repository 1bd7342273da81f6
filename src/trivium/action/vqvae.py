"""Action chunks as ids of learned codes: VQ-VAE, its residual form, and FSQ."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import Field
from torch import Tensor, nn

from trivium.action.autoencoder import (
    LIMIT,
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
from trivium.action.tokenizer import ActionTokenizer
from trivium.core.config import Config, parse
from trivium.core.errors import DataError
from trivium.nn.codebook import COMMITMENT, VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.nn.quantizer import Quantizer
from trivium.nn.stored import load_module, save_module

FORMAT = "trivium-vqvae"
START = 16_384
"""Chunks that the first codes are found from."""


class VqVaeConfig(Config):
    """Learned codes of whole chunks. Papers: arxiv.org/abs/1711.00937 (VQ-VAE), 2403.03181 (VQ-BeT), 2309.15505."""

    kind: Literal["vqvae"] = "vqvae"
    quantizer: Annotated[VqConfig | FsqConfig, Field(discriminator="kind")] = VqConfig(size=256, num_levels=2)
    """What rounds a vector: codebooks in a row (vq) or a fixed grid (fsq). A codebook for every vector and level."""
    num_vectors: int = Field(default=4, ge=1, le=256)
    """Vectors a chunk is split into, 1-16; `num_vectors` x levels tokens a chunk, always. More are more exact."""

    def fit(self, chunks: Chunks, seed: int = 0) -> "VqVaeTokenizer":
        """Learn codes from normalised chunks, in seconds; the same seed gives the same codes.

        Raises:
            ConfigError: a quantizer that does not work.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        return VqVaeTokenizer(cast(ChunkCoder, fitted(chunks, seed, self._make)))

    def _make(self, flat: Float[Tensor, "m z"], horizon: int) -> "ChunkCoder":
        coder = ChunkCoder(self, horizon, flat.shape[1] // horizon)
        coder.start(flat)
        scale = flat.var(0).mean().clamp(min=1e-8)  # errors as shares of the spread: one learning rate for all robots

        def loss(batch: Float[Tensor, "m z"]) -> Float[Tensor, ""]:
            painted, commitment = coder(batch)
            return (mean_error(painted, batch) + COMMITMENT * commitment) / scale

        optimise(coder, flat, loss)
        return coder


class ChunkCoder(nn.Module):
    """Encoder, a quantizer for each of several vectors, decoder; chunks are flat here.

    It starts as a transform code: the principal axes of the chunks, dealt out to the vectors so that each gets its
    share of the spread, and codes by k-means. Learning bends that.
    """

    def __init__(self, config: VqVaeConfig, horizon: int, action_dim: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.config, self.horizon, self.action_dim = config, horizon, action_dim
        size = horizon * action_dim
        width = -(-size // config.num_vectors)
        self.quantizers = nn.ModuleList(config.quantizer.build(width) for _ in range(config.num_vectors))
        first = self.parts[0]
        self.width, self.num_levels, self.vocab_size = first.width, first.num_levels, first.size
        self.down = Bent(size, config.num_vectors * self.width)
        self.up = Bent(config.num_vectors * self.width, size)

    @property
    def parts(self) -> list[Quantizer]:
        """The quantizers, one a vector."""
        return [cast(Quantizer, part) for part in self.quantizers]

    @property
    def num_tokens(self) -> int:
        """Ids of a chunk."""
        return len(self.quantizers) * self.num_levels

    def forward(self, flat: Float[Tensor, "m z"]) -> tuple[Float[Tensor, "m z"], Float[Tensor, ""]]:
        """Return chunks decoded again and the mean commitment; in training mode codes move."""
        rounded = [part(vector) for part, vector in zip(self.parts, self._split(self.down(flat)), strict=True)]
        painted = self.up(torch.cat([one.vectors for one in rounded], 1))
        return painted, torch.stack([one.commitment for one in rounded]).mean()

    @torch.no_grad()
    def encode(self, flat: Float[Tensor, "m z"]) -> Int[Tensor, "m t"]:
        """Return ids, the coarse level of all vectors first."""
        ids = [part.encode(vector) for part, vector in zip(self.parts, self._split(self.down(flat)), strict=True)]
        return torch.stack(ids, 2).flatten(1)

    @torch.no_grad()
    def decode(self, ids: Int[Tensor, "m t"]) -> Float[Tensor, "m z"]:
        """Return chunks of ids; an id of -1 is one that nobody said."""
        by_vector = ids.unflatten(1, (self.num_levels, -1)).unbind(2)
        return self.up(torch.cat([part.lookup(own) for part, own in zip(self.parts, by_vector, strict=True)], 1))

    @torch.no_grad()
    def start(self, flat: Float[Tensor, "m z"]) -> None:
        """Set the linear maps to the principal axes, find the first codes, and fit the way back to them."""
        mean, axes, spread = principal_axes(flat)
        vectors, room = len(self.quantizers), self.down.straight.out_features
        for place in range(min(len(axes), room)):
            row, column = divmod(place, vectors)
            if row % 2:  # there and back, or the first vector would have the widest axis of every row
                column = vectors - 1 - column
            # A grid has a fixed size, so each axis is brought to it; codebooks keep their distances.
            scale = 1.0 if isinstance(self.config.quantizer, VqConfig) else 1 / float(spread[place].clamp(min=1e-4))
            self.down.straight.weight[column * self.width + row] = axes[place] * scale
            self.down.straight.bias[column * self.width + row] = -(axes[place] * mean).sum() * scale
        if room > len(axes):
            used = self.down.straight.weight.abs().sum(1) > 0
            self.down.straight.weight[~used] = 0.0
            self.down.straight.bias[~used] = 0.0
        some = flat[torch.randperm(len(flat))[:START]]
        self.train()
        rounded = [part(vector).vectors for part, vector in zip(self.parts, self._split(self.down(some)), strict=True)]
        codes = torch.cat(rounded, 1).double()
        # Least squares, pulled a little to zero: axes along which nothing ever moves have no answer of their own.
        center, target = codes.mean(0), some.double()
        square = (codes - center).T @ (codes - center) / len(some)
        square += 1e-6 * square.diagonal().mean().clamp(min=1e-12) * torch.eye(len(square), dtype=torch.float64)
        cross = (codes - center).T @ (target - target.mean(0)) / len(some)
        weight = torch.linalg.solve(square, cross)
        self.up.straight.weight.copy_(weight.T)
        self.up.straight.bias.copy_(target.mean(0) - center @ weight)

    def _split(self, latent: Float[Tensor, "m y"]) -> Sequence[Float[Tensor, "m d"]]:
        return latent.split(self.width, 1)


class VqVaeTokenizer(ActionTokenizer):
    """Every chunk is the same number of ids, coarse before fine; half a sequence decodes to a blurred chunk.

    An id that is missing adds nothing and one too many is cut, both counted in `num_repaired`.
    """

    def __init__(self, coder: ChunkCoder) -> None:
        """Wrap a fitted coder; `VqVaeConfig.fit` and `load` are the ways to get one."""
        self.coder = coder.eval().requires_grad_(False)
        self.horizon, self.action_dim, self.limit = coder.horizon, coder.action_dim, LIMIT
        self.num_repaired = 0

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return self.coder.vocab_size

    @property
    def num_tokens(self) -> int:
        """Ids of a chunk."""
        return self.coder.num_tokens

    def encode(self, chunk: Float[np.ndarray, "k a"]) -> list[int]:
        """Return the tokens of a normalised chunk.

        Raises:
            DataError: another shape than the codes were fitted on, or NaN or infinity.
        """
        return self.encode_all([chunk])[0]

    def decode(self, tokens: Iterable[int]) -> Float32[np.ndarray, "k a"]:
        """Return the chunk of any sequence of ids.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return self.decode_all([tokens])[0]

    def encode_all(self, chunks: Chunks) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the codes were fitted on, or NaN or infinity.
        """
        many = stacked(chunks, (self.horizon, self.action_dim))
        return self.coder.encode(flatten(many)).tolist()

    def decode_all(self, sequences: Iterable[Iterable[int]]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        rows = [list(tokens) for tokens in sequences]
        ids = np.full((len(rows), self.num_tokens), -1, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            for token in tokens:
                if not 0 <= token < self.vocab_size:
                    expected = f"0..{self.vocab_size - 1}"
                    raise DataError("action token", str(token), expected, "Subtract the first extra id before it.")
            row[: len(tokens)] = tokens[: self.num_tokens]
            self.num_repaired += len(tokens) != self.num_tokens
        return unflatten(self.coder.decode(torch.from_numpy(ids)), self.horizon)

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        about = {"config": self.coder.config.model_dump(mode="json")}
        about |= {"horizon": self.horizon, "action_dim": self.action_dim}
        save_module(path, FORMAT, self.coder, about)

    @classmethod
    def load(cls, path: Path, horizon: int, action_dim: int) -> "VqVaeTokenizer":
        """Read what `save` wrote, for chunks of this shape.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind, or of another robot or horizon.
        """
        coder = load_module(path, FORMAT, _build, "Fit it again: it takes seconds from the training chunks.")
        check_robot(str(path), (coder.horizon, coder.action_dim), (horizon, action_dim))
        return cls(coder)


def _build(about: dict[str, Any]) -> ChunkCoder:
    horizon, action_dim = about["horizon"], about["action_dim"]
    for size in (horizon, action_dim):
        if type(size) is not int or not 0 < size <= LONGEST:
            raise ValueError(f"chunks of {horizon!r} x {action_dim!r}")
    return ChunkCoder(parse(VqVaeConfig, about["config"], "config"), horizon, action_dim)
