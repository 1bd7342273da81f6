"""Randomness keyed by (seed, purpose, step): the same key gives the same numbers on any machine layout."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


def key(seed: int, *purpose: str | int) -> int:
    """Return 63 bits that depend on the seed and on every word of the purpose, in order."""
    text = json.dumps([str(word) for word in (seed, *purpose)])  # quoted: "a/b" is not "a", "b"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a numpy generator for one purpose, such as `numpy_rng(0, "augment", sample_id)`."""
    return np.random.default_rng(key(seed, *purpose))


@dataclass
class Rng:
    """The random state of training: a seed and the number of steps drawn so far; both go into checkpoints.

    `begin_step` seeds the global generators (torch, CUDA, numpy, Python) from (seed, stage, step, rank), so dropout,
    MAE masks and flow noise are a function of the step alone and resuming needs two integers, not 5 kB of state.
    """

    seed: int
    step: int = 0

    def begin_step(self, stage: str, rank: int = 0) -> None:
        """Seed every global generator for the next step."""
        seed_all(key(self.seed, "train", stage, self.step, rank))
        self.step += 1


def seed_all(value: int) -> None:
    """Seed torch (CPU and all GPUs), numpy's and Python's global generators."""
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


@contextmanager
def isolated(value: int) -> Iterator[None]:
    """Run a block under its own seed and give all global generators back as they were (evaluation hooks)."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        seed_all(value)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
