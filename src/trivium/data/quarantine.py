"""Bad records: replaced by samples of equal cost, written down with their reason, and too many of them end the run."""

import json
import os
import re
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trivium.core.errors import CheckpointError, DataError
from trivium.core.log import warn
from trivium.core.rng import numpy_rng
from trivium.data.index import Index
from trivium.data.plan import Plan

ATTEMPTS = 8
"""Samples tried in the place of a bad one. A set where so many are bad in a row is not one with a few bad records."""
FEWEST = 200
"""The permitted share is never taken of fewer samples: two bad ones of the first ten may be all that there are."""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A record that could not be read, transformed or laid out, and what took its place."""

    bucket: str
    sample: int
    """Number within the source."""
    id: str
    where: str
    found: str
    expected: str
    batch: int
    """Micro-batch of the plan in which it was met."""
    replaced_by: int
    """Number within the source of the sample that was trained on instead."""
    short: dict[str, int]
    """Tokens by modality that the replacement lacks; empty where it costs the same, and the batch is as planned."""

    @property
    def kind(self) -> str:
        """The reason without its numbers: what records that are bad in the same way have in common."""
        return re.sub(r"\d[\d.,]*", "#", self.found)


def stand_ins(index: Index, bucket: str, sample: int, seed: int) -> list[int]:
    """Return the samples that may take the place of a bad one, in the order in which they are tried.

    First some that cost exactly the same in every modality, drawn at random; then, where there are too few of them,
    those that cost no more in any modality, the longest first. It is a pure function of its arguments: workers, ranks
    and resuming change nothing. Cost: one pass over the index, some 10 ms for a million samples.
    """
    at = int(np.searchsorted(index.samples, sample))
    columns = [*index.tokens.values(), index.images]
    same, fits = np.ones(len(index.samples), bool), np.ones(len(index.samples), bool)
    for column in columns:
        same &= column == column[at]
        fits &= column <= column[at]
    same[at] = fits[at] = False
    rng = numpy_rng(seed, "stand in", bucket, sample)
    equal = np.flatnonzero(same)
    chosen = rng.choice(equal, min(ATTEMPTS, len(equal)), replace=False, shuffle=True).tolist()
    if len(chosen) < ATTEMPTS:
        lengths = index.lengths
        less = np.flatnonzero(fits & ~same & (lengths > 0))
        order = np.lexsort((rng.random(len(less)), -lengths[less]))
        chosen += less[order[: ATTEMPTS - len(chosen)]].tolist()
    return [int(index.samples[place]) for place in chosen]


class Quarantine:
    """quarantine.jsonl of a run folder: one line for each bad sample of each stage, whoever met it and how often.

    A process that goes on with a run reads what earlier ones wrote, so no line comes twice.
    """

    def __init__(self, path: Path, stage: str, plan: Plan, writes: bool = True) -> None:
        """Read what there is.

        Args:
            path: the file; it appears with the first bad sample.
            stage: name of the stage, for its lines and its own count.
            plan: of the stage; it says how much has been read by a batch, and how much may be bad.
            writes: whether this process writes, as one of all ranks does.

        Raises:
            CheckpointError: the file is not one of ours.
        """
        self._path, self._stage, self._plan, self._writes = path, stage, plan, writes
        lines = [line for line in self._read() if line["stage"] == stage]
        self._known = {(line["bucket"], line["sample"]) for line in lines}
        self._batches = sorted(line["batch"] for line in lines)
        self._said: set[tuple[str, str]] = set()
        self._table = plan.table()

    def add(self, found: Sequence[Bad]) -> None:
        """Write down what was met for the first time, say so once for each kind of reason, and hold the limit.

        The limit is `max_bad_share` of the different samples that the plan has used up to the batch at hand, of
        `FEWEST` while it has used fewer. It counts the bad ones up to that batch, so a process that goes on with a run
        stops where the first one did.

        Raises:
            DataError: more are bad than may be.
            CheckpointError: the disk is full.
        """
        # By place in the plan, not by which rank met it.
        for bad in sorted(found, key=lambda bad: (bad.batch, bad.bucket, bad.sample, bad.replaced_by)):
            if (bad.bucket, bad.sample) not in self._known:
                self._known.add((bad.bucket, bad.sample))
                insort(self._batches, bad.batch)
                self._write(bad)
            if self._writes and (bad.bucket, bad.kind) not in self._said:
                self._said.add((bad.bucket, bad.kind))
                warn(
                    f"{bad.where}: found {bad.found}. Sample {bad.id} is replaced by one of the same cost, and so is "
                    f"every other like it; all are listed in {self._path}"
                )
            self._check(bad)

    def _check(self, bad: Bad) -> None:
        share, number = self._plan.mixture.max_bad_share, bisect_right(self._batches, bad.batch)
        read = sum(_distinct(row.samples, row.epochs, bad.batch + 1, self._plan.num_batches) for row in self._table)
        if number > share * max(read, FEWEST):
            raise DataError(
                f"stage {self._stage}, batch {bad.batch}",
                f"{number} bad samples among the first {round(read):,}; the last is {bad.where}: {bad.found}",
                f"at most {share:g} of them (of {FEWEST}, where there are fewer), as max_bad_share of the mixture says",
                f"{self._path} lists them with reasons: mend or remove them, or raise max_bad_share in a new run.",
            )

    def _write(self, bad: Bad) -> None:
        if not self._writes:
            return
        line = {"stage": self._stage, "kind": bad.kind, **asdict(bad)}
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                str(self._path),
                f"{type(error).__name__}: {error.strerror or error}",
                "a file on a disk with room that this user may write",
                "Free some room; the same command then goes on from the last checkpoint.",
            ) from error

    def _read(self) -> list[dict[str, Any]]:
        lines, end = [], 0
        for data in self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []:
            if not data.endswith(b"\n"):  # a crash left it torn
                if self._writes:
                    os.truncate(self._path, end)
                break
            try:
                line = json.loads(data)
                lines.append({name: line[name] for name in ("stage", "bucket", "sample", "batch")})
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{self._path}: line {len(lines) + 1}",
                    f"{type(error).__name__}: {error}",
                    "a line that training wrote",
                    "Take that line out.",
                ) from error
            end += len(data)
        return lines


def _distinct(samples: int, epochs: float, batches: int, num_batches: int) -> float:
    """Return how many different samples of a bucket the first batches use: all buckets run down evenly by plan."""
    part = batches / num_batches
    return samples * part / max(1.0, epochs * part)
