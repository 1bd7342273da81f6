"""What every data source can do: list its samples, read any of them, and say whether it has changed."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from trivium.core.sample import Sample
from trivium.data.motion import Motion


class Source(ABC):
    """Random access to the samples of one data set.

    A source must survive a fork: a loader worker inherits it from the parent, so open files belong to a process
    and are opened again in each.
    """

    name: str
    license: str
    fingerprint: str
    """Changes whenever anything that this source yields may have changed, but not when its folder moves."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def groups(self) -> Int[np.ndarray, " n"]:
        """Return one id a sample; samples of one group (an episode, a document) stay on one side of a split."""

    @abstractmethod
    def peek(self, i: int) -> Sample:
        """Return sample `i` as `read` does, with blank pictures of the right shape: nothing is decoded.

        Raises:
            DataError: the record is broken.
        """

    @abstractmethod
    def read(self, i: int) -> Sample:
        """Return sample `i`.

        Raises:
            DataError: the record or its picture is broken.
        """

    def alike(self) -> Int[np.ndarray, " n"] | None:
        """Return labels: samples with one label have the same words and shapes and differ in numbers and pixels alone.

        A layout that looks at no number counts one of them for all. None where nothing is known.
        """
        return None

    def columns(self) -> Mapping[str, Float[np.ndarray, "n d"]]:
        """Return the numeric columns of all samples ("state", "action") for statistics; none by default."""
        return {}

    def motion(self, i: Int[np.ndarray, " n"]) -> Motion:
        """Return action chunks and states of many samples at once; a source with numeric columns has them."""
        raise AssertionError(f"source {self.name} has no actions")

    @property
    def embodiment(self) -> str:
        """Name of the robot whose statistics apply ("" when there is none)."""
        return ""

    def names(self, column: str) -> tuple[str, ...]:
        """Return the names of the dimensions of a numeric column."""
        raise AssertionError(f"source {self.name} has no numeric column {column}")


def digest(*parts: Any) -> str:
    """Return 16 hex digits that depend on every part: bytes, arrays, or anything JSON can hold."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"{part.dtype}{part.shape}", np.ascontiguousarray(part).data
        elif isinstance(part, bytes):
            head, body = "bytes", part
        else:
            head, body = "json", json.dumps(part, sort_keys=True).encode()
        state.update(f"{head}:{len(body)}:".encode())
        state.update(body)
    return state.hexdigest()
