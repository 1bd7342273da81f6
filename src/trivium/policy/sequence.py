"""How the segments of a sample become one row of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from trivium.action.tokenizer import ActionTokenizer
from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Image, Sample, State, Text, Video
from trivium.data.row import Row
from trivium.language.vocab import Vocab

LEARNED = ("document", "caption", "answer")
"""Roles of text that a loss is taken on; instructions and questions are only read."""


@dataclass(frozen=True)
class Span:
    """A run of tokens of one kind; `learned` puts a loss on each of its tokens."""

    kind: Kind
    tokens: list[int]
    learned: bool = False


class VlaLayout:
    """Lays out samples of every sort for one model.

    A robot's sample has a fixed order, whatever the order of its segments: pictures, read text, state, learned text,
    action tokens. All others are laid out in the order of their segments, pictures where they stand.

    ============= =========================================================
    robot         images, instruction, state, [begin] action tokens [end]
    question      images, question, newline, answer, end
    conversation  image, question, newline, answer, end, question, newline, ...
    caption       images, newline, caption, end
    document      text, end
    interleaved   text, image, newline, text, image, newline, text, end
    ============= =========================================================

    There is no chat template: base models have none, and a newline costs one token. Every learned span but a document
    at the very start follows a token that is always there (the newline, [begin]), so that a loss never hangs on a
    token that modality dropout may take away. The texts of one interleaved document have one end, behind the last:
    a picture within it ends nothing. Action ids sit above all text ids: id i of the action tokenizer is
    `extra_start + i`, then [begin], then [end].
    """

    def __init__(self, vocab: Vocab, tokens_per_image: int, tokenizer: ActionTokenizer | None) -> None:
        """Hold what is needed to count and build.

        Args:
            vocab: text to ids.
            tokens_per_image: what the connector makes of one picture.
            tokenizer: of normalised action chunks; None leaves action tokens out (a flow head alone).

        Raises:
            ConfigError: the vocabulary has no room for the action tokens.
        """
        if tokenizer is not None and vocab.num_extra < tokenizer.vocab_size + 2:
            raise ConfigError(
                "language.num_extra_tokens",
                str(vocab.num_extra),
                f"at least {tokenizer.vocab_size + 2} (action vocabulary {tokenizer.vocab_size}, begin and end)",
                f"Set num_extra_tokens={tokenizer.vocab_size + 2} or shrink the vocabulary of model.tokenizer.",
            )
        self.vocab, self.tokens_per_image, self.tokenizer = vocab, tokens_per_image, tokenizer
        self.numeric = tokenizer is not None  # FAST makes more tokens of faster motion
        self.newline = vocab.encode("\n")

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return tokens by modality, none where the sample has nothing to learn from."""
        spans = self._spans(sample)
        if not sample.of(Action) and not any(span.learned and span.tokens for span in spans):
            return {}
        return _count(spans)

    def build(self, sample: Sample) -> Row:
        """Return the row; an observation without an action becomes a row without action tokens."""
        spans = self._spans(sample)
        tokens = np.array([token for span in spans for token in span.tokens], np.int64)
        kinds = np.repeat([int(span.kind) for span in spans], [len(span.tokens) for span in spans]).astype(np.int64)
        learned = np.repeat([span.learned for span in spans], [len(span.tokens) for span in spans]).astype(bool)
        targets = np.full(len(tokens), IGNORE, np.int64)
        targets[:-1] = np.where(learned[1:], tokens[1:], IGNORE)
        state, action = _single(sample, State), _single(sample, Action)
        return Row(
            sample_id=sample.id,
            length=len(tokens),
            counts=_count(spans),
            tokens=tokens,
            kinds=kinds,
            targets=targets,
            images=tuple(image.pixels for image in sample.of(Image)),
            state=None if state is None else _finite(state.values, sample, "state"),
            actions=None if action is None else _finite(action.values, sample, "action"),
            valid=None if action is None else np.asarray(action.valid, bool),
        )

    def _spans(self, sample: Sample) -> list[Span]:
        if sample.of(Video):
            raise DataError(
                f"sample {sample.id}", "a video", "pictures, text, state and action", "Take frames out of it first."
            )
        spans = self._robot(sample) if _of_robot(sample) else self._in_order(sample)
        return [span for span in spans if span.tokens]

    def _robot(self, sample: Sample) -> list[Span]:
        """Return the spans of an observation, with or without what to do."""
        _check_present(sample)
        texts: list[Text] = sample.of(Text)
        spans = [Span(Kind.IMAGE, [0] * self.tokens_per_image) for _ in sample.of(Image)]
        spans += [Span(Kind.TEXT, self.vocab.encode(text.text)) for text in texts if text.role == "instruction"]
        if _single(sample, State) is not None:
            spans.append(Span(Kind.STATE, [0]))
        spans += [span for text in texts if text.role != "instruction" for span in self._talk(text)]
        action = _single(sample, Action)
        if action is not None and self.tokenizer is not None:
            spans += self._act(action, sample)
        return spans

    def _in_order(self, sample: Sample) -> list[Span]:
        """Return the spans of pictures and words, in the order of their segments."""
        documents = {
            i: self.vocab.encode(segment.text, segment.sentinels)
            for i, segment in enumerate(sample.segments)
            if isinstance(segment, Text) and segment.role == "document"
        }
        last = max((i for i, ids in documents.items() if ids), default=-1)
        spans: list[Span] = []
        for i, segment in enumerate(sample.segments):
            if isinstance(segment, Image):
                spans.append(Span(Kind.IMAGE, [0] * self.tokens_per_image))
            elif documents.get(i):
                spans += [Span(Kind.TEXT, self.newline)] if spans else []
                end = [self.vocab.end] if i == last else []
                spans.append(Span(Kind.TEXT, [*documents[i], *end], learned=True))
            elif isinstance(segment, Text) and i not in documents:
                spans += self._talk(segment)
        return spans

    def _talk(self, text: Text) -> list[Span]:
        """Return the spans of a question, an answer, a caption or a document."""
        ids = self.vocab.encode(text.text, text.sentinels)
        if text.role not in LEARNED:
            return [Span(Kind.TEXT, ids)]
        if not ids:
            return []
        opening = [] if text.role == "document" else [Span(Kind.TEXT, self.newline)]
        return [*opening, Span(Kind.TEXT, [*ids, self.vocab.end], learned=True)]

    def _act(self, action: Action, sample: Sample) -> list[Span]:
        assert self.tokenizer is not None, "no action tokenizer"
        first = self.vocab.extra_start
        begin, end = first + self.tokenizer.vocab_size, first + self.tokenizer.vocab_size + 1
        ids = [first + token for token in self.tokenizer.encode(_finite(action.values, sample, "action"))]
        return [Span(Kind.ACTION, [begin]), Span(Kind.ACTION, [*ids, end], learned=True)]


