"""Buckets: sources with a share of the tokens, a cap on repetition, and a side of the train/val split."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import ImageTextConfig
from trivium.data.source.source import Source
from trivium.data.source.text import TextConfig

SourceConfig = Annotated[LeRobotConfig | ImageTextConfig | TextConfig, Field(discriminator="kind")]
Split = Literal["train", "val", "all"]


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
