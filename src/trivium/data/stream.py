"""The samples of one bucket, epoch after epoch, in an order that needs no memory of the size of the bucket."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from trivium.core.errors import DataError
from trivium.core.rng import numpy_rng
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.index import Index

CHUNK = 4096
"""Neighbours in an index that are drawn together: a few kB that a disk reads at once."""
WINDOW = 256
"""Chunks, from anywhere in the bucket, that are shuffled through one another: 1,048,576 samples."""
NAMED = 20
"""Dropped samples of each reason that a plan names."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples in the order in which they are drawn."""

    times: Float[np.ndarray, " n"]
    """Virtual time: tokens of the bucket before the sample and half its own, over the bucket's share."""
    places: Int[np.ndarray, " n"]
    """Places in the bucket's index."""
    lengths: Int[np.ndarray, " n"]
    images: Integer[np.ndarray, " n"]

    def split(self, at: int) -> tuple["Drawn", "Drawn"]:
        """Cut in two without a copy."""
        columns = (self.times, self.places, self.lengths, self.images)
        return Drawn(*(column[:at] for column in columns)), Drawn(*(column[at:] for column in columns))


def join(parts: list[Drawn]) -> Drawn:
    """Lay parts end to end."""
    return Drawn(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.images for part in parts]),
    )


class Stream:
    """A bucket's usable samples, shuffled anew each epoch, each with its virtual time.

    A bucket of up to CHUNK x WINDOW samples is permuted as a whole. A larger one has its chunks permuted (8 bytes for
    4,096 samples) and is then permuted a window of 256 chunks at a time, so that any order holds one window: 32 MB a
    bucket, whatever its size. Neighbours in a source (files of one repository, frames of one episode) come from the
    same chunk and so land in the same window, as in a shuffle buffer of a million samples, but 255 other places of the
    source lie between them.
    """

    def __init__(self, bucket: BucketConfig, index: Index, share: float, mixture: MixtureConfig, seed: int) -> None:
        """Look the bucket through once.

        Raises:
            DataError: nothing in it fits into a row.
        """
        self.bucket, self.index, self.share, self._seed, self._mixture = bucket, index, share, seed, mixture
        self.dropped: dict[str, int] = {}
        self.dropped_samples: list[int] = []
        self.shortest, self.epoch_tokens = mixture.row_length, 0
        for block in index.blocks():
            self._survey(block)
        if not self.epoch_tokens:
            said = "; ".join(f"{number:,} {reason}" for reason, number in self.dropped.items()) or "no samples"
            raise DataError(
                f"bucket {bucket.name}",
                said,
                "at least one sample that fits into a row",
                "Raise row_length or max_images_per_row, or use another source for this stage.",
            )
        self.last_time = bucket.max_epochs * self.epoch_tokens / share
        self._tokens = 0
        self._windows = self._shuffled()
        nothing = np.zeros(0, np.int64)
        self._left = Drawn(np.zeros(0), nothing, nothing, nothing)

    def until(self, time: float) -> Drawn:
        """Take the samples whose virtual time is below `time`."""
        parts = [self._left]
        while self._tokens / self.share < time:
            places = next(self._windows)
            lengths = self.index.lengths_at(places)
            times = (self._tokens + np.cumsum(lengths) - lengths / 2) / self.share
            parts.append(Drawn(times, places, lengths, self.index.images[places]))
            self._tokens += int(lengths.sum())
        drawn = join(parts) if len(parts) > 1 else self._left
        taken, self._left = drawn.split(int(np.searchsorted(drawn.times, time)))
        return taken

    def _shuffled(self) -> Iterator[Int[np.ndarray, " n"]]:
        """Yield places of usable samples, window after window, epoch after epoch, without end."""
        size, epoch = len(self.index.samples), 0
        while True:
            rng = numpy_rng(self._seed, "epoch", self.bucket.name, epoch)
            chunks = np.arange(0, size, CHUNK)
            if len(chunks) > WINDOW:
                chunks = rng.permutation(chunks)
            for begin in range(0, len(chunks), WINDOW):
                window = chunks[begin : begin + WINDOW, None] + np.arange(CHUNK)
                places = window[window < size]
                yield rng.permutation(places[self._usable(places)])
            epoch += 1

    def _usable(self, places: Int[np.ndarray, " n"] | slice) -> Bool[np.ndarray, " n"]:
        usable = self.index.images[places] <= self._mixture.max_images_per_row
        lengths = self.index.lengths_at(places)
        return usable & (lengths > 0) & (lengths <= self._mixture.row_length)

    def _survey(self, block: slice) -> None:
        """Add a block of the index to what is known of the bucket: its tokens, what is dropped, and why."""
        lengths, images = self.index.lengths_at(block), self.index.images[block]
        most = self._mixture.max_images_per_row
        reasons = {
            "nothing in it for this stage (0 tokens)": lengths == 0,
            f"longer than a row ({self._mixture.row_length} tokens)": lengths > self._mixture.row_length,
            f"more pictures than a row may hold ({most})": images > most,
        }
        left = np.ones(len(lengths), bool)
        for reason, hit in reasons.items():
            found = np.flatnonzero(hit & left)
            if len(found):
                room = max(0, NAMED - self.dropped.get(reason, 0))
                self.dropped[reason] = self.dropped.get(reason, 0) + len(found)
                self.dropped_samples += self.index.samples[block][found[:room]].tolist()
            left &= ~hit
        if left.any():
            self.shortest = min(self.shortest, int(lengths[left].min()))
            self.epoch_tokens += int(lengths[left].sum())
