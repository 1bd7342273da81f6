"""What every sample will cost, known before anything is decoded."""

import hashlib
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer

from trivium.core.errors import DataError
from trivium.core.sample import Image, Video
from trivium.data.row import Layout
from trivium.data.source.source import Source, digest
from trivium.data.transform import Transform

BLOCK = 1 << 20
"""Samples of an index that are widened or hashed at a time: what work on an index of any size holds in memory."""

NUM_PARTS = 100
MANY = 20_000
"""Samples that are worth the fork of a process a core."""

_memo: dict[str, "Index"] = {}
_job: "Job | None" = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Index:
    """Counts of the chosen samples of one source, column by column, in the narrowest integers that hold them.

    As `count` makes it a sample takes 4 bytes for its number, 1 to 4 for each modality and 1 for its pictures; a column
    whose values are all equal takes nothing. A robot frame is 4 to 6 bytes, a text 5 to 7.
    """

    fingerprint: str
    """Of the source, for a refusal to go on when it has changed."""
    samples: Integer[np.ndarray, " n"]
    """Numbers within the source."""
    images: Integer[np.ndarray, " n"]
    tokens: dict[str, Integer[np.ndarray, " n"]]
    """By modality."""

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each sample."""
        return self.lengths_at(slice(None))

    def lengths_at(self, places: Int[np.ndarray, " m"] | slice) -> Int[np.ndarray, " m"]:
        """Return the tokens of the samples at some places of this index."""
        zeros = np.zeros(len(self.samples[places]), np.int64)
        return sum((column[places] for column in self.tokens.values()), zeros)

    def blocks(self) -> Iterator[slice]:
        """Yield the places of the index, a block at a time."""
        for begin in range(0, len(self.samples), BLOCK):
            yield slice(begin, min(begin + BLOCK, len(self.samples)))

    @property
    def num_bytes(self) -> int:
        """Memory of all columns."""
        columns = (self.samples, self.images, *self.tokens.values())
        return sum(column.nbytes if any(column.strides) else column.itemsize for column in columns)

    @property
    def digest(self) -> str:
        """Hash of the counts and of the source; how wide the columns are does not matter."""
        names = sorted(self.tokens)
        columns = (self.samples, self.images, *(self.tokens[name] for name in names))
        parts = (digest(*(column[block].astype(np.int64) for column in columns)) for block in self.blocks())
        return digest(self.fingerprint, names, *parts)


def count(
    source: Source,
    samples: Int[np.ndarray, " n"],
    transform: Transform,
    layout: Layout,
    progress: Callable[[int], None] = lambda done: None,
) -> Index:
    """Count the tokens of samples under a transform and a layout, without decoding.

    Counting again with the same source, samples, transform and layout costs nothing within a process. Where neither
    transform nor layout looks at numbers, one sample is counted for all that the source calls alike.

    Args:
        source: where the samples are.
        samples: numbers within the source (one side of a split), rising.
        transform: what runs before the layout.
        layout: what says how many tokens a sample takes.
        progress: called with the number of samples done, about 100 times.

    Raises:
        DataError: a sample cannot be read or laid out; the text names it.
    """
    recipe = hashlib.blake2b(pickle.dumps((transform, layout)), digest_size=8).digest()
    key = digest(source.fingerprint, source.name, samples, recipe)
    if key not in _memo:
        # A layout that does not say whether it looks at numbers is taken to do so: counting one by one is never wrong.
        numeric = transform.numeric or getattr(layout, "numeric", True)
        labels = None if numeric else source.alike()
        _memo[key] = _count(source, samples, labels, transform, layout, progress)
    return _memo[key]


def _count(
    source: Source,
    samples: np.ndarray,
    labels: np.ndarray | None,
    transform: Transform,
    layout: Layout,
    progress: Callable[[int], None],
) -> Index:
    each, counted = None, samples
    if labels is not None:
        _, first, each = np.unique(labels[samples], return_index=True, return_inverse=True)
        counted = samples[first]
    job = Job(source, transform, layout)
    sizes = max(1, len(counted) // NUM_PARTS)
    parts = [counted[begin : begin + sizes] for begin in range(0, len(counted), sizes)]
    images = np.zeros(len(counted), np.int32)
    tokens: dict[str, np.ndarray] = {}
    done = 0
    for found in _run(job, parts):
        here = slice(done, done + len(found[""]))
        for modality, column in found.items():
            into = tokens.setdefault(modality, np.zeros(len(counted), np.int32)) if modality else images
            into[here] = column
        done = here.stop
        progress(done * len(samples) // len(counted))
    return Index(
        fingerprint=source.fingerprint,
        samples=samples.astype(np.uint32 if len(source) < 1 << 32 else np.int64),
        images=_narrow(images, each),
        tokens={modality: _narrow(column, each) for modality, column in tokens.items()},
    )


@dataclass(frozen=True, eq=False)
class Job:
    """What a process needs to count; it is inherited by a fork, not sent."""

    source: Source
    transform: Transform
    layout: Layout

    def __call__(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Count some samples one by one: tokens by modality, and the pictures under ""."""
        columns: dict[str, np.ndarray] = {"": np.zeros(len(samples), np.int32)}
        for j, i in enumerate(samples.tolist()):
            sample = self.transform.forward(self.source.peek(i), None)
            for modality, number in self.layout.count(sample).items():
                if number < 0:
                    raise DataError(
                        f"sample {sample.id}", f"{number} {modality} tokens", "0 or more", "Mend the layout."
                    )
                if modality not in columns:
                    columns[modality] = np.zeros(len(samples), np.int32)
                columns[modality][j] = number
            columns[""][j] = len(sample.of(Image)) + sum(len(video.frames) for video in sample.of(Video))
        return columns


def _run(job: Job, parts: list[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the counts of every part in order: side by side on all cores where there is enough to count."""
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if processes == 1 or sum(map(len, parts)) < MANY:
        yield from map(job, parts)
        return
    global _job
    _job = job  # a fork inherits it: open tables are neither sent nor copied
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            yield from pool.map(_work, parts)
    except BrokenProcessPool as error:
        raise DataError(
            f"source {job.source.name}",
            f"a counting process that died ({error})",
            "memory enough for all of them",
            "Look for 'out of memory' in the system's log; `taskset -c 0` counts in one process.",
        ) from error
    finally:
        _job = None


def _work(samples: np.ndarray) -> dict[str, np.ndarray]:
    assert _job is not None, "counting begins with a fork"
    return _job(samples)


def _narrow(column: np.ndarray, each: np.ndarray | None) -> np.ndarray:
    """Return a column of counts, spread over the samples that share them, in as few bytes as it needs."""
    highest = int(column.max(initial=0))
    size = len(column) if each is None else len(each)
    if size and highest == column.min():
        return np.broadcast_to(np.asarray(highest, np.min_scalar_type(highest)), size)
    narrow = column.astype(np.min_scalar_type(highest))
    return narrow if each is None else narrow[each]
