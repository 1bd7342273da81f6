"""Batches of a plan, read ahead by worker processes; what comes out does not depend on how many there are."""

import atexit
import signal
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from trivium.core.batch import Batch
from trivium.core.errors import DataError, TriviumError
from trivium.core.rng import numpy_rng
from trivium.data.plan import Plan
from trivium.data.row import Layout, Row, collate
from trivium.data.source.source import Source
from trivium.data.transform import Transform

PREFETCH = 2
"""Batches that each worker keeps ready."""


@dataclass(frozen=True)
class Failure:
    """An error that travels from a worker as a value: torch would rebuild it from its text alone."""

    error: TriviumError
    trace: str


class Loader(Dataset):
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

    def make(self, number: int) -> Batch:
        """Make one batch in this process.

        Raises:
            DataError: a sample cannot be read, transformed or laid out; the text names it.
        """
        packs = [[(bucket, self._row(number, bucket, i)) for bucket, i in pack] for pack in self.plan.batch(number)]
        return collate(packs, self.plan.mixture.row_length)

    def __getitem__(self, number: int) -> Batch | Failure:
        """Make one batch, or say why not: what a worker runs."""
        try:
            return self.make(number)
        except TriviumError as error:
            return Failure(error, traceback.format_exc())

    def batches(self, start: int, stop: int, accumulate: int) -> Generator[list[Batch], None, None]:
        """Yield the micro-batches of steps `start` to `stop`, reading ahead with the mixture's workers.

        Raises:
            DataError: as in `make`, with the worker's traceback as its cause.
        """
        workers = self.plan.mixture.workers
        loader = DataLoader(
            self,
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
                step = [next(made) for _ in range(accumulate)]
                for batch in step:
                    if isinstance(batch, Failure):
                        raise batch.error from RuntimeError(batch.trace)
                yield step
        finally:
            # A Ctrl-C or a break ends the generator here.
            atexit.unregister(leave)
            leave()

    def _row(self, number: int, bucket: str, i: int) -> Row:
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
            raise DataError(
                f"bucket {bucket}, sample {i} of source {source.name}",
                f"{type(error).__name__}: {error}",
                "a sample that can be read, transformed and laid out",
                "The traceback above shows where; if the data are right, this is a mistake in Trivium.",
            ) from error
        return row


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which stops its workers after the step; take one core each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
