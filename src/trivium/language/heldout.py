"""How well a language model tells held-out text: nats of its tokens over bytes, so that vocabularies compare."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, Field

from trivium.core.batch import IGNORE, Kind
from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.rng import numpy_rng
from trivium.core.sample import Sample, Text
from trivium.data.bucket import SourceConfig
from trivium.data.row import Row, collate
from trivium.language.model import LanguageModel

WINDOW = 512
"""Tokens that are scored in one go; what a longer document says earlier is not seen."""
ROWS = 4
"""Windows in one forward pass."""


class HeldOutConfig(Config):
    """A corpus on which the language model is measured before, during and after every stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Names it in the report, such as "domain" or "general"."""
    source: SourceConfig
    """Its documents. Where a bucket trains on the same path, only the side that this bucket holds out is measured;
    else all of it."""
    num_tokens: int = Field(default=20_000, ge=1)
    """About so many tokens are scored, whole documents, the same ones each time: 10,000 to 100,000. Fewer give wide
    intervals; 20,000 take about 20 s at 135 M parameters on 2 cores."""


class TextScore(BaseModel):
    """What one model makes of one corpus."""

    model_config = ConfigDict(frozen=True)

    name: str
    tokens: int
    """That were scored: all but the first of every window."""
    bits_per_byte: float
    low: float
    high: float
    """Ends of the 95 % interval, from resampled documents."""
    perplexity: float
    """Of a token; it compares between models with one vocabulary alone."""
    nats: tuple[float, ...]
    """By document, so that two measurements can be compared pair by pair."""
    bytes: tuple[int, ...]
    """UTF-8 bytes of the scored tokens, by document."""


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a document that fits."""

    document: int
    tokens: np.ndarray
    num_bytes: int
    """Of all tokens but the first."""


def score(
    name: str, language: LanguageModel, samples: Sequence[Sample], groups: Int[np.ndarray, " n"], num_tokens: int
) -> TextScore:
    """Score samples in order until `num_tokens` are reached; those of one group are one document, cut by its source.

    The first token of a window has nothing before it and is not scored, nor are its bytes counted; the end of a
    document is no text. Bytes are those of the text as it stands: sentinels count as they are spelled.

    Raises:
        DataError: there is nothing to score.
    """
    windows: list[Window] = []
    total = 0
    owners = np.unique(groups, return_inverse=True)[1].tolist()
    for document, sample in zip(owners, samples, strict=True):
        found = list(_windows(language, document, sample))
        windows += found
        total += sum(len(window.tokens) - 1 for window in found)
        if total >= num_tokens:
            break
    if not windows:
        raise DataError(f"held-out text {name!r}", "no document of two tokens", "text", "Look at its source.")
    nats, size = np.zeros(len(samples)), np.zeros(len(samples), np.int64)
    # Long ones first: rows then end up full.
    ordered = sorted(windows, key=lambda window: -len(window.tokens))
    for window, value in zip(ordered, _nats(language, ordered), strict=True):
        nats[window.document] += value
        size[window.document] += window.num_bytes
    nats, size = nats[size > 0], size[size > 0]
    return summarise(name, total, nats, size)


def summarise(name: str, tokens: int, nats: np.ndarray, size: np.ndarray) -> TextScore:
    """Turn sums by document into bits per byte with an interval."""
    drawn = numpy_rng(0, "held-out", len(nats)).integers(0, len(nats), (1000, len(nats)))
    bits = nats[drawn].sum(1) / size[drawn].sum(1) / math.log(2)
    low, high = np.quantile(bits, [0.025, 0.975])
    return TextScore(
        name=name,
        tokens=tokens,
        bits_per_byte=float(nats.sum() / size.sum() / math.log(2)),
        low=float(low),
        high=float(high),
        perplexity=float(math.exp(min(nats.sum() / tokens, 700.0))),
        nats=tuple(nats.tolist()),
        bytes=tuple(size.tolist()),
    )


def change(before: TextScore, after: TextScore) -> tuple[float, float, float]:
    """Return by how many bits per byte a corpus changed, with the 95 % interval over the same documents."""
    assert before.bytes == after.bytes, "two measurements of different documents"
    size = np.array(before.bytes)
    gap = (np.array(after.nats) - np.array(before.nats)) / math.log(2)
    drawn = numpy_rng(0, "held-out", len(gap)).integers(0, len(gap), (1000, len(gap)))
    low, high = np.quantile(gap[drawn].sum(1) / size[drawn].sum(1), [0.025, 0.975])
    return float(gap.sum() / size.sum()), float(low), float(high)


def _windows(language: LanguageModel, document: int, sample: Sample) -> Iterator[Window]:
    """Cut a document; one-token ends have nothing to score."""
    length = min(WINDOW, language.max_length)
    for text in sample.of(Text):
        tokens, sizes = language.vocab.measure(text.text, text.sentinels)
        for begin in range(0, len(tokens), length):
            inside = slice(begin, begin + length)
            if len(tokens[inside]) > 1:
                yield Window(document, np.array(tokens[inside], np.int64), sum(sizes[inside][1:]))


@torch.no_grad()
def _nats(language: LanguageModel, windows: Sequence[Window]) -> Iterator[float]:
    """Yield the summed cross-entropy of every window, in order."""
    device = language.embedding.weight.device
    length = min(WINDOW, language.max_length)
    packs = _packs(windows, length)
    for begin in range(0, len(packs), ROWS):
        batch = collate([[("", row) for row in pack] for pack in packs[begin : begin + ROWS]], length).to(device)
        tokens, documents, positions, targets = batch.tokens, batch.documents, batch.positions, batch.targets
        assert tokens is not None, "rows of text have tokens"
        assert documents is not None, "rows of text have documents"
        assert positions is not None, "rows of text have positions"
        assert targets is not None, "rows of text have targets"
        hidden = language(language.embed(tokens), documents, positions)
        scored = targets != IGNORE
        losses = language.token_losses(hidden[scored], targets[scored]).double()
        sums = torch.zeros(len(batch.ids), dtype=torch.float64, device=device)
        yield from sums.index_add_(0, documents[scored], losses).tolist()


def _packs(windows: Sequence[Window], length: int) -> list[list[Row]]:
    """Lay windows side by side in their order."""
    packs: list[list[Row]] = []
    room = 0
    for window in windows:
        size = len(window.tokens)
        if size > room:
            packs.append([])
            room = length
        room -= size
        packs[-1].append(
            Row(
                sample_id=str(window.document),
                length=size,
                counts={"text": size},
                tokens=window.tokens,
                kinds=np.full(size, int(Kind.TEXT), np.int64),
                targets=np.append(window.tokens[1:], IGNORE),
            )
        )
    return packs
