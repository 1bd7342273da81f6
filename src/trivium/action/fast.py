"""FAST: action chunks as few tokens, by cosine transform and byte-pair encoding over whole numbers."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int
from scipy.fft import dct
from tokenizers import Tokenizer, models, trainers

from trivium.action.tokenizer import Ids, Reach, Table, TableTokenizer
from trivium.core.config import Config
from trivium.core.errors import ConfigError

SYMBOLS = 0xF0000
"""First code point of plane 15 (private use): one character a coefficient value, none of which text tools touch."""
LETTERS = 0xFFFE
"""Characters of that plane that may stand for a value."""
SAMPLE = 1 << 21
"""Numbers that merges are learned from; of more chunks an even spread is taken. See bench/fast.py: more numbers cost
time in proportion and save no tokens."""


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
        alphabet = [chr(SYMBOLS + i) for i in range(2 * radius + 1)]
        blank = FastTokenizer(self.scale, self.limit, reach, alphabet, [])
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            initial_alphabet=alphabet,
            limit_alphabet=2 * radius + 1,
            show_progress=False,
        )
        bpe = Tokenizer(models.BPE())
        bpe.train_from_iterator(blank.spelled(spread), trainer)
        return FastTokenizer(self.scale, self.limit, reach, *_learned(bpe))


class FastTokenizer(TableTokenizer):
    """Cosine transform over time, rounding, and a byte-pair encoding whose letters are whole numbers.

    Where we differ from the reference: its GPT-2 pre-tokenizer silently drops coefficient values that training never
    saw (then decodes to all zeros) and blocks merges. Here the alphabet covers every value that clipped actions can
    have, and every token sequence decodes to a finite chunk within reach; what had to be padded or cut for that is
    counted in `num_repaired`. The shape belongs to the tokenizer, not to its last call.
    """

    FORMAT: ClassVar[str] = "trivium-fast"

    def __init__(
        self, scale: float, limit: float, reach: Reach, words: Sequence[str], merges: Sequence[tuple[str, str]]
    ) -> None:
        """Wrap a learned encoding; `FastConfig.fit` and `from_json` are the ways to get one.

        Args:
            scale: of the coefficients.
            limit: of the actions that are encoded.
            reach: shape, and limits of the actions that are decoded.
            words: what every id stands for, one character a coefficient.
            merges: pairs of words, in the order of their learning.
        """
        super().__init__(reach)
        self.scale, self.limit, self.merges = scale, limit, list(merges)
        self._radius = _radius(scale, limit, reach.horizon)
        self._basis = dct(np.eye(reach.horizon), axis=0, norm="ortho")
        self._bpe = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, self.merges))
        self._words = list(words)
        self._table = Table([[ord(c) - SYMBOLS - self._radius for c in word] for word in words])

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return len(self._table)

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the tokenizer was fitted for, or NaN or infinity.
        """
        texts = self.spelled(self.checked(chunks))
        return [found.ids for found in self._bpe.encode_batch_fast(texts, add_special_tokens=False)]

    def decode_all(self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids: missing coefficients are zero, surplus ones are cut, both counted.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        flat, whole = self._table.spell(sequences, self.reach.size)
        self.num_repaired += int((~whole).sum())
        coefficients = flat.reshape(-1, self.horizon, self.action_dim) / self.scale
        return self.reach.clip(_along_time(self._basis.T, coefficients))

    def coefficients(self, chunks: Float[np.ndarray, "m k a"]) -> Int[np.ndarray, "m k a"]:
        """Return the rounded cosine coefficients of checked chunks, lowest frequency first."""
        clipped = chunks.astype(np.float64).clip(-self.limit, self.limit)
        rounded = np.rint(self.scale * _along_time(self._basis, clipped))
        return rounded.clip(-self._radius, self._radius).astype(np.int64)

    def expand(self, tokens: Ids) -> list[int]:
        """Return the rounded coefficients that tokens stand for, as many as there are.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        most = int(self._table.length.max())
        size = sum(int(self._table.length[token]) for token in tokens if 0 <= token < self.vocab_size)
        return self._table.spell([tokens], max(size, most))[0][0, :size].tolist()

    def spelled(self, chunks: Float[np.ndarray, "m k a"]) -> list[str]:
        """Write checked chunks as characters, all dimensions of the lowest frequency first."""
        letters = (self.coefficients(chunks) + (SYMBOLS + self._radius)).astype(np.uint32)
        # One view instead of a join of characters: NumPy stores text as code points, 4 bytes each.
        return letters.reshape(len(chunks), -1).view(f"U{self.reach.size}")[:, 0].tolist()

    def to_json(self) -> dict[str, Any]:
        """Return the settings, the words as runs of coefficients, and the merges as pairs of ids."""
        place = {word: i for i, word in enumerate(self._words)}
        ends = zip(self._table.begin, self._table.begin + self._table.length, strict=True)
        return {
            "reach": self.reach.to_json(),
            "scale": self.scale,
            "limit": self.limit,
            "words": [self._table.values[begin:end].tolist() for begin, end in ends],
            "merges": [[place[left], place[right]] for left, right in self.merges],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FastTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not what it wrote.
        """
        reach, scale, limit = Reach.from_json(data["reach"]), float(data["scale"]), float(data["limit"])
        if not (0 < scale < math.inf and 0 < limit < math.inf and scale * limit < LETTERS):
            raise ValueError(f"scale {scale} and limit {limit}")
        radius = _radius(scale, limit, reach.horizon)
        words = ["".join(chr(SYMBOLS + radius + _within(value, radius)) for value in run) for run in data["words"]]
        alphabet = {chr(SYMBOLS + i) for i in range(2 * radius + 1)}
        if len({*words}) < len(words) or "" in words or not alphabet <= {*words}:
            raise ValueError("words that are empty, double, or no letters for some coefficients")
        pairs = [(_within(left, len(words) - 1), _within(right, len(words) - 1)) for left, right in data["merges"]]
        if min(map(min, pairs), default=0) < 0:
            raise ValueError("a merge of words that are not there")
        merges = [(words[left], words[right]) for left, right in pairs]
        return cls(scale, limit, reach, words, merges)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle by its JSON value, for loader workers (and equal bytes for equal tokenizers)."""
        return self.to_json()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build again from what was kept."""
        self.__dict__.update(FastTokenizer.from_json(state).__dict__)


def _learned(bpe: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """Return words in the order of their ids, and merges in the order of their learning."""
    model = json.loads(bpe.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return words, [(left, right) for left, right in model["merges"]]


def _along_time(
    matrix: Float64[np.ndarray, "j k"], chunks: Float64[np.ndarray, "m k a"]
) -> Float64[np.ndarray, "m j a"]:
    """Multiply every chunk from the left, all of them in one product."""
    wide = chunks.transpose(1, 0, 2).reshape(len(matrix), -1)
    return (matrix @ wide).reshape(len(matrix), len(chunks), -1).transpose(1, 0, 2)


def _radius(scale: float, limit: float, horizon: int) -> int:
    """Return the largest coefficient that actions within the limit can have (a constant chunk at the limit)."""
    return round(scale * limit * math.sqrt(horizon))


def _within(value: Any, radius: int) -> int:
    """Check a whole number of a file.

    Raises:
        ValueError: not one, or out of range.
    """
    if type(value) is not int or abs(value) > radius:
        raise ValueError(f"{value!r}, beyond {radius}")
    return value
