"""The published FAST tokenizer, written anew from its description: the peer that our own is measured beside.

Quantile-normalised chunks, DCT-II over time (orthonormal), times scale, rounded; flattened with all dimensions of the
lowest frequency first; less the smallest coefficient, written as characters; byte-level BPE (GPT-2's pre-tokenizer)
with 1,024 tokens, wrapped as a transformers tokenizer and called chunk by chunk. A sequence of ids that does not stand
for steps x dimensions numbers decodes to zeros. No code is copied; see https://arxiv.org/abs/2501.09747.

Command     python bench/fast_reference.py FOLDER    writes the small published folder that tests/action reads
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from tokenizers import ByteLevelBPETokenizer
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

# scipy declares other results than the arrays that it returns.
dct: Any = scipy.fft.dct
idct: Any = scipy.fft.idct


class Reference:
    """Encodes and decodes one chunk after the other, as published."""

    def __init__(
        self, bpe: PreTrainedTokenizerFast, scale: float, min_token: int, horizon: int, action_dim: int
    ) -> None:
        """Wrap a trained byte-level encoding."""
        self.bpe, self.scale, self.min_token = bpe, scale, min_token
        self.horizon, self.action_dim = horizon, action_dim
        self.num_zeroed = 0

    @classmethod
    def fit(cls, chunks: np.ndarray, scale: float = 10.0, vocab_size: int = 1024) -> "Reference":
        """Train on chunks "m k a"."""
        spelled = [np.around(dct(chunk, axis=0, norm="ortho").flatten() * scale) for chunk in chunks]
        flat = np.concatenate(spelled)
        low, high = int(flat.min()), int(flat.max())
        texts = ["".join(chr(c) for c in (values - low).astype(int)) for values in spelled]
        trained: Any = ByteLevelBPETokenizer()
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[chr(i) for i in range(high - low + 1)],
            max_token_length=10000,
        )
        trained._tokenizer.train_from_iterator(texts, trainer)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, clean_up_tokenization_spaces=False)
        return cls(wrapped, scale, low, *chunks.shape[1:])

    def encode(self, chunk: np.ndarray) -> list[int]:
        """Return the ids of one chunk; characters that the alphabet lacks are dropped without a word."""
        values = np.around(dct(chunk[None], axis=1, norm="ortho") * self.scale)[0]
        text = "".join(map(chr, np.maximum(values.flatten() - self.min_token, 0).astype(int)))
        return self.bpe(text)["input_ids"]

    def decode(self, ids: list[int]) -> np.ndarray:
        """Return one chunk, zeros where the ids do not fit."""
        text = self.bpe.decode(ids)
        values = np.array(list(map(ord, text))) + self.min_token
        if len(values) != self.horizon * self.action_dim:
            self.num_zeroed += 1
            values = np.zeros(self.horizon * self.action_dim)
        return idct(values.reshape(self.horizon, self.action_dim) / self.scale, axis=0, norm="ortho")

    def save(self, folder: Path) -> None:
        """Write a folder as it lies on the hub, less its Python file."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.bpe.backend_tokenizer.to_str(pretty=False))
        about = {
            "action_dim": None,
            "auto_map": {"AutoProcessor": "processing_action_tokenizer.UniversalActionProcessor"},
            "min_token": self.min_token,
            "processor_class": "UniversalActionProcessor",
            "scale": self.scale,
            "time_horizon": None,
            "vocab_size": self.bpe.vocab_size,
        }
        (folder / "processor_config.json").write_text(json.dumps(about, indent=2))


def smooth(count: int, horizon: int, action_dim: int, rate_hz: int, seed: int = 0) -> np.ndarray:
    """Make band-limited chunks "m k a" (six waves below 2 Hz a dimension) within -1..1."""
    rng, time = np.random.default_rng(seed), np.arange(horizon)[:, None, None] / rate_hz
    out = np.empty((count, horizon, action_dim), np.float32)
    for begin in range(0, count, 4096):
        shape = (min(4096, count - begin), 1, 6, action_dim)
        frequency, phase = rng.uniform(0, 2, shape), rng.uniform(0, 2 * np.pi, shape)
        waves = rng.normal(0, 0.25, shape) * np.sin(2 * np.pi * frequency * time + phase)
        out[begin : begin + 4096] = waves.sum(2).clip(-1, 1)
    return out


def main(folder: Path) -> None:
    """Write the fixture: a small tokenizer, and chunks with the ids and the chunks that it makes of them."""
    reference = Reference.fit(smooth(400, 6, 3, 6).astype(np.float64), vocab_size=400)
    reference.save(folder)
    chunks = np.round(smooth(40, 6, 3, 6, seed=1).astype(np.float64), 4)
    ids = [reference.encode(chunk) for chunk in chunks]
    decoded = [reference.decode(one).round(9).tolist() for one in ids]
    cases = [{"chunk": c.tolist(), "ids": i, "decoded": d} for c, i, d in zip(chunks, ids, decoded, strict=True)]
    (folder / "cases.json").write_text(json.dumps(cases))
    print(f"{folder}: {len(cases)} cases, {reference.num_zeroed} decoded to zeros, min_token {reference.min_token}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
