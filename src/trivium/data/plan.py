"""The order of everything: which samples form which row of which batch, fixed before training starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from trivium.core.errors import ConfigError, DataError
from trivium.core.rng import numpy_rng
from trivium.data.bucket import BucketConfig, MixtureConfig, shares
from trivium.data.index import Index
from trivium.data.pack import Packer
from trivium.data.source.source import digest

BLOCK_ROWS = 1024
"""Rows' worth of tokens that are drawn and packed at a time: what building a plan holds in memory."""

Pack = list[tuple[str, int]]
"""Samples of one row: name of the bucket and number within its source."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a plan makes of one bucket."""

    bucket: str
    asked: float
    """Share of tokens that the mixture asks for."""
    planned: float
    """Share of tokens in the planned rows."""
    tokens: int
    samples: int
    epochs: float
    """Planned tokens over the tokens of the bucket."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Samples that can never be used, by reason."""
    dropped_samples: tuple[int, ...] = ()
    """The first few of them, as numbers within the source."""


class Plan:
    """A deterministic function of (seed, mixture, indexes, number of batches).

    Buckets are mixed by tokens as in fair queueing: sample j of a bucket has the virtual time (tokens before it + half
    its own) / weight, and all samples are taken in the order of that time. The tokens of each bucket
    then follow its share at every moment, to within one sample. Each bucket runs through its own shuffled epochs.
    Rows are filled best-fit from that stream, and the last rows are flushed, so what is used is exactly a prefix of it.
    """

    def __init__(self, mixture: MixtureConfig, indexes: Mapping[str, Index], num_batches: int, seed: int) -> None:
        """Mix and pack.

        Args:
            mixture: buckets and sizes.
            indexes: counts by bucket name.
            num_batches: micro-batches of the stage (steps times accumulation).
            seed: seed of the order.

        Raises:
            ConfigError: the stage would repeat a bucket more often than allowed.
            DataError: a bucket has nothing that fits.
        """
        self.mixture, self.num_batches, self.seed = mixture, num_batches, seed
        self.sources = {bucket.name: indexes[bucket.name].fingerprint for bucket in mixture.buckets}
        self.fingerprint = digest(
            mixture.model_dump(exclude={"workers", "max_bad_share"}),
            seed,
            *(indexes[bucket.name].digest for bucket in mixture.buckets),
        )
        self._names = [bucket.name for bucket in mixture.buckets]
        self._indexes = [indexes[name] for name in self._names]
        self._streams = [
            _Stream(bucket, index, share, mixture, seed)
            for bucket, index, share in zip(mixture.buckets, self._indexes, shares(mixture).values(), strict=True)
        ]
        self._bucket, self._place, self._ends = self._pack()

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_batches

    def batch(self, number: int) -> list[Pack]:
        """Return the rows of one batch: for each, its samples.

        Batch `step * accumulate + j` is micro-batch j of a step.
        """
        assert 0 <= number < self.num_batches, f"batch {number} of a plan for {self.num_batches}"
        return [self._row(self.mixture.rows_per_batch * number + j) for j in range(self.mixture.rows_per_batch)]

    def cost(self, bucket: str, sample: int) -> dict[str, int]:
        """Return the planned tokens of a sample by modality; what a loader holds its row against."""
        index = self.index(bucket)
        at = int(np.searchsorted(index.samples, sample))
        return {modality: int(tokens[at]) for modality, tokens in index.tokens.items() if tokens[at]}

    def index(self, bucket: str) -> Index:
        """Return the counts of a bucket's samples."""
        return self._indexes[self._names.index(bucket)]

    def table(self) -> list[Share]:
        """Return asked and planned shares, epochs and what was dropped, by bucket."""
        tokens = self._tokens()
        return [
            Share(
                bucket=stream.bucket.name,
                asked=stream.share,
                planned=float(tokens[b] / tokens.sum()),
                tokens=int(tokens[b]),
                samples=int((self._bucket == b).sum()),
                epochs=float(tokens[b] / stream.epoch_tokens),
                dropped={reason: len(found) for reason, found in stream.dropped.items()},
                dropped_samples=tuple(int(i) for found in stream.dropped.values() for i in found[:20]),
            )
            for b, stream in enumerate(self._streams)
        ]

    @property
    def padding(self) -> float:
        """Share of the planned rows that is padding."""
        return float(1 - self._tokens().sum() / (self._num_rows * self.mixture.row_length))

    @property
    def _num_rows(self) -> int:
        return self.num_batches * self.mixture.rows_per_batch

    def describe(self) -> dict[str, Any]:
        """Return what plan/<stage>.json keeps: the table, and the fingerprints that `check` compares."""
        return {
            "fingerprint": self.fingerprint,
            "sources": self.sources,
            "seed": self.seed,
            "num_batches": self.num_batches,
            "row_length": self.mixture.row_length,
            "rows_per_batch": self.mixture.rows_per_batch,
            "padding": self.padding,
            "buckets": [asdict(share) for share in self.table()],
        }

    def check(self, described: Mapping[str, Any]) -> None:
        """Refuse to go on from a run whose plan was another one.

        Raises:
            DataError: a source has changed since that run began, or the mixture, the layout or the seed has.
        """
        for name, fingerprint in self.sources.items():
            before = described["sources"].get(name)
            if before != fingerprint:
                raise DataError(
                    f"bucket {name}",
                    f"fingerprint {fingerprint}",
                    f"{before}, as when this run began",
                    "Its files or its settings have changed: bring them back, or start a new run with --run.",
                )
        if described["fingerprint"] != self.fingerprint:
            raise DataError(
                "the data plan",
                f"fingerprint {self.fingerprint}",
                f"{described['fingerprint']}, as when this run began",
                "The mixture, the tokenization or the seed has changed: undo that, or start a new run with --run.",
            )

    def _row(self, row: int) -> Pack:
        begin, end = (self._ends[row - 1] if row else 0), self._ends[row]
        buckets, places = self._bucket[begin:end].tolist(), self._place[begin:end].tolist()
        return [
            (self._names[b], int(self._indexes[b].samples[place])) for b, place in zip(buckets, places, strict=True)
        ]

    def _pack(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return bucket and place in its index of every sample in the order of rows, and where each row ends."""
        packer = Packer(
            self.mixture.row_length, self.mixture.max_images_per_row, min(s.shortest for s in self._streams)
        )
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        begin, taken = 0, True
        last = min(stream.last_time for stream in self._streams)
        while taken:
            time = float((len(drawn) + 1) * BLOCK_ROWS * self.mixture.row_length)
            bucket, place = self._draw(min(time, last))
            lengths, images = self._look_up(bucket, place)
            items = zip(range(begin, begin + len(bucket)), lengths.tolist(), images.tolist(), strict=True)
            taken = packer.add(items, self._num_rows)
            if taken and time >= last and packer.num_rows < self._num_rows:
                raise self._too_short(packer.num_rows)
            taken = taken and time < last
            begin += len(bucket)
            drawn.append((bucket, place))
            rows.append(packer.take())
        packer.flush()
        rows.append(packer.take())
        order = np.concatenate([items for items, _ in rows])
        ends = np.cumsum(np.concatenate([sizes for _, sizes in rows]))
        bucket, place = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        return bucket[order], place[order], ends

    def _draw(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Draw all samples up to a virtual time, in its order: bucket and place in the bucket's index."""
        parts = [stream.until(time) for stream in self._streams]
        order = np.argsort(np.concatenate([times for _, times in parts]), kind="stable")
        bucket = np.repeat(np.arange(len(parts), dtype=np.int16), [len(places) for places, _ in parts])
        return bucket[order], np.concatenate([places for places, _ in parts])[order]

    def _look_up(self, bucket: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths, images = np.zeros(len(bucket), np.int64), np.zeros(len(bucket), np.int64)
        for b, stream in enumerate(self._streams):
            mine = bucket == b
            lengths[mine], images[mine] = stream.lengths[place[mine]], stream.index.images[place[mine]]
        return lengths, images

    def _tokens(self) -> np.ndarray:
        """Return the planned tokens of each bucket."""
        return np.asarray(
            [stream.lengths[self._place[self._bucket == b]].sum() for b, stream in enumerate(self._streams)]
        )

    def _too_short(self, rows: int) -> ConfigError:
        """Build the error for a bucket that runs out of permitted repetitions."""
        b = min(range(len(self._streams)), key=lambda j: self._streams[j].last_time)
        bucket, share = self.mixture.buckets[b], rows / self._num_rows
        return ConfigError(
            f"mixture.buckets.{b} ({bucket.name})",
            f"{self._num_rows:,} rows that take about {bucket.max_epochs / share:.3g} epochs of this bucket",
            f"at most max_epochs = {bucket.max_epochs:g}, enough for {rows:,} rows",
            f"Train for {share:.0%} of the steps, lower its weight, add data, or raise max_epochs.",
        )


class _Stream:
    """The samples of one bucket, epoch after epoch, each with its virtual time."""

    def __init__(self, bucket: BucketConfig, index: Index, share: float, mixture: MixtureConfig, seed: int) -> None:
        self.bucket, self.index, self.share, self._seed = bucket, index, share, seed
        self.lengths = index.lengths
        reasons = {
            "nothing in it for this stage (0 tokens)": self.lengths == 0,
            f"longer than a row ({mixture.row_length} tokens)": self.lengths > mixture.row_length,
            f"more pictures than a row may hold ({mixture.max_images_per_row})": index.images
            > mixture.max_images_per_row,
        }
        self.dropped: dict[str, np.ndarray] = {}
        left = np.ones(len(self.lengths), bool)
        for reason, hit in reasons.items():
            if (hit & left).any():
                self.dropped[reason] = index.samples[hit & left]
            left &= ~hit
        self.usable = np.flatnonzero(left)
        if not len(self.usable):
            said = "; ".join(f"{len(found):,} {reason}" for reason, found in self.dropped.items()) or "no samples"
            raise DataError(
                f"bucket {bucket.name}",
                said,
                "at least one sample that fits into a row",
                "Raise row_length or max_images_per_row, or use another source for this stage.",
            )
        self.shortest = int(self.lengths[self.usable].min())
        self.epoch_tokens = int(self.lengths[self.usable].sum())
        self.last_time = bucket.max_epochs * self.epoch_tokens / share
        self._epoch, self._tokens = 0, 0
        self._places, self._times = np.zeros(0, np.int64), np.zeros(0)

    def until(self, time: float) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Take the samples whose virtual time is below `time`: their places in the index and their times."""
        places, times = [self._places], [self._times]
        while self._tokens / self.share < time:
            order = numpy_rng(self._seed, "epoch", self.bucket.name, self._epoch).permutation(self.usable)
            lengths = self.lengths[order]
            times.append((self._tokens + np.cumsum(lengths) - lengths / 2) / self.share)
            places.append(order)
            self._tokens += self.epoch_tokens
            self._epoch += 1
        self._places, self._times = np.concatenate(places), np.concatenate(times)
        cut = int(np.searchsorted(self._times, time))
        taken = self._places[:cut], self._times[:cut]
        self._places, self._times = self._places[cut:], self._times[cut:]
        return taken
