"""What every action tokenizer offers: a chunk as whole numbers, and a chunk back from any of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.fft import dct

from trivium.core.errors import DataError
from trivium.core.files import write_json

VERSION = 2
"""Of every tokenizer file: 2 knows the robot and how far its actions reach."""
LONGEST = 4096
"""Most steps or dimensions of a chunk: a file that asks for more is damaged, and would take the memory."""

Ids = Sequence[int] | Int[np.ndarray, " _"]
"""The tokens of one chunk."""


@dataclass(frozen=True, eq=False)
class Robot:
    """Whose actions a tokenizer spells: the same ids mean other motions on another robot or under other statistics."""

    embodiment: str
    names: tuple[str, ...]
    """Dimensions of an action."""
    low: Float[np.ndarray, " a"]
    """What the normalisation maps to -1, in physical units."""
    high: Float[np.ndarray, " a"]
    """What it maps to 1."""

    def to_json(self) -> dict[str, Any]:
        """Return what a tokenizer file keeps of it."""
        low, high = (np.asarray(side, np.float64).tolist() for side in (self.low, self.high))
        return {"embodiment": self.embodiment, "names": list(self.names), "low": low, "high": high}


@dataclass(frozen=True, eq=False)
class Reach:
    """The shape of a robot's chunks, and how far each dimension goes in those that a tokenizer was fitted on.

    Decoded actions are kept within it, so that no sequence of ids commands what no demonstration ever did.
    """

    horizon: int
    low: Float64[np.ndarray, " a"]
    high: Float64[np.ndarray, " a"]

    @classmethod
    def of(cls, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"], limit: float) -> "Reach":
        """Measure chunks; what lies beyond `limit` is not within reach.

        Raises:
            DataError: there are none, they differ in shape, have no steps, or one holds NaN or infinity.
        """
        if not len(chunks):
            raise DataError("fit of an action tokenizer", "no chunks", "at least one", "Give a source with actions.")
        shape = np.shape(chunks[0])
        if len(shape) != 2 or not 1 <= min(shape) <= max(shape) <= LONGEST:
            expected = f"steps x dimensions, 1 to {LONGEST} of each"
            raise DataError("action chunk 0", f"shape {shape}", expected, "Change the horizon of the source.")
        flat = stack(chunks, shape[0], shape[1], numbered=True).reshape(-1, shape[1])
        low, high = (side.astype(np.float64).clip(-limit, limit) for side in (flat.min(0), flat.max(0)))
        return cls(shape[0], low, high)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reach":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not what it wrote.
        """
        low, high = (np.asarray(data[name], np.float64) for name in ("low", "high"))
        horizon, shaped = data["horizon"], low.ndim == 1 and low.shape == high.shape and 0 < len(low) <= LONGEST
        if type(horizon) is not int or not 0 < horizon <= LONGEST or not shaped:
            raise ValueError(f"horizon {horizon!r} with reach of shapes {low.shape} and {high.shape}")
        if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise ValueError("a reach that is not finite, or upside down")
        return cls(horizon, low, high)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back exactly."""
        return {"horizon": self.horizon, "low": self.low.tolist(), "high": self.high.tolist()}

    @property
    def action_dim(self) -> int:
        """Dimensions of an action."""
        return len(self.low)

    @property
    def limit(self) -> float:
        """The farthest that any dimension goes, either way."""
        return float(np.abs([self.low, self.high]).max())

    @property
    def size(self) -> int:
        """Numbers in a chunk."""
        return self.horizon * self.action_dim

    def clip(self, actions: Float[np.ndarray, "m k a"]) -> Float32[np.ndarray, "m k a"]:
        """Bring actions within reach."""
        return actions.clip(self.low, self.high).astype(np.float32)


class Table:
    """What each id stands for: a run of numbers, of any length."""

    def __init__(self, runs: Iterable[Sequence[float]]) -> None:
        """Lay the runs end to end."""
        runs = list(runs)
        self.length = np.array([len(run) for run in runs], np.int64)
        self.begin = np.cumsum(self.length) - self.length
        self.values = np.array(list(chain.from_iterable(runs)))

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.length)

    def spell(
        self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"], size: int
    ) -> tuple[Float[np.ndarray, "m z"] | Int[np.ndarray, "m z"], Bool[np.ndarray, " m"]]:
        """Return the `size` numbers of every sequence and whether it stood for exactly so many.

        Missing numbers are 0, surplus ones are cut before anything is allocated for them.

        Raises:
            DataError: an id that is not in the table.
        """
        sequences = list(sequences)
        count = np.fromiter(map(len, sequences), np.int64, len(sequences))
        ids = np.fromiter(chain.from_iterable(sequences), np.int64, int(count.sum()))
        outside = (ids < 0) | (ids >= len(self))
        if outside.any():
            found = str(ids[outside.argmax()])
            raise DataError("action token", found, f"0..{len(self) - 1}", "Subtract the first extra id before it.")
        length, owner = self.length[ids], np.repeat(np.arange(len(sequences)), count)
        begin = np.cumsum(length) - length  # of each token, over all sequences
        ends = np.concatenate([[0], np.cumsum(length)])[np.concatenate([[0], np.cumsum(count)])]
        begin = begin - ends[:-1][owner]  # ... within its own sequence
        kept = begin < size
        ids, length, begin, owner = ids[kept], np.minimum(length[kept], size - begin[kept]), begin[kept], owner[kept]
        ahead = np.cumsum(length) - length
        place = np.arange(int(length.sum()))
        numbers = np.zeros(len(sequences) * size, self.values.dtype)
        numbers[np.repeat(owner * size + begin - ahead, length) + place] = self.values[
            np.repeat(self.begin[ids] - ahead, length) + place
        ]
        return numbers.reshape(len(sequences), size), np.diff(ends) == size


class ActionTokenizer(ABC):
    """Chunks of normalised actions as ids in 0..`vocab_size` - 1.

    The shape belongs to the tokenizer, not to its last call. Every sequence of ids decodes to a finite chunk within
    `limit`; a sequence that stood for too few or too many numbers is mended and counted in `num_repaired`.
    """

    FORMAT: ClassVar[str]
    """What the first field of its file says."""
    horizon: int
    """Steps in a chunk."""
    action_dim: int
    limit: float
    """Decoded actions stay within this, both ways, in normalised units."""
    num_repaired: int

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""

    @abstractmethod
    def encode(self, chunk: Float[np.ndarray, "k a"]) -> list[int]:
        """Return the tokens of a normalised chunk.

        Raises:
            DataError: another shape than the tokenizer was made for, or NaN or infinity.
        """

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> Float32[np.ndarray, "k a"]:
        """Return the chunk of any sequence of ids.

        Raises:
            DataError: an id that is not in the vocabulary.
        """

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> list[list[int]]:
        """Encode many chunks; a tokenizer that is faster on many at once says how."""
        return [self.encode(chunk) for chunk in chunks]

    def decode_all(self, sequences: Iterable[Iterable[int]]) -> Float32[np.ndarray, "m k a"]:
        """Decode many sequences."""
        return np.stack([self.decode(tokens) for tokens in sequences])

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what its class builds an equal tokenizer from: `from_json` of every class reads it back."""

    def save(self, path: Path, robot: Robot) -> None:
        """Write one file, whole or not at all; `robot` is whose chunks it was fitted on."""
        head = {"format": self.FORMAT, "version": VERSION, "robot": robot.to_json()}
        write_json(path, head | self.to_json())


