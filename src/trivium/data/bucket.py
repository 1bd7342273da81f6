"""Buckets: sources with a share of the tokens, a cap on repetition, and a side of the train/val split."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.data.source.code import CodeConfig
from trivium.data.source.conversation import ConversationConfig
from trivium.data.source.hdf5 import Hdf5Config
from trivium.data.source.interleaved import InterleavedConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import ImageTextConfig
from trivium.data.source.rlds import RldsConfig
from trivium.data.source.source import Source
from trivium.data.source.text import TextConfig
from trivium.data.source.webdataset import WebDatasetConfig
from trivium.data.source.zarr_set import ZarrConfig

SourceConfig = Annotated[
    LeRobotConfig
    | RldsConfig
    | Hdf5Config
    | ZarrConfig
    | ImageTextConfig
    | WebDatasetConfig
    | ConversationConfig
    | InterleavedConfig
    | TextConfig
    | CodeConfig,
    Field(discriminator="kind"),
]
Split = Literal["train", "val", "all"]


class SizeRange(Config):
    """Models that a bucket is for, by their number of parameters.

    StarCoder2 gives small models less to learn: text and mathematics from 7 B on, all 619 languages from 15 B on
    (https://arxiv.org/abs/2402.19173, Table 4).
    """

    at_least: int = Field(default=0, ge=0)
    """Parameters of the smallest model that takes the bucket, frozen ones counted too; 0 is every model."""
    below: int = Field(default=10**15, gt=0)
    """Parameters of the smallest model that no longer takes it; the default, 10^15, is above every model."""

    def holds(self, num_parameters: int) -> bool:
        """Tell whether a model of this size takes the bucket."""
        return self.at_least <= num_parameters < self.below


ANY_SIZE = SizeRange()


class BucketConfig(Config):
    """A source and its share of what a stage trains on."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Short name for tables and token counts; letters, digits and _ . - only."""
    source: SourceConfig
    """Where the samples come from."""
    weight: float = Field(gt=0)
    """Share of the stage's TOKENS, relative to the other buckets; not of its samples."""
    max_epochs: float = Field(gt=0)
    """How often a sample may be repeated: text gains little beyond 4, robot data is repeated tens of times. A stage
    that would need more is refused before it starts."""
    split: Split = "train"
    """Which side of the split to use; probes and evaluations take "val"."""
    val_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of groups (episodes, documents) held out; the same for all stages, or a probe meets what was trained on."""
    when: SizeRange = ANY_SIZE
    """Sizes of model that take this bucket; others train as if it were not there, and the other shares grow."""


class MixtureConfig(Config):
    """What a stage trains on and how it is packed."""

    buckets: tuple[BucketConfig, ...] = Field(min_length=1)
    """The buckets; their weights are normalised to 1."""
    row_length: int = Field(ge=1)
    """Tokens in a packed row: 512 to 8192. Longer samples are dropped, with a count in the plan."""
    rows_per_batch: int = Field(ge=1)
    """Packed rows in one micro-batch; memory grows in proportion."""
    max_images_per_row: int = Field(ge=0)
    """Pictures in one row at most: the vision encoder's cost is not in the token count. 0 where there are none."""
    workers: int = Field(default=2, ge=0)
    """Processes that read ahead; 0 reads in the training process. It changes speed, never what is trained on."""
    max_bad_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the different samples read so far (of 200, while they are fewer) that may be bad: each is replaced by
    one of equal cost and listed in quarantine.jsonl; one more stops the run. 0 stops at the first; above 0.05 the set
    should be mended instead."""

    def build(self) -> dict[str, Source]:
        """Open every source, by bucket name; buckets with equal source configs share one.

        Raises:
            ConfigError: two buckets have one name.
            DataError: a source cannot be used.
        """
        twice = [name for name, number in Counter(bucket.name for bucket in self.buckets).items() if number > 1]
        if twice:
            raise ConfigError(
                "mixture.buckets", f"two buckets named {twice[0]!r}", "different names", "Rename one of them."
            )
        opened: dict[str, Source] = {}
        for bucket in self.buckets:
            key = bucket.source.model_dump_json()
            opened[key] = opened[key] if key in opened else bucket.source.build()
        return {bucket.name: opened[bucket.source.model_dump_json()] for bucket in self.buckets}

    @property
    def sized(self) -> bool:
        """Whether the size of the model matters to any bucket."""
        return any(bucket.when != ANY_SIZE for bucket in self.buckets)

    def of_size(self, num_parameters: int) -> "MixtureConfig":
        """Return the mixture of a model of this size: buckets that are not for it are left out.

        Raises:
            ConfigError: no bucket is for it.
        """
        taken = tuple(bucket for bucket in self.buckets if bucket.when.holds(num_parameters))
        if not taken:
            raise ConfigError(
                "mixture.buckets",
                f"no bucket for a model of {num_parameters:,} parameters",
                "at least one whose `when` holds",
                "Widen `when` of one of them.",
            )
        return self.replace(buckets=taken)

    def steps_for(self, tokens: int, accumulate: int = 1, padding: float = 0.0) -> int:
        """Return the steps in which a stage sees at least so many tokens: how a recipe gives a stage a token budget.

        Args:
            tokens: the budget, padding not counted.
            accumulate: micro-batches of a step, as in the stage.
            padding: share of the rows that is padding; `trivium data plan` prints it.

        Raises:
            ConfigError: no tokens.
        """
        if tokens <= 0:
            raise ConfigError(
                "mixture: the token budget", f"{tokens:,} tokens", "more than 0", "Leave the stage out of the list."
            )
        assert 0 <= padding < 1, f"padding is a share of the rows, not {padding}"
        return math.ceil(tokens / (self.row_length * self.rows_per_batch * accumulate * (1 - padding)))


def held_out(groups: Int[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"]:
    """Tell which samples are held out for validation, by a hash of their group.

    The answer for a group depends on its id alone, so sets that describe the same episodes split alike, and
    new episodes never move old ones. Only where chance would leave a side empty, its nearest group moves there.
    """
    if share == 0:
        return np.zeros(len(groups), bool)
    unique, inverse = np.unique(groups, return_inverse=True)
    place = _uniform(unique)
    out = place < share
    if len(unique) > 1 and not out.any():
        out[place.argmin()] = True
    if len(unique) > 1 and out.all():
        out[place.argmax()] = False
    return out[inverse]


def select(source: Source, split: Split, val_share: float) -> Int[np.ndarray, " m"]:
    """Return the samples on one side of the split.

    Raises:
        DataError: that side is empty.
    """
    if split == "all":
        return np.arange(len(source))
    out = held_out(source.groups(), val_share)
    found = np.flatnonzero(out if split == "val" else ~out)
    if not len(found):
        raise DataError(
            f"source {source.name}",
            f"no samples on the {split!r} side of the split (val_share {val_share:g})",
            "at least two episodes or documents, and a val_share above 0 for 'val'",
            "Add data, change `val_share`, or use split 'all'.",
        )
    return found


def shares(mixture: MixtureConfig) -> Mapping[str, float]:
    """Return the asked share of tokens by bucket; they add up to 1."""
    total = sum(bucket.weight for bucket in mixture.buckets)
    return {bucket.name: bucket.weight / total for bucket in mixture.buckets}


def _uniform(ids: Int[np.ndarray, " g"]) -> np.ndarray:
    """Hash ids to [0, 1) (splitmix64), the same on every machine."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
