"""Uniform bins: every number of a chunk is one of 256 ids, as in RT-1 and OpenVLA."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from pydantic import Field

from trivium.action.tokenizer import NumberTokenizer, Reach
from trivium.core.config import Config

Convention = Literal["openvla", "rt1"]


class BinsConfig(Config):
    """Uniform bins over the normalised range [-1, 1]: horizon x dimensions ids a chunk, what lies beyond is clipped."""

    kind: Literal["bins"] = "bins"
    convention: Convention = "openvla"
    """"openvla" decodes to the centre of a bin, and 0 stays 0; "rt1" rounds down, so motions decode half a bin low."""
    num_bins: int = Field(default=256, ge=3, le=65536)
    """Ids. 256 in both papers; the error of a number is at most 1 / (num_bins - 1), twice that for "rt1"."""

    def fit(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> "BinsTokenizer":
        """Take the shape and the reach of normalised chunks over; the bins themselves are fixed.

        Raises:
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        return BinsTokenizer(Reach.of(chunks, 1.0), self.convention, self.num_bins)


class BinsTokenizer(NumberTokenizer):
    """Fixed bins of one width.

    RT-1 (https://arxiv.org/abs/2212.06817): id = floor((x + 1) / 2 * (n - 1)), decoded as its lower edge. OpenVLA
    (https://arxiv.org/abs/2406.09246): n edges over [-1, 1] have n - 1 centres; the last id, which only x = 1 has,
    shares the centre below it. Where we differ: OpenVLA counts ids down from the end of the language model's
    vocabulary and so takes rare words' places; here ids count up from 0, behind all words.
    """

    FORMAT: ClassVar[str] = "trivium-bins"

    def __init__(self, reach: Reach, convention: Convention, num_bins: int) -> None:
        """Lay the bins."""
        steps = np.arange(num_bins, dtype=np.float64)
        if convention == "openvla":
            # The centres as fractions of whole numbers: the middle one is exactly 0.
            values = (2 * np.minimum(steps, num_bins - 2) + 2 - num_bins) / (num_bins - 1)
        else:
            values = 2 * steps / (num_bins - 1) - 1
        super().__init__(reach, values)
        self.convention, self.num_bins = convention, num_bins
        self._edges = np.linspace(-1, 1, num_bins)

    def bin(self, numbers: Float64[np.ndarray, "m z"]) -> Int[np.ndarray, "m z"]:
        """Return the id of every number."""
        clipped = numbers.clip(-1, 1)
        if self.convention == "openvla":
            return np.digitize(clipped, self._edges) - 1
        return np.floor((clipped + 1) / 2 * (self.num_bins - 1)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the reach and the settings."""
        return {"reach": self.reach.to_json(), "convention": self.convention, "num_bins": self.num_bins}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BinsTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: settings that nobody could have fitted.
            ValueError: not what it wrote.
        """
        config = BinsConfig(convention=data["convention"], num_bins=data["num_bins"])
        return cls(Reach.from_json(data["reach"]), config.convention, config.num_bins)
