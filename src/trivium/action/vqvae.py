"""Action chunks as ids of learned codes: VQ-VAE, its residual form, and FSQ."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from pydantic import Field
from torch import Tensor, nn

from trivium.action.autoencoder import Bent, Chunks, fitted, flatten, from_text, optimise, principal_axes, to_json
from trivium.action.tokenizer import LONGEST, Ids, Reach, Table, TableTokenizer
from trivium.core.config import Config, parse
from trivium.core.errors import ConfigError
from trivium.nn.codebook import COMMITMENT, VqConfig
from trivium.nn.fsq import FsqConfig
from trivium.nn.quantizer import Quantizer

HELD_OUT = 10
"""One chunk in so many is not learned from: it says whether learning has made anything better."""
START = 16_384
"""Chunks that the first codes are found from."""


class VqVaeConfig(Config):
    """Learned codes of whole chunks. Papers: arxiv.org/abs/1711.00937 (VQ-VAE), 2403.03181 (VQ-BeT), 2309.15505."""

    kind: Literal["vq"] = "vq"
    quantizer: Annotated[VqConfig | FsqConfig, Field(discriminator="kind")] = VqConfig(size=256, num_levels=2)
    """What rounds a vector: codebooks in a row (vq) or a fixed grid (fsq). A codebook for every vector and level."""
    num_vectors: int = Field(default=4, ge=1, le=256)
    """Vectors a chunk is split into, 1-16; `num_vectors` x levels tokens a chunk, always. More are more exact."""

    def fit(self, chunks: Chunks, seed: int = 0) -> "VqVaeTokenizer":
        """Learn codes from normalised chunks, in seconds; the same seed gives the same codes.

        Raises:
            ConfigError: a quantizer that does not work, or more weights than a file may hold.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        return VqVaeTokenizer(self, *fitted(chunks, seed, self.build, _learn))

    def build(self, reach: Reach) -> "ChunkCoder":
        """Build with fresh weights.

        Raises:
            ConfigError: a quantizer that does not work.
        """
        num_levels = self.quantizer.num_levels if isinstance(self.quantizer, VqConfig) else 1
        if self.num_vectors * num_levels > LONGEST:
            found = f"{num_levels:,} levels x {self.num_vectors} vectors"
            raise ConfigError("vq.quantizer.num_levels", found, f"at most {LONGEST} tokens a chunk", "Lower either.")
        return ChunkCoder(self, reach.size)


def _learn(coder: "ChunkCoder", flat: Float[Tensor, "m z"]) -> None:
    unseen = flat[::HELD_OUT] if len(flat) >= 10 * HELD_OUT else flat
    flat = flat[torch.arange(len(flat)) % HELD_OUT > 0] if len(flat) >= 10 * HELD_OUT else flat
    coder.start(flat)
    before, linear = copy.deepcopy(coder.state_dict()), coder.error(unseen)
    scale = flat.var(0, correction=0).mean().clamp(min=1e-8)  # shares of the spread: one learning rate for all robots

    def loss(batch: Float[Tensor, "m z"]) -> Float[Tensor, ""]:
        painted, commitment = coder(batch)
        return (F.mse_loss(painted, batch) + COMMITMENT * commitment) / scale

    optimise(coder, flat, loss)
    if not coder.error(unseen) <= linear:  # also where it has run away
        coder.load_state_dict(before)


class ChunkCoder(nn.Module):
    """Encoder, a quantizer for each of several vectors, decoder; chunks are flat here.

    It starts as a transform code: the principal axes of the chunks, dealt out to the vectors so that each gets its
    share of the spread, and codes by k-means. Learning bends that, and is taken back where it made things worse.
    """

    def __init__(self, config: VqVaeConfig, size: int) -> None:
        """Build with fresh weights for chunks of `size` numbers."""
        super().__init__()
        self.grid = isinstance(config.quantizer, FsqConfig)
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

    def error(self, flat: Float[Tensor, "m z"]) -> float:
        """Return the mean squared error of chunks sent through their ids."""
        return float(F.mse_loss(self.decode(self.encode(flat)), flat))

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
            scale = 1 / float(spread[place].clamp(min=1e-4)) if self.grid else 1.0
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


class VqVaeTokenizer(TableTokenizer):
    """Every chunk is the same number of ids, coarse before fine; half a sequence decodes to a blurred chunk.

    An id that is missing adds nothing and one too many is cut, both counted in `num_repaired`. Its file holds the
    weights as base64 text: one JSON file as of every tokenizer, with one check of whose it is, and no second format
    to guard; it costs a third more bytes than safetensors, of a megabyte.
    """

    FORMAT: ClassVar[str] = "trivium-vq"

    def __init__(self, config: VqVaeConfig, reach: Reach, coder: ChunkCoder) -> None:
        """Wrap a fitted coder; `VqVaeConfig.fit` and `from_json` are the ways to get one."""
        super().__init__(reach)
        self.config, self.coder = config, coder
        self._table = Table([i + 1] for i in range(coder.vocab_size))  # what is missing comes out as 0, no id

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return self.coder.vocab_size

    @property
    def num_tokens(self) -> int:
        """Ids of a chunk."""
        return self.coder.num_tokens

    def encode_all(self, chunks: Chunks) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the codes were fitted on, or NaN or infinity.
        """
        return self.coder.encode(flatten(self.checked(chunks))).tolist()

    def decode_all(self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        ids, whole = self._table.spell(sequences, self.num_tokens)
        self.num_repaired += int((~whole).sum())
        flat = self.coder.decode(torch.from_numpy(ids - 1)).numpy()
        return self.reach.clip(flat.reshape(-1, self.horizon, self.action_dim))

    def to_json(self) -> dict[str, Any]:
        """Return the settings, the reach and the weights."""
        return to_json(self.config, self.reach, self.coder)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "VqVaeTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: settings that nobody could have fitted.
            ValueError: not what it wrote.
        """
        config, reach = parse(VqVaeConfig, data["config"], "config"), Reach.from_json(data["reach"])
        return cls(config, reach, from_text(lambda: config.build(reach), data["weights"]))
