"""How the segments of a sample become one row of tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from trivium.action.tokenizer import ActionTokenizer
from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Image, Sample, Segment, State, Text, Video
from trivium.data.row import Row
from trivium.language.chat import Chat
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
    video         "<0.0 s>", frame, "<0.5 s>", frame, ...: wherever pictures may stand
    ============= =========================================================

    A base model has no chat template, and a newline costs one token. Where the vocabulary has a template (`Vocab.chat`)
    a conversation becomes exactly what the model's own template makes of it, and what a robot is told stands in the
    user's turn: opening, images, instruction, state, reply, and what is learned as in the table. A system turn of the
    data is put at the head of the user's; the template's own stays.

    Every learned span but a document at the very start follows a token that is always there (the newline, [begin]), so
    that a loss never hangs on a token that modality dropout may take away. The texts of one interleaved document have
    one end, behind the last: a picture within it ends nothing. Action ids sit above all text ids: id i of the action
    tokenizer is `extra_start + i`, then [begin], then [end].
    """

    def __init__(
        self, vocab: Vocab, tokens_per_image: int, tokenizer: ActionTokenizer | None, state_in_words: bool = False
    ) -> None:
        """Hold what is needed to count and build.

        Args:
            vocab: text to ids.
            tokens_per_image: what the connector makes of one picture.
            tokenizer: of normalised action chunks; None leaves action tokens out (a flow head alone).
            state_in_words: spell the state in digits instead of leaving one place for its vector.

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
        self.state_in_words = state_in_words
        self.numeric = tokenizer is not None or state_in_words  # FAST makes more tokens of faster motion
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
            images=tuple(_pictures(sample)),
            state=None if state is None else _finite(state.values, sample, "state"),
            actions=None if action is None else _finite(action.values, sample, "action"),
            valid=None if action is None else np.asarray(action.valid, bool),
            dims=sample.dims,
        )

    def _spans(self, sample: Sample) -> list[Span]:
        spans = self._robot(sample) if _of_robot(sample) else self._in_order(sample)
        return [span for span in spans if span.tokens]

    def _robot(self, sample: Sample) -> list[Span]:
        """Return the spans of an observation, with or without what to do."""
        _check_present(sample)
        texts: list[Text] = sample.of(Text)
        chat, state = self.vocab.chat, _single(sample, State)
        spans = [Span(Kind.TEXT, list(chat.opening))] if chat else []
        spans += [span for segment in sample.segments for span in self._look(segment)]
        spans += [Span(Kind.TEXT, self.vocab.encode(text.text)) for text in texts if text.role == "instruction"]
        if state is not None:
            words = state_words(_finite(state.values, sample, "state")) if self.state_in_words else ""
            spans.append(Span(Kind.STATE, self.vocab.encode(words) if words else [0]))
        spans += [Span(Kind.TEXT, list(chat.reply))] if chat else []
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
        if self.vocab.chat and any(text.role == "answer" for text in sample.of(Text)):
            return self._chat(sample, self.vocab.chat)
        last = max((i for i, ids in documents.items() if ids), default=-1)
        spans: list[Span] = []
        for i, segment in enumerate(sample.segments):
            spans += self._look(segment)
            if documents.get(i):
                spans += [Span(Kind.TEXT, self.newline)] if spans else []
                end = [self.vocab.end] if i == last else []
                spans.append(Span(Kind.TEXT, [*documents[i], *end], learned=True))
            elif isinstance(segment, Text) and i not in documents:
                spans += self._talk(segment)
        return spans

    def _chat(self, sample: Sample, chat: Chat) -> list[Span]:
        """Return the spans of a conversation in the model's own template; what is no answer is the user's."""
        spans, before = [Span(Kind.TEXT, list(chat.opening))], list(chat.again)
        answered = False
        for segment in sample.segments:
            answer = isinstance(segment, Text) and segment.role == "answer"
            if answered and not answer:
                spans.append(Span(Kind.TEXT, before))
            answered = answer
            spans += self._look(segment)
            if isinstance(segment, Text):
                ids = self.vocab.encode(segment.text, segment.sentinels)
                between = [Span(Kind.TEXT, list(chat.reply))] if answer else []
                spans += [*between, Span(Kind.TEXT, [*ids, *(chat.close if answer else ())], learned=answer)]
        return spans

    def _look(self, segment: Segment) -> list[Span]:
        """Return the places of a picture, or of a video's frames behind their times; nothing for anything else."""
        places = Span(Kind.IMAGE, [0] * self.tokens_per_image)
        if isinstance(segment, Image):
            return [places]
        if not isinstance(segment, Video):
            return []
        times = [Span(Kind.TEXT, self.vocab.encode(f"<{time_s:.1f} s>")) for time_s in segment.times_s]
        return [span for time in times for span in (time, places)]

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


def state_words(values: Float32[np.ndarray, " s"]) -> str:
    """Spell a normalised state: every number as one of 256 steps from -1 to 1, what lies outside as the nearest.

    As in pi0.5 (https://arxiv.org/abs/2504.16054).
    """
    steps = np.clip((values + 1) * 128, 0, 255).astype(int)
    return "State:" + "".join(f" {step}" for step in steps) + ";"


def _pictures(sample: Sample) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    for segment in sample.segments:
        if isinstance(segment, Image):
            yield segment.pixels
        elif isinstance(segment, Video):
            yield from segment.frames


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
