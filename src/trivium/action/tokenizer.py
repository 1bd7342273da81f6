"""What every action tokenizer offers: a chunk as whole numbers, and a chunk back from any of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32


class ActionTokenizer(ABC):
    """Chunks of normalised actions as ids in 0..`vocab_size` - 1.

    The shape belongs to the tokenizer, not to its last call. Every sequence of ids decodes to a finite chunk within
    `limit`; a sequence that stood for too few or too many numbers is mended and counted in `num_repaired`.
    """

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

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]]) -> list[list[int]]:
        """Encode many chunks; a tokenizer that is faster on many at once says how."""
        return [self.encode(chunk) for chunk in chunks]

    def decode_all(self, sequences: Iterable[Iterable[int]]) -> Float32[np.ndarray, "m k a"]:
        """Decode many sequences."""
        return np.stack([self.decode(tokens) for tokens in sequences])

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write one file, whole or not at all."""
