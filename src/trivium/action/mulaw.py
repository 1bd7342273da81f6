"""Mu-law bins: fine near zero, coarse far out, as Gato spells numbers of unknown scale."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from pydantic import Field

from trivium.action.tokenizer import NumberTokenizer, Reach
from trivium.core.config import Config

MU = 100.0
"""How strongly numbers near zero are favoured; Gato's."""


class MulawConfig(Config):
    """Mu-law bins: horizon x dimensions ids a chunk, most of them for small numbers."""

    kind: Literal["mulaw"] = "mulaw"
    num_bins: int = Field(default=1024, ge=4, le=65536)
    """Ids; 1024 in Gato."""
    limit: float = Field(default=256.0, gt=0, le=1e6)
    """The largest number that has a bin, either way. Gato's 256 is for numbers of any scale and leaves 45 % of the ids
    to normalised actions; 1.5 gives them all, and their errors shrink by half."""

    def fit(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> "MulawTokenizer":
        """Take the shape and the reach of normalised chunks over; the bins themselves are fixed.

        Raises:
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        return MulawTokenizer(Reach.of(chunks, self.limit), self.num_bins, self.limit)


class MulawTokenizer(NumberTokenizer):
    """Companding, then uniform bins (Gato, https://arxiv.org/abs/2205.06175, where the limit is called M).

    F(x) = sign(x) log(mu |x| + 1) / log(mu M + 1); id = floor((F + 1) / 2 * bins). An id decodes to the centre of its
    bin under F. Gato bins actions that are already in [-1, 1] without companding; that is kind "bins" here.
    """

    FORMAT: ClassVar[str] = "trivium-mulaw"

    def __init__(self, reach: Reach, num_bins: int, limit: float) -> None:
        """Lay the bins; `limit` is Gato's M, and the tokenizer's own limit is what the robot reaches within it."""
        self.num_bins, self.largest = num_bins, limit
        self._whole = np.log(MU * limit + 1)
        centre = (2 * np.arange(num_bins) + 1 - num_bins) / num_bins
        super().__init__(reach, np.sign(centre) * np.expm1(np.abs(centre) * self._whole) / MU)

    def bin(self, numbers: Float64[np.ndarray, "m z"]) -> Int[np.ndarray, "m z"]:
        """Return the id of every number."""
        squeezed = np.sign(numbers) * np.log(MU * np.abs(numbers) + 1) / self._whole
        return np.floor((squeezed.clip(-1, 1) + 1) / 2 * self.num_bins).clip(0, self.num_bins - 1).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the reach and the settings."""
        return {"reach": self.reach.to_json(), "num_bins": self.num_bins, "limit": self.largest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "MulawTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: settings that nobody could have fitted.
            ValueError: not what it wrote.
        """
        config = MulawConfig(num_bins=data["num_bins"], limit=data["limit"])
        return cls(Reach.from_json(data["reach"]), config.num_bins, config.limit)
