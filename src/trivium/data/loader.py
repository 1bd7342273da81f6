"""Batches of a plan, read ahead by worker processes; what comes out does not depend on how many there are."""

import atexit
import signal
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from trivium.core.batch import Batch
from trivium.core.errors import DataError, TriviumError
from trivium.core.rng import numpy_rng
from trivium.data.plan import Plan
from trivium.data.quarantine import Bad, stand_ins
from trivium.data.row import Layout, Row, collate
from trivium.data.share import share
from trivium.data.source.source import Source
from trivium.data.transform import Transform

PREFETCH = 2
"""Batches that each worker keeps ready."""


class MistakeError(DataError):
    """A step failed with an error that is none of ours, so that the record is not to blame: it is not replaced."""


@dataclass(frozen=True)
class Made:
    """A batch, and the bad samples that were replaced in it."""

    batch: Batch
    bad: tuple[Bad, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An error that travels from a worker as a value: torch would rebuild it from its text alone."""

    error: TriviumError
    trace: str


class Loader:
    """Makes batch `number` of a plan: read, transform, lay out, collate.

    A batch is a pure function of (plan, number): augmentation is seeded by (seed, batch number, sample id).
    """

    def __init__(
        self, plan: Plan, sources: Mapping[str, Source], transform: Transform, layout: Layout, seed: int
    ) -> None:
        """Join what a batch is made of.

        Args:
            plan: which samples form which row.
            sources: by bucket name.
            transform: runs with random augmentation here.
            layout: what makes rows; the one that the plan was counted with.
            seed: seed of the augmentation.
        """
        self.plan, self.sources, self.transform, self.layout, self.seed = plan, sources, transform, layout, seed

    def make(self, number: int, rank: int = 0, world: int = 1) -> Made:
        """Make one rank's rows of a batch in this process.

        A sample that is bad is replaced, as `stand_ins` says; where the mixture permits no bad one, it is an error.

        Raises:
            DataError: a sample, and those tried in its place, cannot be read, transformed or laid out; or there is a
                mistake of ours, which is never taken for a bad sample. The text names it.
        """
        bad: list[Bad] = []
        rows = share(self.plan.batch(number), rank, world)
        packs = [[(bucket, self._row(number, bucket, i, bad)) for bucket, i in pack] for pack in rows]
        return Made(collate(packs, self.plan.mixture.row_length), tuple(bad))

    def batches(
        self,
        start: int,
        stop: int,
        accumulate: int,
        rank: int = 0,
        world: int = 1,
        report: Callable[[Sequence[Bad]], None] = lambda bad: None,
    ) -> Generator[list[Batch], None, None]:
        """Yield the micro-batches of steps `start` to `stop`, reading ahead with the mixture's workers.

        Args:
            start: first step.
            stop: the step after the last.
            accumulate: micro-batches of a step.
            rank: which share of the rows to make.
            world: number of shares; all of them together are the batch of one process.
            report: called once a step, before it is handed out, with the bad samples met in it; it may stop the run.

        Raises:
            DataError: as in `make`, with the worker's traceback as its cause.
        """
        workers = self.plan.mixture.workers
        loader = DataLoader(
            _Share(self, rank, world),
            batch_size=None,
            sampler=range(start * accumulate, stop * accumulate),
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or torch would draw the workers' seeds from the training's own randomness
            # Workers inherit the open tables without a copy; nothing of CUDA is touched in them.
            multiprocessing_context="fork" if workers else None,
        )
        made = iter(loader)
        # A program that ends while it holds this generator would wait for ever for workers that ignore SIGTERM.
        leave = getattr(made, "_shutdown_workers", lambda: None)
        atexit.register(leave)
        try:
            for _ in range(start, stop):
                step = [_whole(next(made)) for _ in range(accumulate)]
                report([bad for one in step for bad in one.bad])
                yield [one.batch for one in step]
        finally:
            # A Ctrl-C or a break ends the generator here.
            atexit.unregister(leave)
            leave()

    def _row(self, number: int, bucket: str, i: int, bad: list[Bad]) -> Row:
        """Return the row of a sample, or of the first of its stand-ins that can be read; add to `bad` what cannot."""
        tried = self._try(number, bucket, i)
        if isinstance(tried, Row):
            return tried
        if not self.plan.mixture.max_bad_share:
            raise tried
        failed = [(i, tried)]
        for other in stand_ins(self.plan.index(bucket), bucket, i, self.plan.seed):
            tried = self._try(number, bucket, other)
            if isinstance(tried, Row):
                bad += [self._bad(number, bucket, sample, error, other) for sample, error in failed]
                return tried
            failed.append((other, tried))
        first = failed[0][1]
        raise DataError(
            first.where,
            f"{first.found}; and {len(failed) - 1} other samples of bucket {bucket} that might take its place are bad",
            first.expected,
            first.todo,
        ) from first

    def _try(self, number: int, bucket: str, i: int) -> Row | DataError:
        """Return a row, or what is wrong with the record; what is wrong with us is raised."""
        try:
            return self._build(number, bucket, i)
        except MistakeError:
            raise
        except DataError as error:
            return error

    def _build(self, number: int, bucket: str, i: int) -> Row:
        source = self.sources[bucket]
        try:
            sample = source.read(i)
            sample = self.transform.forward(sample, numpy_rng(self.seed, "augment", number, sample.id))
            row = self.layout.build(sample)
            planned, found = self.plan.cost(bucket, i), {name: n for name, n in row.counts.items() if n}
            assert found == planned, f"the layout built {found} tokens and counted {planned}"
        except TriviumError:
            raise
        except Exception as error:
            raise MistakeError(
                f"bucket {bucket}, sample {i} of source {source.name}",
                f"{type(error).__name__}: {error}",
                "a sample that can be read, transformed and laid out",
                "The traceback above shows where; if the data are right, this is a mistake in Trivium.",
            ) from error
        return row

    def _bad(self, number: int, bucket: str, i: int, error: DataError, other: int) -> Bad:
        source, planned, got = self.sources[bucket], self.plan.cost(bucket, i), self.plan.cost(bucket, other)
        try:
            name = source.peek(i).id
        except TriviumError:
            name = f"{source.name}, sample {i}"
        return Bad(
            bucket=bucket,
            sample=i,
            id=name,
            where=error.where,
            found=error.found,
            expected=error.expected,
            batch=number,
            replaced_by=other,
            short={modality: n - got.get(modality, 0) for modality, n in planned.items() if n > got.get(modality, 0)},
        )


class _Share(Dataset):
    """What a worker runs: one rank's rows of a batch, or why there are none, as a value."""

    def __init__(self, loader: Loader, rank: int, world: int) -> None:
        self._loader, self._rank, self._world = loader, rank, world

    def __getitem__(self, number: int) -> Made | Failure:
        try:
            return self._loader.make(number, self._rank, self._world)
        except TriviumError as error:
            return Failure(error, traceback.format_exc())


def _whole(made: Made | Failure) -> Made:
    if isinstance(made, Failure):
        raise made.error from RuntimeError(made.trace)
    return made


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which stops its workers after the step; take one core each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
