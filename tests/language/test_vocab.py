import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.language.vocab import Vocab, byte_tokenizer


@pytest.fixture(scope="module")
def vocab():
    return Vocab(byte_tokenizer(), end=256, extra_start=260, num_extra=5)


@given(st.text())
def test_any_text_comes_back_and_makes_neither_extra_nor_special_ids(text):
    vocab = Vocab(byte_tokenizer(), end=256, extra_start=257, num_extra=5)
    ids = vocab.encode(text)
    assert vocab.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert max(ids, default=0) < 256


def test_special_tokens_in_text_are_spelled_out_in_a_worker_too(vocab):
    for copy in (vocab, pickle.loads(pickle.dumps(vocab))):
        assert len(copy.encode("a<|end|>")) == 8
        assert copy.end not in copy.encode("<|end|>")
        assert copy.encode("<extra_0>") != [260]


def test_decode_shows_extra_ids_in_their_place(vocab):
    assert vocab.decode([*vocab.encode("go"), 260, 264, *vocab.encode("!")]) == "go<extra_0><extra_4>!"
    assert vocab.size == 265


def test_extra_ids_that_collide_are_refused():
    with pytest.raises(AssertionError, match="extra ids start at 256, the tokenizer reaches 256"):
        Vocab(byte_tokenizer(), end=256, extra_start=256, num_extra=1)
