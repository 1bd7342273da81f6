import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from trivium.core.errors import DataError
from trivium.core.sample import Sample, Text
from trivium.language import heldout
from trivium.language.heldout import change, score, summarise
from trivium.language.model import TinyLanguageConfig
from trivium.language.vocab import Vocab, byte_tokenizer


def document(text, name="a", sentinels=()):
    return Sample(id=name, segments=(Text(text=text, sentinels=sentinels),), source="test", license="none")


@pytest.fixture
def language():
    torch.manual_seed(0)
    return TinyLanguageConfig(sentinels=("<file_sep>",)).build().eval()


def measured(name, language, samples, num_tokens, groups=None):
    return score(name, language, samples, np.arange(len(samples)) if groups is None else np.array(groups), num_tokens)


def alone(language, text):
    """The definition: cross-entropy of every token but the first, of one document in a row of its own."""
    tokens = torch.tensor(language.vocab.encode(text))[None]
    with torch.no_grad():
        hidden = language(language.embed(tokens), torch.zeros_like(tokens), torch.arange(tokens.shape[1])[None])
        logits = language.logits(hidden[0, :-1])
    return F.cross_entropy(logits.double(), tokens[0, 1:], reduction="sum").item()


def test_scores_are_those_of_documents_alone(language):
    texts = ["the first", "a second, longer document", "x", "the third one"]
    found = measured("a", language, [document(text) for text in texts], 1000)
    kept = [text for text in texts if len(text) > 1]
    assert found.nats == pytest.approx([alone(language, text) for text in kept], abs=1e-4)
    assert found.bytes == tuple(len(text) - 1 for text in kept)
    assert found.tokens == sum(found.bytes)
    assert found.bits_per_byte == pytest.approx(sum(found.nats) / sum(found.bytes) / math.log(2))
    assert found.perplexity == pytest.approx(math.exp(sum(found.nats) / found.tokens))
    assert found.low < found.bits_per_byte < found.high


def test_long_documents_are_cut_into_windows(language, monkeypatch):
    monkeypatch.setattr(heldout, "WINDOW", 8)
    text = "abcdefghijklmnopqrs"
    found = measured("a", language, [document(text)], 1000)
    parts = ["abcdefgh", "ijklmnop", "qrs"]
    assert found.nats == pytest.approx([sum(alone(language, part) for part in parts)], abs=1e-4)
    assert found.bytes == (7 + 7 + 2,)


def test_pieces_of_one_document_are_resampled_together(language):
    samples = [document(text) for text in ("abcdef", "ghij", "klmnop")]
    apart = measured("a", language, samples, 1000)
    found = measured("a", language, samples, 1000, groups=[7, 3, 7])
    assert found.nats == pytest.approx((apart.nats[1], apart.nats[0] + apart.nats[2]))
    assert found.bytes == (3, 10)
    assert found.bits_per_byte == pytest.approx(apart.bits_per_byte)


def test_whole_documents_until_enough(language):
    found = measured("a", language, [document("0123456789", str(i)) for i in range(9)], 20)
    assert found.tokens == 27


def test_nothing_to_score_is_an_error(language):
    with pytest.raises(DataError, match=r"held-out text 'old': found no document of two tokens; expected text"):
        measured("old", language, [document("x"), document("")], 10)


def test_bits_per_byte_do_not_depend_on_the_vocabulary():
    """A uniform guess over 4 letters is 2 bits a letter, told one letter or two at a time."""
    words = [a + b for a in "abcd" for b in "abcd"]
    text = "abdcabdacbda"
    bits = []
    for size, pieces in ((1, list("abcd")), (2, words)):
        tokens = [text[i : i + size] for i in range(0, len(text), size)][1:]
        nats = np.array([len(tokens) * math.log(len(pieces))])
        bits.append(summarise("a", len(tokens), nats, np.array([size * len(tokens)])).bits_per_byte)
    assert bits == pytest.approx([2.0, 2.0])


def test_change_is_paired_by_document():
    size = np.full(50, 100)
    nats = np.random.default_rng(0).uniform(50, 150, 50)
    before, after = summarise("a", 50, nats, size), summarise("a", 50, nats - 10 * math.log(2), size)
    assert change(before, after) == pytest.approx((-0.1, -0.1, -0.1))
    assert after.high > before.low, "the intervals by themselves overlap"


@given(st.text())
def test_bytes_of_tokens_add_up_to_those_of_the_text(text):
    vocab = Vocab(byte_tokenizer(), 256, 257, 0)
    ids, sizes = vocab.measure(text)
    assert ids == vocab.encode(text)
    assert len(sizes) == len(ids)
    assert sum(sizes) == len(text.encode())


def test_bytes_of_words_and_sentinels():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "né": 1, "to": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vocab = Vocab(tokenizer, 0, 3, 0, sentinels=("<file_sep>",))
    ids, sizes = vocab.measure("né  to <file_sep>to zz ", ("<file_sep>",))
    assert ids == [1, 2, 3, 2, 0]
    assert sizes == [3, 5, 10, 2, 4]


def test_sentinels_count_as_they_are_spelled(language):
    words = ("<file_sep>",)
    found = measured("a", language, [document("<file_sep>ab", sentinels=words)], 9)
    assert found.bytes == (2,)
    assert found.tokens == 2
    spelled = measured("a", language, [document("<file_sep>ab")], 9)
    assert spelled.bytes == (11,)
