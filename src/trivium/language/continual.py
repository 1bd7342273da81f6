"""Next-token prediction on text: how a pretrained language model goes on learning."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.objective import Loss, Losses, Objective
from trivium.core.sample import Sample, Text
from trivium.data.row import Row
from trivium.language.model import LanguageModel
from trivium.language.vocab import Vocab


@runtime_checkable
class HasLanguage(Protocol):
    """Whatever carries the language model: the whole model, usually."""

    language: LanguageModel


class ContinualConfig(Config):
    """Next-token prediction on packed documents."""

    kind: Literal["continual"] = "continual"

    def build(self, model: HasLanguage) -> "ContinualObjective":
        """Build the objective around the language model of `model`."""
        return ContinualObjective(model.language)

    def layout(self, vocab: Vocab) -> "TextLayout":
        """Build the layout."""
        return TextLayout(vocab.encode, vocab.end)


class ContinualObjective(Objective):
    """Cross-entropy of every next token of every document, the end token included."""

    def __init__(self, language: LanguageModel) -> None:
        """Hold the shared language model."""
        super().__init__()
        self.language = language

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the supervised positions."""
        assert batch.targets is not None, "continual: the batch has no tokens"
        return {"tokens": float((batch.targets != IGNORE).sum())}

    def forward(self, batch: Batch) -> Losses:
        """Run the rows and score the supervised positions."""
        tokens, targets, documents, positions = batch.tokens, batch.targets, batch.documents, batch.positions
        assert tokens is not None, "continual: the batch has no tokens"
        assert targets is not None, "continual: the batch has no targets"
        assert documents is not None, "continual: the batch has no documents"
        assert positions is not None, "continual: the batch has no positions"
        hidden = self.language(self.language.embed(tokens), documents, positions)
        supervised = targets != IGNORE
        losses = self.language.token_losses(hidden[supervised], targets[supervised])
        return Losses(text=Loss(losses.sum(), float(losses.numel())))

    def fake_batch(self) -> Batch:
        """Make two rows: one of two documents and padding, one full."""
        generator = torch.Generator().manual_seed(0)
        documents = torch.tensor([[0] * 7 + [1] * 6 + [-1] * 3, [2] * 16])
        positions = torch.tensor([[*range(7), *range(6), 0, 0, 0], [*range(16)]])
        inside = documents >= 0
        tokens = torch.randint(self.language.vocab.extra_start, (2, 16), generator=generator) * inside
        targets = tokens.roll(-1, dims=1)
        targets[documents != documents.roll(-1, dims=1)] = IGNORE
        targets[:, -1] = IGNORE
        targets[~inside] = IGNORE
        kinds = torch.where(inside, int(Kind.TEXT), int(Kind.PAD))
        return Batch(
            tokens=tokens,
            kinds=kinds,
            documents=documents,
            positions=positions,
            targets=targets,
            ids=("fake/0", "fake/1", "fake/2"),
            token_counts={"fake/text": int(inside.sum())},
        )


class TextLayout:
    """A document is one sample: its texts joined by new lines, and the end token.

    Nothing is cut: a source splits documents that are too long (`max_chars`), and the plan drops, counts and reports
    a sample that is still longer than a row.
    """

    numeric = False

    def __init__(self, encode: Callable[..., list[int]], end: int) -> None:
        """Remember how to encode, `Vocab.encode` as a rule; pickles when `encode` does."""
        self.encode = encode
        self.end = end

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return the number of text tokens, or nothing for a sample without a text of at least one token."""
        size = len(self._tokens(sample))
        return {"text": size} if size > 1 else {}

    def build(self, sample: Sample) -> Row:
        """Return the row; every token but the last has the next one as its target."""
        tokens = np.array(self._tokens(sample), dtype=np.int64)
        return Row(
            sample_id=sample.id,
            length=len(tokens),
            counts={"text": len(tokens)},
            tokens=tokens,
            kinds=np.full(len(tokens), int(Kind.TEXT), dtype=np.int64),
            targets=np.append(tokens[1:], IGNORE),
        )

    def _tokens(self, sample: Sample) -> list[int]:
        texts = sample.of(Text)
        if not any(segment.sentinels for segment in texts):
            return [*self.encode("\n".join(segment.text for segment in texts)), self.end]
        # One by one: a sentinel is structure in the text that vouches for it, and words in its neighbour's.
        ids: list[int] = []
        for place, segment in enumerate(texts):
            ids += self.encode("\n") if place else []
            ids += self.encode(segment.text, segment.sentinels)
        return [*ids, self.end]
