"""How a sample becomes one row in which pictures, states and actions are words of the language model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trivium.action.tokenizer import ActionTokenizer
from trivium.core.batch import Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Image, Sample, State, Text, Video
from trivium.data.row import Row
from trivium.language.vocab import Vocab
from trivium.policy.sequence import Span, VlaLayout

IMAGE, STATE = "image", "state"
"""Names of the spans of the vocabulary that pictures and states take."""


@dataclass(frozen=True)
class Pictures:
    """What a layout must know of an image tokenizer; its weights are not needed to count."""

    image_size: int
    """Side of the pictures in pixels."""
    num_tokens: int
    """Ids that one picture becomes."""
    num_codes: int
    """Different ids there are."""


class UnifiedLayout(VlaLayout):
    """Lays out samples of every sort as one sequence of ids, in the order of their segments.

    ============= ==========================================================================
    robot         [begin] picture [end], instruction, state, [begin] actions [end], and last
                  [begin] later picture [end], whatever step in between moved it to the front
    caption       [begin] picture [end], newline, caption, end
    question      [begin] picture [end], question, newline, answer, end
    interleaved   text, [begin] picture [end], newline, text, [begin] picture [end], text, end
    ============= ==========================================================================

    A picture is always as many ids, row-major; they stand as the first code in the row until the objective, which has
    the tokenizer, puts them in. Codes of the span "image" are followed by [begin] and [end]. A state is a number of
    the span "state" for each dimension: [-1, 1] in as many bins as the span has ids. Losses are taken on every picture,
    on learned text and on actions; a [begin] of a picture is learned as a word where it comes after words of a
    document, for there the model has to say itself that a picture comes. States and [end] of pictures are only read.
    """

    def __init__(self, vocab: Vocab, pictures: Pictures, tokenizer: ActionTokenizer) -> None:
        """Hold what is needed to count and build.

        Raises:
            ConfigError: the vocabulary has no room for the codes of pictures or for the action tokens.
        """
        super().__init__(vocab, pictures.num_tokens, tokenizer)
        self.pictures, self.codes, self.begin = pictures, *check_span(vocab, pictures.num_codes)

    def build(self, sample: Sample) -> Row:
        """Return the row: ids and pictures, no numbers beside them."""
        ordered = _in_time(sample)
        images = tuple(image.pixels for image in ordered.of(Image))
        return replace(super().build(ordered), images=images, state=None, actions=None, valid=None)

    def prompt(self, sample: Sample) -> Row:
        """Return the row of what is seen, said, felt and done, without what comes after it."""
        ordered = _in_time(sample)
        now_s = _now(ordered)
        kept = tuple(part for part in ordered.segments if not (isinstance(part, Image) and part.time_s > now_s))
        return self.build(replace(ordered, segments=kept))

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return tokens by modality, none where the sample has nothing to learn from.

        Raises:
            DataError: a picture of another size than the image tokenizer takes.
        """
        side = self.pictures.image_size
        for image in sample.of(Image):
            if image.pixels.shape != (side, side, 3):
                height, width = image.pixels.shape[:2]
                todo = f"Add a Resize step to {side}, or train the image tokenizer on pictures of this size."
                raise DataError(f"sample {sample.id}", f"a picture of {height} x {width}", f"{side} x {side}", todo)
        return super().count(sample)

    def _spans(self, sample: Sample) -> list[Span]:
        if sample.of(Video):
            raise DataError(f"sample {sample.id}", "a video", "pictures", "Take frames out of it first.")
        sample = _in_time(sample)
        told = [i for i, part in enumerate(sample.segments) if _tells(part)]
        spans: list[Span] = []
        for i, part in enumerate(sample.segments):
            if isinstance(part, Image):
                spans += self._picture(bool(told) and told[0] < i)
            elif isinstance(part, State):
                spans.append(Span(Kind.STATE, self._state(part, sample)))
            elif isinstance(part, Action):
                spans += self._act(part, sample)
            elif isinstance(part, Text) and part.role != "document":
                spans += self._talk(part)
            elif isinstance(part, Text) and part.text:
                ids = self.vocab.encode(part.text, part.sentinels)
                spans += [Span(Kind.TEXT, self.newline)] if spans else []
                spans.append(Span(Kind.TEXT, [*ids, self.vocab.end] if i == told[-1] else ids, learned=True))
        return [span for span in spans if span.tokens]

    def _picture(self, told: bool) -> list[Span]:
        codes = [self.codes.start] * self.tokens_per_image
        return [
            Span(Kind.IMAGE, [self.begin], learned=told),
            Span(Kind.IMAGE, codes, learned=True),
            Span(Kind.IMAGE, [self.begin + 1]),
        ]

    def _state(self, state: State, sample: Sample) -> list[int]:
        span = self.vocab.span(STATE)
        if not np.isfinite(state.values).all():
            todo = "Mend or drop the episode; `trivium` never fills such gaps."
            raise DataError(f"sample {sample.id}", "a state with NaN or infinity", "finite numbers", todo)
        numbers = np.rint((state.values.clip(-1, 1) + 1) / 2 * (len(span) - 1)).astype(np.int64)
        return (span.start + numbers).tolist()


def check_span(vocab: Vocab, num_codes: int) -> tuple[range, int]:
    """Return the ids of the codes of pictures, and that of [begin]; [end] comes after it.

    Raises:
        ConfigError: there is no span for pictures, or it is too small.
    """
    span = vocab.span(IMAGE)
    check_room(len(span), num_codes, f"language.spans.{IMAGE}")
    return range(span.start, span.start + num_codes), span.start + num_codes


def check_room(room: int, num_codes: int, where: str) -> None:
    """Refuse a span that has no room for the codes of pictures and the two marks around them.

    Raises:
        ConfigError: it is too small; `where` names it.
    """
    if room < num_codes + 2:
        raise ConfigError(
            where,
            f"{room} ids" if room else "no such span",
            f"at least {num_codes + 2} ids (the codes of the image tokenizer, begin and end)",
            f"Set it to {num_codes + 2}, or train an image tokenizer with fewer codes.",
        )


def _tells(segment: object) -> bool:
    return isinstance(segment, Text) and segment.role == "document" and bool(segment.text)


def _now(sample: Sample) -> float:
    """Return when the robot felt and acted; a sample without a robot has no later pictures."""
    return max((part.time_s for part in (*sample.of(State), *sample.of(Action))), default=float("inf"))


def _in_time(sample: Sample) -> Sample:
    """Return the sample with the pictures of the future last: a step that orders views puts all pictures first."""
    now_s = _now(sample)
    later = tuple(part for part in sample.segments if isinstance(part, Image) and part.time_s > now_s)
    rest = tuple(part for part in sample.segments if not (isinstance(part, Image) and part.time_s > now_s))
    return replace(sample, segments=(*rest, *later))