class TableTokenizer(ActionTokenizer):
    """A tokenizer whose ids each stand for a run of numbers; it works on many chunks at once."""

    def __init__(self, reach: Reach) -> None:
        """Take the shape over."""
        self.reach = reach
        self.horizon, self.action_dim, self.limit = reach.horizon, reach.action_dim, reach.limit
        self.num_repaired = 0

    def encode(self, chunk: Float[np.ndarray, "k a"]) -> list[int]:
        """Return the tokens of a normalised chunk.

        Raises:
            DataError: another shape than the tokenizer was made for, or NaN or infinity.
        """
        return self.encode_all([chunk])[0]

    def decode(self, tokens: Iterable[int]) -> Float32[np.ndarray, "k a"]:
        """Return the chunk of any sequence of ids: missing numbers are zero, surplus ones are cut, both counted.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return self.decode_all([list(tokens)])[0]

    def checked(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> np.ndarray:
        """Return chunks as one array.

        Raises:
            DataError: another shape than the tokenizer was made for, or NaN or infinity.
        """
        return stack(chunks, self.horizon, self.action_dim, numbered=len(chunks) > 1)


class NumberTokenizer(TableTokenizer):
    """One id a number, in the order of the steps; each id stands for one value, and out-of-range numbers are clipped.

    A missing number decodes as 0, the middle of the range.
    """

    def __init__(self, reach: Reach, values: Float64[np.ndarray, " v"]) -> None:
        """Hold what every id stands for."""
        super().__init__(reach)
        self._table = Table(values[:, None].tolist())

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return len(self._table)

    @abstractmethod
    def bin(self, numbers: Float64[np.ndarray, "m z"]) -> Int[np.ndarray, "m z"]:
        """Return the id of every number."""

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the tokenizer was made for, or NaN or infinity.
        """
        numbers = self.checked(chunks).reshape(-1, self.reach.size).astype(np.float64)
        return self.bin(numbers).tolist()

    def decode_all(self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        numbers, whole = self._table.spell(sequences, self.reach.size)
        self.num_repaired += int((~whole).sum())
        return self.reach.clip(numbers.reshape(-1, self.horizon, self.action_dim))


def stack(
    chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"],
    horizon: int,
    action_dim: int,
    numbered: bool,
) -> Float[np.ndarray, "m k a"]:
    """Return chunks as one array; `numbered` names the place of a bad one.

    Raises:
        DataError: a chunk of another shape, or with NaN or infinity.
    """
    if not isinstance(chunks, np.ndarray):
        chunks = [np.asarray(chunk) for chunk in chunks]
    for i, chunk in enumerate(chunks[:1] if isinstance(chunks, np.ndarray) else chunks):
        if chunk.shape != (horizon, action_dim):
            raise DataError(
                f"action chunk {i}" if numbered else "action chunk",
                f"shape {chunk.shape}",
                f"({horizon}, {action_dim}), steps x dimensions",
                "Use one horizon in the source, the action tokenizer and the action head, one tokenizer a robot.",
            )
    many = np.reshape(np.asarray(chunks), (-1, horizon, action_dim))
    if not np.isfinite(many).all():
        i, step, dim = (int(place) for place in np.argwhere(~np.isfinite(many))[0])
        raise DataError(
            f"action chunk {i}" if numbered else "action chunk",
            f"{many[i, step, dim]} at step {step}, dimension {dim}",
            "finite numbers",
            "Mend or drop the episode; nothing is filled in.",
        )
    return many


def cosines(horizon: int) -> Float64[np.ndarray, "k k"]:
    """Return the orthonormal cosine transform (DCT-II) over time; its transpose goes back."""
    return cast(np.ndarray, dct(np.eye(horizon), axis=0, norm="ortho"))


def along_time(
    matrix: Float64[np.ndarray, "j k"], chunks: Float64[np.ndarray, "m k a"]
) -> Float64[np.ndarray, "m j a"]:
    """Multiply every chunk from the left, all of them in one product."""
    wide = chunks.transpose(1, 0, 2).reshape(len(matrix), -1)
    return (matrix @ wide).reshape(len(matrix), len(chunks), -1).transpose(1, 0, 2)
