"""What every sample will cost, known before anything is decoded."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from trivium.core.errors import DataError
from trivium.core.sample import Image, Video
from trivium.data.row import Layout
from trivium.data.source.source import Source, digest
from trivium.data.transform import Transform

_memo: dict[str, "Index"] = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Index:
    """Counts of the chosen samples of one source, column by column: 12 bytes a sample and 4 a modality."""

    fingerprint: str
    """Of the source, for a refusal to go on when it has changed."""
    samples: Int[np.ndarray, " n"]
    """Numbers within the source."""
    images: Int[np.ndarray, " n"]
    tokens: dict[str, Int[np.ndarray, " n"]]
    """By modality."""

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each sample."""
        return sum(self.tokens.values(), np.zeros(len(self.samples), np.int64))

    @property
    def digest(self) -> str:
        """Hash of the counts and of the source."""
        names = sorted(self.tokens)
        return digest(self.fingerprint, names, self.samples, self.images, *(self.tokens[name] for name in names))


def count(
    source: Source,
    samples: Int[np.ndarray, " n"],
    transform: Transform,
    layout: Layout,
    progress: Callable[[int], None] = lambda done: None,
) -> Index:
    """Count the tokens of samples under a transform and a layout, without decoding.

    Counting again with the same source, samples, transform and layout costs nothing within a process.

    Args:
        source: where the samples are.
        samples: numbers within the source (one side of a split).
        transform: what runs before the layout.
        layout: what says how many tokens a sample takes.
        progress: called with the number of samples done, about 100 times.

    Raises:
        DataError: a sample cannot be read or laid out; the text names it.
    """
    recipe = hashlib.blake2b(pickle.dumps((transform, layout)), digest_size=8).digest()
    key = digest(source.fingerprint, source.name, samples, recipe)
    if key not in _memo:
        _memo[key] = _count(source, samples, transform, layout, progress)
    return _memo[key]


def _count(
    source: Source, samples: np.ndarray, transform: Transform, layout: Layout, progress: Callable[[int], None]
) -> Index:
    images = np.zeros(len(samples), np.int32)
    tokens: dict[str, np.ndarray] = {}
    every = max(1, len(samples) // 100)
    for j, i in enumerate(samples):
        sample = transform.forward(source.peek(int(i)), None)
        for modality, number in layout.count(sample).items():
            if number < 0:
                raise DataError(f"sample {sample.id}", f"{number} {modality} tokens", "0 or more", "Mend the layout.")
            if modality not in tokens:
                tokens[modality] = np.zeros(len(samples), np.int32)
            tokens[modality][j] = number
        images[j] = len(sample.of(Image)) + sum(len(video.frames) for video in sample.of(Video))
        if (j + 1) % every == 0:
            progress(j + 1)
    return Index(fingerprint=source.fingerprint, samples=samples.astype(np.int64), images=images, tokens=tokens)
