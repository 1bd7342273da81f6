"""Text to ids and back, with room for ids that no text can produce."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from trivium.core.errors import ConfigError
from trivium.data.sentinel import SHAPE, STARCODER2
from trivium.language.chat import Chat

CONTROL = re.compile(r"<\|.+\|>")
"""How every family spells a control word; "<b>" is a word of the text in Gemma's vocabulary."""


class Vocab:
    """A tokenizer and, above everything it can emit, ids for what is no text.

    From below: the tokenizer's ids and the gap that a padded embedding leaves; `num_extra` ids for actions; the named
    spans (image codes, states), in the order given; one id for each sentinel that the tokenizer does not have.
    Text is encoded without special tokens: "<|im_end|>" in a caption is nine characters, not the end of a document.
    Pickles, so that loader workers can hold one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        end: int,
        extra_start: int,
        num_extra: int,
        spans: Mapping[str, int] | None = None,
        sentinels: Sequence[str] = (),
        chat: Chat | None = None,
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: a `tokenizers` tokenizer; it is set to spell special tokens out.
            end: id that ends a document.
            extra_start: first extra id, not below any id of the tokenizer.
            num_extra: how many extra ids there are for actions.
            spans: how many ids each other modality has, by its name.
            sentinels: words that mark structure in documents of code and are one id each.
            chat: what stands between the words of a conversation; None for a model without a template.

        Raises:
            ConfigError: an empty span, or a sentinel that is none, is there twice, or that text itself can become.
        """
        words = tokenizer.get_vocab(with_added_tokens=True)
        highest = max(words.values())
        assert extra_start > highest, f"extra ids start at {extra_start}, the tokenizer reaches {highest}"
        added = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items()}
        _check_sentinels(sentinels, words.keys() - added.keys())
        # Some families (Qwen) list control words among the ordinary ones, where text would still turn into them.
        known = set(STARCODER2.values()).union(sentinels)
        control = [word for word, i in added.items() if i == end or word in known or CONTROL.fullmatch(word)]
        tokenizer.add_special_tokens([AddedToken(word, special=True) for word in control])
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.end, self.chat = end, chat
        self.num_text = highest + 1
        """Rows of the embedding that the tokenizer uses; the gap above them was never trained."""
        self.extra_start = extra_start
        self.num_extra = num_extra
        self._spans: dict[str, range] = {}
        next_id = extra_start + num_extra
        for name, size in (spans or {}).items():
            _check_span(name, size)
            self._spans[name] = range(next_id, next_id + size)
            next_id += size
        self.sentinels = {word: added[word] for word in control if SHAPE.fullmatch(word)}
        for word in sentinels:
            if word not in self.sentinels:
                self.sentinels[word] = next_id
                next_id += 1
        self.size = next_id
        """Rows that the embedding has."""

    def __getstate__(self) -> dict:
        """Name what pickle would lose: a tokenizer forgets `encode_special_tokens` on the way to a worker."""
        return {**self.__dict__, "tokenizer": self.tokenizer.to_str()}

    def __setstate__(self, state: dict) -> None:
        """Restore the tokenizer with its setting."""
        self.__dict__.update(state)
        self.tokenizer = Tokenizer.from_str(state["tokenizer"])
        self.tokenizer.encode_special_tokens = True

    def span(self, name: str) -> range:
        """Return the ids of a modality: "action", or one of the spans.

        Raises:
            ConfigError: there is no span of that name.
        """
        spans = {"action": range(self.extra_start, self.extra_start + self.num_extra), **self._spans}
        if name not in spans:
            todo = "Give it a number of ids there."
            raise ConfigError(f"language.spans.{name}", "no such span", f"one of {', '.join(spans)}", todo)
        return spans[name]

    def encode(self, text: str, sentinels: Sequence[str] = ()) -> list[int]:
        """Return the ids of a text, without any begin or end token.

        Args:
            text: any text.
            sentinels: words that are structure in this text (`Text.sentinels`); one that has an id becomes it, one
                that has none is spelled out like the rest.
        """
        ids: list[int] = []
        for piece, sentinel in self._pieces(text, sentinels):
            ids += [self.sentinels[piece]] if sentinel else self.tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def measure(self, text: str, sentinels: Sequence[str] = ()) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and of how many of its UTF-8 bytes each is; they add up to those of the text.

        A character that several tokens share counts for the first of them, what a tokenizer drops for the one after it.
        """
        ids: list[int] = []
        sizes: list[int] = []
        for piece, sentinel in self._pieces(text, sentinels):
            if sentinel:
                ids.append(self.sentinels[piece])
                sizes.append(len(piece.encode()))
                continue
            found = self.tokenizer.encode(piece, add_special_tokens=False)
            ends = np.cumsum([0, *(len(character.encode()) for character in piece)])
            reached = np.maximum.accumulate([0, *(ends[end] for _, end in found.offsets)])
            reached[-1] = ends[-1]
            ids += found.ids
            sizes += np.diff(reached).tolist()
        return ids, sizes

    def _pieces(self, text: str, sentinels: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Yield the parts of a text and whether each is a sentinel."""
        marked = "|".join(re.escape(word) for word in sentinels if word in self.sentinels)
        for place, piece in enumerate(re.split(f"({marked})", text) if marked else [text]):
            if piece:
                yield piece, place % 2 == 1

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; extra ids show as <extra_0>, <image_3>, or as the sentinel they stand for."""
        pieces: list[str] = []
        run: list[int] = []
        for token in ids:
            name = self._name(token)
            if name is None:
                run.append(token)
                continue
            pieces += [self.tokenizer.decode(run), name]
            run = []
        return "".join([*pieces, self.tokenizer.decode(run)])

    def _name(self, token: int) -> str | None:
        """Return how an id that is no text is shown, or None."""
        if token < self.extra_start:
            return next((word for word, i in self.sentinels.items() if i == token and i != self.end), None)
        if token < self.extra_start + self.num_extra:
            return f"<extra_{token - self.extra_start}>"
        for name, span in self._spans.items():
            if token in span:
                return f"<{name}_{token - span.start}>"
        return next((word for word, i in self.sentinels.items() if i == token), f"<unknown_{token}>")


def _check_span(name: str, size: int) -> None:
    if size < 1:
        todo = "Leave it out, or say how many ids it has."
        raise ConfigError(f"language.spans.{name}", str(size), "at least 1", todo)
    if name == "action":
        raise ConfigError("language.spans.action", "a span of that name", "another name", "Use num_extra_tokens.")


def _check_sentinels(sentinels: Sequence[str], words: set[str]) -> None:
    """Refuse what cannot be told from text."""
    twice = [word for word in sentinels if sentinels.count(word) > 1]
    if twice:
        raise ConfigError("language.sentinels", f"{twice[0]!r} twice", "different words", "Leave one of them out.")
    for word in sentinels:
        if not SHAPE.fullmatch(word):
            todo = "Spell it for example <fim_prefix>."
            raise ConfigError("language.sentinels", repr(word), "one word in angle brackets, without < > \\", todo)
        if word in words:
            raise ConfigError(
                "language.sentinels",
                f"{word!r}, which is a word of the tokenizer's own text",
                "words that no text can become",
                "Spell it otherwise, here and in the sentinels of the code source.",
            )


def byte_tokenizer() -> Tokenizer:
    """Build a tokenizer whose ids 0..255 are the bytes of UTF-8 and 256 ends a document: small, exact, no download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer
