"""FAST: action chunks as few tokens, by cosine transform and byte-pair encoding over whole numbers."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Int
from tokenizers import Tokenizer, models, trainers

from trivium.action.pairs import LETTERS, Pair, apply_first, learn_first, letter, symbols_of, texts_of
from trivium.action.tokenizer import Ids, Reach, Table, TableTokenizer, along_time, cosines
from trivium.core.config import Config
from trivium.core.errors import ConfigError

SAMPLE = 1 << 21
"""Numbers that merges are learned from, 3,000 to 60,000 chunks; of more an even spread is taken, so that a fit never
takes more than seconds. See bench/fast.py: merges of 750 chunks cost 1 to 4 % more tokens than those of 3,000."""
MANY = 16
"""Chunks from which on first merges by arrays are faster than an encoder that does all."""


class FastConfig(Config):
    """A FAST tokenizer to be fitted on normalised chunks. Paper: https://arxiv.org/abs/2501.09747."""

    kind: Literal["fast"] = "fast"
    scale: float = 10.0
    """Coefficients are rounded to 1 / scale; the error of an action is about 0.29 / scale. 5-20; finer costs tokens."""
    vocab_size: int = 512
    """Tokens; must exceed the number of coefficient values (2 * scale * limit * sqrt(horizon) + 1). 256-2048."""
    limit: float = 1.5
    """Normalised actions are clipped to this, both ways; 1 is the 1 % and 99 % quantile of the data, so most of what
    lies beyond 1.5 is noise. Too small and fast motions are cut off."""

    def fit(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> "FastTokenizer":
        """Learn the merges from chunks; their order does not matter as long as all of them are learned from.

        Raises:
            ConfigError: a setting is out of range, or the vocabulary is smaller than its alphabet.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        for name in ("scale", "limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"fast.{name}", str(getattr(self, name)), "above 0", f"Change fast.{name}.")
        reach = Reach.of(chunks, self.limit)
        radius = _radius(self.scale, self.limit, reach.horizon)
        if not 2 * radius + 1 <= min(self.vocab_size, LETTERS):
            raise ConfigError(
                "fast.vocab_size",
                str(self.vocab_size),
                f"at least {2 * radius + 1}, one for every value of a coefficient (of at most {LETTERS})",
                "Raise fast.vocab_size or lower fast.scale.",
            )
        most = max(1, SAMPLE // reach.size)
        chosen = range(len(chunks)) if len(chunks) <= most else np.linspace(0, len(chunks) - 1, most).astype(int)
        spread = np.stack([chunks[i] for i in chosen])
        ids = FastTokenizer(self.scale, self.limit, reach, (), 0).coefficients(spread).reshape(len(spread), -1) + radius
        return FastTokenizer(self.scale, self.limit, reach, *_learn(ids, 2 * radius + 1, self.vocab_size))


class FastTokenizer(TableTokenizer):
    """Cosine transform over time, rounding, and a byte-pair encoding whose letters are whole numbers.

    Where we differ from the reference: its GPT-2 pre-tokenizer silently drops coefficient values that training never
    saw (then decodes to all zeros) and blocks merges. Here the alphabet covers every value that clipped actions can
    have, and every token sequence decodes to a finite chunk within reach; what had to be padded or cut for that is
    counted in `num_repaired`. The shape belongs to the tokenizer, not to its last call.
    """

    FORMAT: ClassVar[str] = "trivium-fast"

    def __init__(self, scale: float, limit: float, reach: Reach, merges: Sequence[Pair], num_first: int) -> None:
        """Wrap a learned encoding; `FastConfig.fit` and `from_json` are the ways to get one.

        Args:
            scale: of the coefficients.
            limit: of the actions that are encoded.
            reach: shape, and limits of the actions that are decoded.
            merges: pairs of ids in the order of their learning. The first ids are the values of a coefficient, lowest
                first; each merge makes the next one, unless another has already made the same run of values.
            num_first: merges that are done on all chunks at once, for speed alone.

        Raises:
            ValueError: a merge of ids that are not there yet, or a word longer than a chunk.
        """
        super().__init__(reach)
        self.scale, self.limit, self.merges, self.num_first = scale, limit, list(merges), num_first
        self._radius = _radius(scale, limit, reach.horizon)
        self._basis = cosines(reach.horizon)
        words = _words(self.merges, self._radius, reach.size)
        self._table, self._num_letters = Table(words), 2 * self._radius + 1
        self._bpe = _encoder(self.merges, self._num_letters + num_first, words)
        self._alone = _encoder(self.merges, self._num_letters, words)

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return len(self._table)

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the tokenizer was fitted for, or NaN or infinity.
        """
        ids = self.coefficients(self.checked(chunks)).reshape(-1, self.reach.size) + self._radius
        symbols, bpe = symbols_of(ids), self._alone
        if len(chunks) >= MANY:
            symbols, bpe = apply_first(symbols, self.merges[: self.num_first], self._num_letters), self._bpe
        return [found.ids for found in bpe.encode_batch_fast(texts_of(symbols), add_special_tokens=False)]

    def decode_all(self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids: missing coefficients are zero, surplus ones are cut, both counted.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        flat, whole = self._table.spell(sequences, self.reach.size)
        self.num_repaired += int((~whole).sum())
        coefficients = flat.reshape(-1, self.horizon, self.action_dim) / self.scale
        return self.reach.clip(along_time(self._basis.T, coefficients))

    def coefficients(self, chunks: Float[np.ndarray, "m k a"]) -> Int[np.ndarray, "m k a"]:
        """Return the rounded cosine coefficients of checked chunks, lowest frequency first."""
        clipped = chunks.astype(np.float64).clip(-self.limit, self.limit)
        rounded = np.rint(self.scale * along_time(self._basis, clipped))
        return rounded.clip(-self._radius, self._radius).astype(np.int64)

    def expand(self, tokens: Ids) -> list[int]:
        """Return the rounded coefficients that tokens stand for, as many as there are.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        most = int(self._table.length.max())
        size = sum(int(self._table.length[token]) for token in tokens if 0 <= token < self.vocab_size)
        return self._table.spell([tokens], max(size, most))[0][0, :size].tolist()

    def to_json(self) -> dict[str, Any]:
        """Return the settings and the merges."""
        return {
            "reach": self.reach.to_json(),
            "scale": self.scale,
            "limit": self.limit,
            "merges": [list(pair) for pair in self.merges],
            "num_first": self.num_first,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FastTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not what it wrote.
        """
        reach, scale, limit = Reach.from_json(data["reach"]), float(data["scale"]), float(data["limit"])
        small = 0 < scale < math.inf and 0 < limit < math.inf and 2 * _radius(scale, limit, reach.horizon) < LETTERS
        if not small:
            raise ValueError(f"scale {scale} and limit {limit}")
        merges = [(left, right) for left, right in data["merges"]]
        if not all(type(token) is int for pair in (*merges, [data["num_first"]]) for token in pair):
            raise ValueError("merges that are no pairs of ids")
        if not 0 <= data["num_first"] <= len(merges) <= LETTERS:
            raise ValueError(f"{len(merges)} merges, the first {data['num_first']} of them")
        return cls(scale, limit, reach, merges, data["num_first"])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle by its JSON value, for loader workers (and equal bytes for equal tokenizers)."""
        return self.to_json()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build again from what was kept."""
        vars(self).update(vars(FastTokenizer.from_json(state)))


def _learn(ids: Int[np.ndarray, "m z"], num_letters: int, vocab_size: int) -> tuple[list[Pair], int]:
    """Learn merges from the letters of chunks; return them and how many of them are done on all chunks at once."""
    first, symbols = learn_first(symbols_of(ids), num_letters, vocab_size - num_letters)
    merges = first + _train(texts_of(symbols), num_letters + len(first), vocab_size)
    if _distinct(merges, num_letters, ids.shape[1]):
        return merges, len(first)
    # Two merges spell the same run of values and would share an id. Only the trainer knows how that goes on.
    return _train(texts_of(symbols_of(ids)), num_letters, vocab_size), 0


def _train(texts: list[str], num_letters: int, vocab_size: int) -> list[Pair]:
    """Learn merges of texts as pairs of ids; the letters come first."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=[letter(i) for i in range(num_letters)],
        limit_alphabet=num_letters,
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE())
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def _words(merges: Sequence[Pair], radius: int, longest: int) -> list[tuple[int, ...]]:
    """Return the coefficients that every id stands for.

    Raises:
        ValueError: a merge of ids that are not there yet, or a word longer than a chunk.
    """
    words: list[tuple[int, ...]] = [(value,) for value in range(-radius, radius + 1)]
    known: set[tuple[int, ...]] = set(words)
    for left, right in merges:
        if not (0 <= left < len(words) and 0 <= right < len(words)):
            raise ValueError(f"a merge of ids {left} and {right}, where there are {len(words)}")
        if len(word := words[left] + words[right]) > longest:
            raise ValueError(f"a word of {len(word)} coefficients in chunks of {longest}")
        if word not in known:
            known.add(word)
            words.append(word)
    return words


def _distinct(merges: Sequence[Pair], num_letters: int, longest: int) -> bool:
    return len(_words(merges, num_letters // 2, longest)) == num_letters + len(merges)


def _encoder(merges: Sequence[Pair], num_letters: int, words: Sequence[tuple[int, ...]]) -> Tokenizer:
    """Build an encoder of texts whose letters are the first ids: the values, and what the first merges make."""
    known = {word: i for i, word in enumerate(words)}
    names = [letter(i) for i in range(min(num_letters, len(words)))]
    named: list[tuple[str, str]] = []
    for left, right in merges:
        token = known[words[left] + words[right]]
        if token < num_letters:
            continue
        if token == len(names):
            names.append(names[left] + names[right])
        named.append((names[left], names[right]))
    return Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, named))


def _radius(scale: float, limit: float, horizon: int) -> int:
    """Return the largest coefficient that actions within the limit can have (a constant chunk at the limit)."""
    return round(scale * limit * math.sqrt(horizon))
