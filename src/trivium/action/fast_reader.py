"""Published FAST tokenizers, read from their folders without running a line that comes with them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from trivium.action.tokenizer import Ids, Reach, TableTokenizer, along_time, cosines
from trivium.core.config import Config
from trivium.core.errors import DataError, SetupError

ABOUT = ("processor_config.json", "preprocessor_config.json")
"""Where a folder says how it scales; the first that is there is read."""
MAX_BYTES = 64 << 20
SURROGATE = 0xD800
"""First code point that is no character."""
PLAIN = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
"""Settings of a model that would change ids, and that no published FAST has."""
BROKEN = 0xFFFD
"""What stands for bytes that are no character."""


class PublishedFastConfig(Config):
    """A FAST tokenizer from the hub, as it is; the universal FAST+ has 2,048 tokens and knows any robot's motions."""

    kind: Literal["published_fast"] = "published_fast"
    path: str
    """Local folder with tokenizer.json and processor_config.json. Its Python file is not needed and never read."""

    def fit(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> "PublishedFast":
        """Read the folder and take the shape and the reach of normalised chunks over; no token is learned.

        Raises:
            SetupError: the folder or one of its files is not there.
            DataError: a file is damaged or no FAST tokenizer, it was made for chunks of another shape, or the chunks
                cannot be used.
        """
        return read_folder(Path(self.path), Reach.of(chunks, math.inf))


class PublishedFast(TableTokenizer):
    """Encodes and decodes as the published code does, where that code works.

    Where we differ: a coefficient that its alphabet cannot say (never seen when it was trained, or below `min_token`)
    is dropped there and the chunk decodes to zeros; here the nearest one that can be said takes its place, counted in
    `num_clipped`. A sequence of another length decodes to zeros there; here it is mended, and counted. Decoded actions
    are kept within reach.
    """

    FORMAT: ClassVar[str] = "trivium-published_fast"

    def __init__(
        self,
        reach: Reach,
        scale: float,
        min_token: int,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        prefix_space: bool,
    ) -> None:
        """Wrap a byte-level encoding; `read_folder` and `from_json` are the ways to get one.

        Args:
            reach: shape, and limits of the actions that are decoded.
            scale: of the coefficients.
            min_token: the coefficient that is character 0.
            vocab: words in the byte-level alphabet, and their ids.
            merges: pairs of words, in order.
            prefix_space: whether a space is put in front of every text.

        Raises:
            ValueError: ids with gaps, or nothing that can be said.
        """
        super().__init__(reach)
        self.scale, self.min_token, self.vocab, self.merges = scale, min_token, dict(vocab), list(merges)
        self.prefix_space, self.num_clipped = prefix_space, 0
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("ids with gaps")
        self._bpe = Tokenizer(models.BPE(self.vocab, self.merges))
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
        self._bpe.decoder = decoders.ByteLevel()
        self._basis = cosines(reach.horizon)
        self._sayable = _sayable(self.vocab)
        if not len(self._sayable):
            raise ValueError("no coefficient that can be said")

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this."""
        return len(self.vocab)

    def encode_all(self, chunks: Sequence[Float[np.ndarray, "k a"]] | Float[np.ndarray, "m k a"]) -> list[list[int]]:
        """Return the tokens of many normalised chunks.

        Raises:
            DataError: another shape than the tokenizer was made for, or NaN or infinity.
        """
        values = np.rint(self.scale * along_time(self._basis, self.checked(chunks).astype(np.float64)))
        wanted = (values.reshape(-1, self.reach.size) - self.min_token).clip(-SURROGATE, 2 * SURROGATE).astype(np.int64)
        letters = self._nearest(wanted)
        self.num_clipped += int((letters != wanted).sum())
        texts = ["".join(map(chr, row)) for row in letters.tolist()]
        return [found.ids for found in self._bpe.encode_batch(texts, add_special_tokens=False)]

    def decode_all(self, sequences: Iterable[Ids] | Int[np.ndarray, "m t"]) -> Float32[np.ndarray, "m k a"]:
        """Return the chunks of any sequences of ids: what is missing or no character is 0, what is too much is cut.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        many = [[int(token) for token in tokens] for tokens in sequences]
        for token in (token for tokens in many for token in tokens):
            if not 0 <= token < self.vocab_size:
                raise DataError(
                    "action token", str(token), f"0..{self.vocab_size - 1}", "Subtract the first extra id before it."
                )
        texts = self._bpe.decode_batch(many, skip_special_tokens=False)
        flat = np.full((len(texts), self.reach.size), -self.min_token, np.int64)
        for row, text in zip(flat, texts, strict=True):
            letters = np.array([ord(character) for character in text], np.int64)
            self.num_repaired += int(len(letters) != len(row) or BROKEN in letters)
            kept = letters[: len(row)]
            row[: len(kept)] = np.where(kept == BROKEN, -self.min_token, kept)
        values = (flat + self.min_token).reshape(-1, self.horizon, self.action_dim)
        return self.reach.clip(along_time(self._basis.T, values / self.scale))

    def to_json(self) -> dict[str, Any]:
        """Return all that the folder said, so that a run folder needs no other one."""
        return {
            "reach": self.reach.to_json(),
            "scale": self.scale,
            "min_token": self.min_token,
            "vocab": self.vocab,
            "merges": [list(pair) for pair in self.merges],
            "prefix_space": self.prefix_space,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PublishedFast":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not what it wrote.
        """
        merges = [(left, right) for left, right in data["merges"]]
        return cls(
            Reach.from_json(data["reach"]), *_scale(data), _vocab(data["vocab"]), merges, data["prefix_space"] is True
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle by its JSON value, for loader workers."""
        return self.to_json()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build again from what was kept."""
        vars(self).update(vars(PublishedFast.from_json(state)))

    def _nearest(self, wanted: Int[np.ndarray, "m z"]) -> Int[np.ndarray, "m z"]:
        above = np.searchsorted(self._sayable, wanted).clip(max=len(self._sayable) - 1)
        high, low = self._sayable[above], self._sayable[(above - 1).clip(min=0)]
        return np.where(np.abs(high - wanted) <= np.abs(wanted - low), high, low)


def read_folder(folder: Path, reach: Reach) -> PublishedFast:
    """Read a folder as it lies on the hub, for chunks of this shape.

    Raises:
        SetupError: the folder or one of its files is not there.
        DataError: a file is damaged or no FAST tokenizer, or it was made for chunks of another shape.
    """
    about_file = next((folder / name for name in ABOUT if (folder / name).is_file()), folder / ABOUT[0])
    about, spoken = _read(about_file), _read(folder / "tokenizer.json")
    for name, ours in (("time_horizon", reach.horizon), ("action_dim", reach.action_dim)):
        if about.get(name) not in (None, ours):
            raise DataError(
                f"{about_file}: {name}",
                repr(about[name]),
                f"{ours}, as in the chunks of this robot, or null",
                "Take a tokenizer of this robot, or the universal one.",
            )
    try:
        model = spoken["model"]
        kinds = model["type"], spoken["pre_tokenizer"]["type"], spoken["decoder"]["type"]
        if kinds != ("BPE", "ByteLevel", "ByteLevel") or spoken.get("normalizer") or spoken.get("added_tokens"):
            raise ValueError(f"a {kinds[0]} model with {kinds[1]} and {kinds[2]}, or with a normalizer or added tokens")
        if odd := [name for name in PLAIN if model.get(name)]:
            raise ValueError(f"a model with {odd[0]}={model[odd[0]]!r}")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        merges = [(left, right) for left, right in pairs]
        prefix_space = spoken["pre_tokenizer"]["add_prefix_space"] is True
        return PublishedFast(reach, *_scale(about), _vocab(model["vocab"]), merges, prefix_space)
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(
            f"{folder}: {about_file.name} and tokenizer.json",
            f"{type(error).__name__}: {error}",
            "a FAST tokenizer: byte-level BPE, a scale and a min_token",
            "Copy the folder again; its Python file is not needed.",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        todo = "Give model.tokenizer.path a folder with tokenizer.json and processor_config.json."
        raise SetupError(str(path), "no such file", "a file of a published FAST tokenizer", todo)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size:,} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}")
    except (ValueError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(str(path), found, "a JSON object", "Copy the folder again.") from error
    return data


def _scale(data: Mapping[str, Any]) -> tuple[float, int]:
    """Check how coefficients become characters."""
    scale, lowest = float(data["scale"]), data["min_token"]
    if not 1e-6 < scale < 1e6 or type(lowest) is not int or not -SURROGATE < lowest < SURROGATE:
        raise ValueError(f"scale {scale} and min_token {lowest!r}")
    return scale, lowest


def _vocab(data: Any) -> dict[str, int]:
    """Check that words are text and ids are whole numbers."""
    if not isinstance(data, dict) or not all(type(token) is int for token in data.values()):
        raise ValueError("a vocabulary that is no mapping of words to ids")
    return data


def _sayable(vocab: Mapping[str, int]) -> Int[np.ndarray, " n"]:
    """Return the characters, in order, all bytes of whose UTF-8 form are words."""
    known = np.zeros(256, bool)
    for byte, character in _byte_letters().items():
        known[byte] = character in vocab
    code = np.arange(SURROGATE)
    two, three = (code >= 0x80) & (code < 0x800), code >= 0x800
    last = known[np.where(code < 0x80, code, 0x80 | (code & 0x3F))]
    middle = ~three | known[0x80 | ((code >> 6) & 0x3F)]
    first = np.where(
        two, known[(0xC0 | (code >> 6)) & 0xFF], np.where(three, known[(0xE0 | (code >> 12)) & 0xFF], True)
    )
    return np.flatnonzero(last & middle & first)


def _byte_letters() -> dict[int, str]:
    """Return what byte-level tokenizers write for every byte: itself where it prints, else characters from 256 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(others)}
