"""One sample as a model will see it, and how many of them become a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int8, Int64, UInt8

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.errors import DataError
from trivium.core.sample import LINE, Sample

NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """A laid-out sample.

    Stages without a token sequence (MAE, the action prior) leave `tokens`, `kinds` and `targets` empty; `length` is
    then only the cost that packing counts. Where there are tokens, `length` is at least their number.
    """

    sample_id: str
    length: int
    """Cost in tokens: what the plan counted and what fills a pack."""
    counts: Mapping[str, int]
    """Tokens by modality; they add up to `length`."""
    tokens: Int64[np.ndarray, " t"] = field(default_factory=lambda: NONE)
    kinds: Int64[np.ndarray, " t"] = field(default_factory=lambda: NONE)
    targets: Int64[np.ndarray, " t"] = field(default_factory=lambda: NONE)
    """The NEXT token, already shifted; IGNORE where no loss is taken, and always at the last token."""
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]] = ()
    """Pictures in the order of their tokens."""
    state: Float32[np.ndarray, " s"] | None = None
    actions: Float32[np.ndarray, "k a"] | None = None
    """Normalised chunk."""
    valid: Bool[np.ndarray, " k"] | None = None
    """Real steps of the chunk; given exactly when `actions` is."""
    dims: Int8[np.ndarray, " a"] | None = None
    """What each dimension of an action is for this robot, as in `Sample`."""


@runtime_checkable
class Layout(Protocol):
    """How segments become a row: the model side implements it, the data side only calls it.

    It travels to loader workers, so it must be picklable.
    """

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return tokens by modality of a transformed sample with blank pictures; the sum is the length of its row.

        An empty result, or zeros, says that this sample has nothing for the stage: it is dropped and reported.
        """
        ...

    def build(self, sample: Sample) -> Row:
        """Return the row of a transformed sample; `row.counts` equals `count`."""
        ...


def collate(packs: Sequence[Sequence[tuple[str, Row]]], row_length: int) -> Batch:
    """Put packs of rows side by side: pack i becomes row i of the batch.

    Documents are numbered through the batch in the order of `packs`; fields that no row has stay None. The token
    tensors have `row_length` columns however full the packs are: shapes that change would recompile the model.

    Args:
        packs: for every row of the batch its samples, each with the name of its bucket.
        row_length: tokens in a row.

    Raises:
        DataError: pictures, states or actions of different shapes meet in one batch.
    """
    flat = [(i, bucket, row) for i, pack in enumerate(packs) for bucket, row in pack]
    rows = [row for _, _, row in flat]
    counts: dict[str, int] = {}
    for _, bucket, row in flat:
        for modality, number in row.counts.items():
            counts[f"{bucket}/{modality}"] = counts.get(f"{bucket}/{modality}", 0) + int(number)
    images = [(d, row.sample_id, image) for d, row in enumerate(rows) for image in row.images]
    states = [(d, row.sample_id, row.state) for d, row in enumerate(rows) if row.state is not None]
    actions = [(d, row.sample_id, row.actions) for d, row in enumerate(rows) if row.actions is not None]
    valid = [(d, row.sample_id, row.valid) for d, row in enumerate(rows) if row.valid is not None]
    assert [d for d, _, _ in actions] == [d for d, _, _ in valid], "actions and valid must come together"
    pixels = _stack("pictures", images)
    return Batch(
        **_tokens([(i, row) for i, _, row in flat], len(packs), row_length),
        images=None if pixels is None else pixels.permute(0, 3, 1, 2).contiguous(),
        images_document=_documents(images),
        states=_stack("states", states),
        states_document=_documents(states),
        actions=_stack("actions", actions),
        actions_valid=_stack("masks", valid),
        actions_document=_documents(actions),
        dims=_dims(rows),
        ids=tuple(row.sample_id for row in rows),
        token_counts=counts,
    )


def _tokens(rows: list[tuple[int, Row]], height: int, width: int) -> dict[str, torch.Tensor]:
    """Fill the token tensors; positions restart in every document, padding belongs to none (-1)."""
    if not any(len(row.tokens) for _, row in rows):
        return {}
    start = {"tokens": 0, "kinds": int(Kind.PAD), "documents": -1, "positions": 0, "targets": IGNORE}
    out = {name: np.full((height, width), value, np.int64) for name, value in start.items()}
    ends = [0] * height
    for document, (i, row) in enumerate(rows):
        size = len(row.tokens)
        assert len(row.kinds) == len(row.targets) == size <= row.length, f"{row.sample_id}: fields of unequal length"
        assert not size or row.targets[-1] == IGNORE, (
            f"{row.sample_id}: the last target would be another sample's token"
        )
        place = slice(ends[i], ends[i] + size)
        ends[i] += size
        assert ends[i] <= width, f"pack {i} holds {ends[i]} tokens, a row has {width}"
        out["tokens"][i, place], out["kinds"][i, place], out["targets"][i, place] = row.tokens, row.kinds, row.targets
        out["documents"][i, place], out["positions"][i, place] = document, np.arange(size)
    return {name: torch.from_numpy(values) for name, values in out.items()}


def _dims(rows: Sequence[Row]) -> torch.Tensor | None:
    """Return what the dimensions of every row's action are; where a row does not say, all are plain numbers."""
    said = [(d, row.sample_id, row.dims) for d, row in enumerate(rows) if row.dims is not None]
    if not said:
        return None
    width = _stack("dimensions of an action", said)
    assert width is not None, "rows that say it"
    dims = torch.full((len(rows), width.shape[1]), LINE, dtype=torch.int64)
    dims[[d for d, _, _ in said]] = width.long()
    return dims


def _stack(what: str, found: list[tuple[int, str, np.ndarray]]) -> torch.Tensor | None:
    if not found:
        return None
    _, first_id, first = found[0]
    for _, sample_id, values in found:
        if values.shape != first.shape:
            raise DataError(
                f"sample {sample_id}",
                f"{what} of shape {values.shape}",
                f"{first.shape}, as in sample {first_id} of the same batch",
                "Add a Resize step for pictures; give robots of different dimensions their own stage or pad them.",
            )
    return torch.from_numpy(np.stack([values for _, _, values in found]))


def _documents(found: list[tuple[int, str, np.ndarray]]) -> torch.Tensor | None:
    return torch.tensor([document for document, _, _ in found], dtype=torch.int64) if found else None
