"""The order of everything: which samples form which row of which batch, fixed before training starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt32

from trivium.core.errors import ConfigError, DataError
from trivium.data.bucket import MixtureConfig, shares
from trivium.data.index import Index
from trivium.data.pack import Packer
from trivium.data.share import Pack, work
from trivium.data.source.source import digest
from trivium.data.stream import Drawn, Stream, join

BLOCK_ROWS = 1024
"""Rows' worth of tokens that are drawn and packed at a time: what building a plan holds in memory."""


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that were closed together: their samples end to end, and where each row ends.

    A sample is one number, its place in the indexes of all buckets laid end to end: 4 bytes, or 8 where they hold more
    than 4 billion samples.
    """

    samples: Integer[np.ndarray, " n"]
    ends: UInt32[np.ndarray, " r"]


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
    After r rows, what the packer holds in its open rows is the only other difference from the asked shares: at most
    (OPEN_ROWS x row_length + the longest sample) / tokens so far, below half a percent from 12,800 rows on whatever
    the lengths are, and in practice from about a thousand.

    A plan is built in blocks of BLOCK_ROWS rows and holds 4 bytes a planned sample and 4 a row (`Block`), and while it
    is built one window of a million samples a bucket (`Stream`). For 10^10 samples in rows of ten: indexes 10 bytes a
    sample, 100 GB, read in chunks from wherever they lie; planned rows 8 bytes a sample and 4 a row, 84 GB; all else
    32 MB a bucket and 20 MB of chunk order. At 600 k samples/s that is under 5 hours of one core.
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
            Stream(bucket, index, share, mixture, seed)
            for bucket, index, share in zip(mixture.buckets, self._indexes, shares(mixture).values(), strict=True)
        ]
        self._first = np.cumsum([0, *(len(index.samples) for index in self._indexes)])
        self._tokens, self._samples = np.zeros((2, len(self._names)), np.int64)
        self._blocks: list[Block] = []
        self._pack()
        self._row_ends = np.cumsum([len(block.ends) for block in self._blocks])

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_batches

    def batch(self, number: int) -> list[Pack]:
        """Return the rows of one batch: for each, its samples. `data.share.share` gives a rank its part of them.

        Batch `step * accumulate + j` is micro-batch j of a step.
        """
        assert 0 <= number < self.num_batches, f"batch {number} of a plan for {self.num_batches}"
        return [self._row(self.mixture.rows_per_batch * number + j) for j in range(self.mixture.rows_per_batch)]

    def cost(self, bucket: str, sample: int) -> dict[str, int]:
        """Return the planned tokens of a sample by modality; what a loader holds its row against."""
        index = self.index(bucket)
        # In the column's own type: numpy would widen the whole column to that of a Python int.
        at = int(np.searchsorted(index.samples, index.samples.dtype.type(sample)))
        return {modality: int(tokens[at]) for modality, tokens in index.tokens.items() if tokens[at]}

    def index(self, bucket: str) -> Index:
        """Return the counts of a bucket's samples."""
        return self._indexes[self._names.index(bucket)]

    def table(self) -> list[Share]:
        """Return asked and planned shares, epochs and what was dropped, by bucket."""
        return [
            Share(
                bucket=stream.bucket.name,
                asked=stream.share,
                planned=float(tokens / self.tokens),
                tokens=int(tokens),
                samples=int(samples),
                epochs=float(tokens / stream.epoch_tokens),
                dropped=stream.dropped,
                dropped_samples=tuple(stream.dropped_samples),
            )
            for stream, tokens, samples in zip(self._streams, self._tokens, self._samples, strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Planned tokens of all buckets."""
        return int(self._tokens.sum())

    @property
    def padding(self) -> float:
        """Share of the planned rows that is padding."""
        return 1 - self.tokens / (self._num_rows * self.mixture.row_length)

    @property
    def num_bytes(self) -> int:
        """Memory of the planned rows."""
        return sum(block.samples.nbytes + block.ends.nbytes for block in self._blocks)

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
        b = int(np.searchsorted(self._row_ends, row, side="right"))
        block, row = self._blocks[b], row - (int(self._row_ends[b - 1]) if b else 0)
        codes = block.samples[int(block.ends[row - 1]) if row else 0 : int(block.ends[row])].astype(np.int64)
        buckets = np.searchsorted(self._first, codes, side="right") - 1
        samples: list[tuple[str, int]] = []
        lengths, images = np.zeros((2, len(codes)), np.int64)
        for j, (bucket, place) in enumerate(
            zip(buckets.tolist(), (codes - self._first[buckets]).tolist(), strict=True)
        ):
            index = self._indexes[bucket]
            samples.append((self._names[bucket], int(index.samples[place])))
            lengths[j] = sum(int(column[place]) for column in index.tokens.values())
            images[j] = index.images[place]
        return Pack(samples, work(lengths, images))

    def _pack(self) -> None:
        """Draw and pack block by block until all rows are there."""
        packer = Packer(
            self.mixture.row_length, self.mixture.max_images_per_row, min(s.shortest for s in self._streams)
        )
        last = min(stream.last_time for stream in self._streams)
        num_drawn, taken = 0, True
        while taken:
            time = float((len(self._blocks) + 1) * BLOCK_ROWS * self.mixture.row_length)
            bucket, drawn = self._draw(min(time, last))
            codes = self._first[bucket] + drawn.places
            items = zip(codes.tolist(), drawn.lengths.tolist(), drawn.images.tolist(), strict=True)
            taken = packer.add(items, self._num_rows)
            if taken and time >= last and packer.num_rows < self._num_rows:
                raise self._too_short(packer.num_rows)
            taken = taken and time < last
            used = len(bucket) if taken else packer.num_items - num_drawn
            num_drawn += used
            self._tokens += np.bincount(bucket[:used], drawn.lengths[:used], len(self._names)).astype(np.int64)
            self._samples += np.bincount(bucket[:used], minlength=len(self._names))
            self._blocks.append(self._block(packer))
        packer.flush()
        self._blocks.append(self._block(packer))

    def _draw(self, time: float) -> tuple[Integer[np.ndarray, " n"], Drawn]:
        """Draw all samples up to a virtual time, in its order, and the bucket of each."""
        parts = [stream.until(time) for stream in self._streams]
        drawn = join(parts)
        order = np.argsort(drawn.times, kind="stable")
        bucket = np.repeat(np.arange(len(parts)), [len(part.places) for part in parts])[order]
        return bucket, Drawn(drawn.times[order], drawn.places[order], drawn.lengths[order], drawn.images[order])

    def _block(self, packer: Packer) -> Block:
        """Take the rows that were closed."""
        codes, sizes = packer.take()
        narrow = np.uint32 if self._first[-1] < 1 << 32 else np.int64
        return Block(codes.astype(narrow), sizes.cumsum().astype(np.uint32))

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
