"""Action ids are ids that no text can produce (vocab_collision)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivium.action.bins import BinsConfig
from trivium.action.fast import FastConfig
from trivium.action.mulaw import MulawConfig
from trivium.core.sample import Action, Sample, Text
from trivium.language.model import PretrainedLanguageConfig, TinyLanguageConfig
from trivium.language.vocab import Vocab
from trivium.policy.sequence import VlaLayout

ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "build/weights/smollm2-135m"
CHUNKS = np.random.default_rng(0).uniform(-1, 1, (100, 4, 2)).astype(np.float32)
HOSTILE = ("<extra_0>", "<|im_end|>", "<|endoftext|>", "<|end|>", "\0", "\U000f0000", "é漢🤖", "<s>", "[begin]", "")


def vocabs(num_extra: int) -> list[Vocab]:
    found = [TinyLanguageConfig(num_extra_tokens=num_extra).vocab()]
    if SMOLLM2.is_dir():
        config = PretrainedLanguageConfig(path=str(SMOLLM2), num_layers=1, num_extra_tokens=num_extra)
        found.append(config.vocab())
    return found


def corpus() -> list[str]:
    """Return documents, code, hostile texts, and bytes at random."""
    files = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("src/trivium/*/*.py"))]
    rng = np.random.default_rng(0)
    noise = [bytes(rng.integers(0, 256, 400).astype(np.uint8)).decode("utf-8", "replace") for _ in range(200)]
    return [*(file.read_text() for file in files), *HOSTILE, *noise]


@pytest.mark.parametrize(
    "config", [FastConfig(vocab_size=100), BinsConfig(num_bins=64), MulawConfig(num_bins=128)], ids=lambda c: c.kind
)
def test_action_ids_are_never_produced_by_text(config: Any) -> None:
    tokenizer = config.fit(CHUNKS)
    for vocab in vocabs(tokenizer.vocab_size + 2):
        layout = VlaLayout(vocab, 1, tokenizer)
        spoken: set[int] = set()
        for text in corpus():
            spoken |= set(vocab.encode(text))
        # What the text tokenizer knows but no corpus said: every entry of its vocabulary, special ones too.
        spoken |= set(vocab.tokenizer.get_vocab(with_added_tokens=True).values())
        acted: set[int] = set()
        for i, chunk in enumerate(CHUNKS):
            action = Action(values=chunk, valid=np.ones(4, bool), names=("x", "y"))
            sample = Sample(id=str(i), segments=(Text(text="go"), action), source="", license="", embodiment="toy")
            row = layout.build(sample)
            assert row.tokens is not None
            acted |= set(row.tokens[row.tokens >= vocab.extra_start].tolist())
        assert len(spoken) > 100
        assert len(acted) > 30
        assert not spoken & acted
        assert max(acted) == vocab.extra_start + tokenizer.vocab_size + 1 == vocab.size - 1
        assert max(spoken) < vocab.extra_start
