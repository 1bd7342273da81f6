"""FAST: action chunks as few tokens, by cosine transform and byte-pair encoding over whole numbers."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers

from trivium.action.tokenizer import ActionTokenizer
from trivium.core.config import Config
from trivium.core.errors import CheckpointError, ConfigError, DataError
from trivium.core.files import write_json

SYMBOLS = 0xF0000
"""First code point of plane 15 (private use): one character a coefficient value, none of which text tools touch."""
VERSION = 1


class FastConfig(Config):
    """A FAST tokenizer to be fitted on normalised chunks. Paper: https://arxiv.org/abs/2501.09747."""

    scale: float = 10.0
    """Coefficients are rounded to 1 / scale; the error of an action is about 0.29 / scale. 5-20; finer costs tokens."""
    vocab_size: int = 512
    """Tokens; must exceed the number of coefficient values (2 * scale * limit * sqrt(horizon) + 1). 256-2048."""
    limit: float = 1.5
    """Normalised actions are clipped to this, both ways; 1 is the 1 % and 99 % quantile of the data, so most of what
    lies beyond 1.5 is noise. Too small and fast motions are cut off."""

    def fit(self, chunks: Sequence[Float[np.ndarray, "k a"]]) -> "FastTokenizer":
        """Learn the merges from chunks; their order does not matter.

        Raises:
            ConfigError: a setting is out of range, or the vocabulary is smaller than its alphabet.
            DataError: there are no chunks, they differ in shape, or one holds NaN or infinity.
        """
        if not len(chunks):
            raise DataError("fit of FAST", "no chunks", "at least one", "Give a source that has actions.")
        horizon, action_dim = np.shape(chunks[0])
        for name in ("scale", "limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"fast.{name}", str(getattr(self, name)), "above 0", f"Change fast.{name}.")
        radius = _radius(self.scale, self.limit, horizon)
        if self.vocab_size < 2 * radius + 1:
            raise ConfigError(
                "fast.vocab_size",
                str(self.vocab_size),
                f"at least {2 * radius + 1}, one for every value of a coefficient",
                "Raise fast.vocab_size or lower fast.scale.",
            )
        blank = FastTokenizer(self.scale, self.limit, horizon, action_dim, Tokenizer(models.BPE()))
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            initial_alphabet=[chr(SYMBOLS + i) for i in range(2 * radius + 1)],
            limit_alphabet=2 * radius + 1,
            show_progress=False,
        )
        texts = (_text(blank.coefficients(chunk, i), radius) for i, chunk in enumerate(chunks))
        bpe = Tokenizer(models.BPE())
        bpe.train_from_iterator(texts, trainer)
        return FastTokenizer(self.scale, self.limit, horizon, action_dim, bpe)