def _of_robot(sample: Sample) -> bool:
    """Tell whether a robot felt, did or saw this; what teaches no word is what a policy looks at, state or none."""
    words = any(text.role in LEARNED for text in sample.of(Text))
    return bool(sample.embodiment or sample.of(State) or sample.of(Action) or not words)


def _check_present(sample: Sample) -> None:
    """Refuse pictures of the future: a policy that learned from them would wait for them on the robot."""
    now_s = max((segment.time_s for segment in (*sample.of(State), *sample.of(Action))), default=float("inf"))
    for image in sample.of(Image):
        if image.time_s > now_s:
            raise DataError(
                f"sample {sample.id}",
                f"a picture of view {image.view!r} at {image.time_s:g} s, and what is felt and done at {now_s:g} s",
                "pictures up to the present",
                "Set future=0 in the source; only a unified stage learns what comes next.",
            )


def _count(spans: list[Span]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for span in spans:
        name = span.kind.name.lower()
        counts[name] = counts.get(name, 0) + len(span.tokens)
    return counts


S = TypeVar("S", State, Action)


def _single(sample: Sample, kind: type[S]) -> S | None:
    found = sample.of(kind)
    if len(found) > 1:
        raise DataError(
            f"sample {sample.id}",
            f"{len(found)} segments of type {kind.__name__}",
            "at most one",
            "Stack a history into one state, or set history=1 in the source.",
        )
    return found[0] if found else None


def _finite(values: np.ndarray, sample: Sample, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise DataError(
            f"sample {sample.id}",
            f"{values[place]} in the {what} at {place}",
            "finite numbers",
            "Mend or drop the episode; `trivium` never fills such gaps.",
        )
    return np.asarray(values, np.float32)
