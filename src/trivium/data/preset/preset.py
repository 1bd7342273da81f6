"""Mixtures that others have published: every figure with where it stands and how sure we are of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from trivium.core.errors import ConfigError
from trivium.core.schema import suggest
from trivium.data.bucket import ANY_SIZE, BucketConfig, MixtureConfig, SizeRange, SourceConfig


@dataclass(frozen=True)
class Cite:
    """Where a figure stands.

    `sure` is True where it was read in the paper, the table or the config itself; False where it was recalled or seen
    in a secondary text only: check it before you build on it.
    """

    where: str
    sure: bool = True

    def __str__(self) -> str:
        return self.where if self.sure else f"{self.where} (not read there: check)"


@dataclass(frozen=True, kw_only=True)
class PresetRow:
    """One published source of tokens."""

    name: str
    """What `mixture` asks a source for."""
    amount: float
    """In the unit of the preset."""
    cite: Cite
    used: float = 1.0
    """How often its tokens are seen in one pass: 0.5 where half is sampled, 2 where it is doubled."""
    when: SizeRange = ANY_SIZE
    """Sizes of model that take it."""
    about: str = ""
    """What it is, where the name does not say."""

    @property
    def weight(self) -> float:
        """Tokens of one pass, in the unit of the preset."""
        return self.amount * self.used


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A published figure beside the mixture: tokens seen, learning rate, epochs."""

    name: str
    value: str
    cite: Cite


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published mixture. `total` is the sum that its authors print, which need not be the sum of their rows."""

    name: str
    title: str
    unit: str
    """Of the amounts: "B tokens" or "share"."""
    rows: tuple[PresetRow, ...]
    total: float | None = None
    total_cite: Cite | None = None
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sum(self) -> float:
        """Our own sum of the amounts."""
        return sum(row.amount for row in self.rows)

    @property
    def sum_used(self) -> float:
        """Our own sum of what one pass sees."""
        return sum(row.weight for row in self.rows)

    def of_size(self, num_parameters: int, name: str, title: str, total: float, cite: Cite) -> "Preset":
        """Return the preset of one size of model, with the sum that its authors print for it."""
        rows = tuple(row for row in self.rows if row.when.holds(num_parameters))
        settings = self.settings
        return Preset(
            name=name, title=title, unit=self.unit, rows=rows, total=total, total_cite=cite, settings=settings
        )

    def mixture(
        self,
        sources: Mapping[str, SourceConfig],
        row_length: int,
        rows_per_batch: int,
        max_images_per_row: int,
        max_epochs: float,
    ) -> MixtureConfig:
        """Return this mixture over your own sources: a bucket a row, in its published share of tokens.

        Args:
            sources: for every row the source that stands for it.
            row_length: as in `MixtureConfig`; so are the other sizes.
            rows_per_batch: packed rows in a micro-batch.
            max_images_per_row: pictures in a row at most.
            max_epochs: cap on repetition of every bucket.

        Raises:
            ConfigError: a row without a source, or a source for no row: dropping one silently would change every share.
        """
        names = [row.name for row in self.rows]
        for name in sources:
            if name not in names:
                todo = suggest(name, names, f"`trivium data presets {self.name}` prints them.")
                raise ConfigError(f"preset {self.name}", f"a source for {name!r}", f"one of {', '.join(names)}", todo)
        missing = [name for name in names if name not in sources]
        if missing:
            raise ConfigError(
                f"preset {self.name}",
                f"no source for {', '.join(missing)}",
                f"a source for each of its {len(names)} rows",
                "Give one, or write the buckets yourself: without that row every share is another.",
            )
        buckets = tuple(
            BucketConfig(
                name=row.name, source=sources[row.name], weight=row.weight, max_epochs=max_epochs, when=row.when
            )
            for row in self.rows
        )
        return MixtureConfig(
            buckets=buckets,
            row_length=row_length,
            rows_per_batch=rows_per_batch,
            max_images_per_row=max_images_per_row,
        )


def rows(cite: Cite, amounts: Mapping[str, float], used: Mapping[str, float] | None = None) -> tuple[PresetRow, ...]:
    """Return rows that stand in one place."""
    used = used or {}
    return tuple(PresetRow(name=n, amount=amount, cite=cite, used=used.get(n, 1.0)) for n, amount in amounts.items())


def settings(cite: Cite, values: Mapping[str, str]) -> tuple[Setting, ...]:
    """Return settings that stand in one place."""
    return tuple(Setting(name=name, value=value, cite=cite) for name, value in values.items())