class FastTokenizer(ActionTokenizer):
    """Cosine transform over time, rounding, and a byte-pair encoding whose letters are whole numbers.

    Where we differ from the reference: its GPT-2 pre-tokenizer silently drops coefficient values that training never
    saw (then decodes to all zeros) and blocks merges. Here the alphabet covers every value that clipped actions can
    have, and every token sequence decodes to a finite chunk within the limits; what had to be padded or cut for that
    is counted in `num_repaired`. The shape belongs to the tokenizer, not to its last call.
    """

    def __init__(self, scale: float, limit: float, horizon: int, action_dim: int, bpe: Tokenizer) -> None:
        """Wrap a fitted encoding; `FastConfig.fit` and `load` are the ways to get one."""
        self.scale, self.limit, self.horizon, self.action_dim = scale, limit, horizon, action_dim
        self.bpe = bpe
        self.num_repaired = 0
        self._radius = _radius(scale, limit, horizon)
        by_id = sorted((token, text) for text, token in bpe.get_vocab().items())
        self._values = [tuple(ord(c) - SYMBOLS - self._radius for c in text) for _, text in by_id]

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return len(self._values)

    def encode(self, chunk: Float[np.ndarray, "k a"]) -> list[int]:
        """Return the tokens of a normalised chunk.

        Raises:
            DataError: another shape than the tokenizer was fitted for, or NaN or infinity.
        """
        return self.bpe.encode(_text(self.coefficients(chunk), self._radius)).ids

    def decode(self, tokens: Iterable[int]) -> Float32[np.ndarray, "k a"]:
        """Return the chunk of any sequence of ids: missing coefficients are zero, surplus ones are cut, both counted.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        flat = self.expand(tokens)
        size = self.horizon * self.action_dim
        if len(flat) != size:
            self.num_repaired += 1
            flat = flat[:size] + [0] * (size - len(flat))
        coefficients = np.array(flat, np.float64).reshape(self.horizon, self.action_dim) / self.scale
        actions = cast(np.ndarray, idct(coefficients, axis=0, norm="ortho"))
        return np.clip(actions, -self.limit, self.limit).astype(np.float32)

    def coefficients(self, chunk: Float[np.ndarray, "k a"], number: int | None = None) -> Int[np.ndarray, "k a"]:
        """Return the rounded cosine coefficients, lowest frequency first; `number` names the chunk in an error."""
        where = "action chunk" if number is None else f"action chunk {number}"
        chunk = np.asarray(chunk)
        if chunk.shape != (self.horizon, self.action_dim):
            raise DataError(
                where,
                f"shape {chunk.shape}",
                f"({self.horizon}, {self.action_dim}), steps x dimensions",
                "Use one horizon in the source, the FAST tokenizer and the action head, and fit one FAST a robot.",
            )
        if not np.isfinite(chunk).all():
            step, dim = (int(i) for i in np.argwhere(~np.isfinite(chunk))[0])
            raise DataError(
                where,
                f"{chunk[step, dim]} at step {step}, dimension {dim}",
                "finite numbers",
                "Mend or drop the episode; nothing is filled in.",
            )
        clipped = np.clip(chunk.astype(np.float64), -self.limit, self.limit)
        transformed = cast(np.ndarray, dct(clipped, axis=0, norm="ortho"))
        rounded = np.rint(self.scale * transformed).astype(np.int64)
        return np.clip(rounded, -self._radius, self._radius)

    def expand(self, tokens: Iterable[int]) -> list[int]:
        """Return the rounded coefficients that tokens stand for, as many as there are.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        tokens = list(tokens)
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                highest = self.vocab_size - 1
                raise DataError("FAST token", str(token), f"0..{highest}", "Subtract the first extra id before it.")
        return [value for token in tokens for value in self._values[token]]

    def save(self, path: Path) -> None:
        """Write one JSON file, whole or not at all."""
        write_json(
            path,
            {
                "format": "trivium-fast",
                "version": VERSION,
                "scale": self.scale,
                "limit": self.limit,
                "horizon": self.horizon,
                "action_dim": self.action_dim,
                "bpe": json.loads(self.bpe.to_str()),
            },
        )

    @classmethod
    def load(cls, path: Path) -> "FastTokenizer":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, cut short, or of another kind or version.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            if (data["format"], data["version"]) != ("trivium-fast", VERSION):
                raise ValueError(f"format {data['format']!r} version {data['version']}")
            bpe = Tokenizer.from_str(json.dumps(data["bpe"]))
            return cls(data["scale"], data["limit"], data["horizon"], data["action_dim"], bpe)
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(
                str(path),
                f"{type(error).__name__}: {error}",
                f"a FAST tokenizer, version {VERSION}, as `FastTokenizer.save` writes it",
                "Fit it again: it is made from the training chunks in seconds.",
            ) from error

    def __getstate__(self) -> dict:
        """Pickle by the encoding's text, for loader workers (and equal bytes for equal tokenizers)."""
        names = ("scale", "limit", "horizon", "action_dim")
        return {**{name: getattr(self, name) for name in names}, "bpe": self.bpe.to_str()}

    def __setstate__(self, state: dict) -> None:
        """Build again from what was kept."""
        self.__init__(**{**state, "bpe": Tokenizer.from_str(state["bpe"])})


def _radius(scale: float, limit: float, horizon: int) -> int:
    """Return the largest coefficient that actions within the limit can have (a constant chunk at the limit)."""
    return round(scale * limit * math.sqrt(horizon))


def _text(coefficients: Int[np.ndarray, "k a"], radius: int) -> str:
    """Write coefficients as characters, all dimensions of the lowest frequency first."""
    return "".join(map(chr, (coefficients + (SYMBOLS + radius)).ravel().tolist()))
