import pickle
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from trivium.core.errors import ConfigError
from trivium.data.sentinel import STARCODER2, Sentinels
from trivium.language.vocab import Vocab, byte_tokenizer

SMOLLM2 = Path(__file__).parents[2] / "build/weights/smollm2-135m/tokenizer.json"
CONTROL = ("<|im_end|>", "<|end|>", "<|fim_prefix|>", "<fim_prefix>", "<file_sep>", "<extra_0>", "<image_0>", "<unk>")
PIECES = st.one_of(st.text(), st.sampled_from(CONTROL), st.characters(categories=("Cc", "Cf", "Co", "Zs")))


def qwen_like():
    """Control words among the ordinary ones, as Qwen has them, and a word of the text among the added ones."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|fim_prefix|>", special=False), AddedToken("<b>", special=False)])
    return tokenizer


def unigram():
    """Pieces, an unknown one, and bytes for what is in no piece."""
    pieces = [("<unk>", 0.0), *((f"<0x{i:02X}>", -9.0) for i in range(256)), ("▁", -2.0), ("a", -3.0), ("▁to", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<|end|>"])
    return tokenizer


TOKENIZERS = {"bytes": byte_tokenizer, "qwen": qwen_like, "unigram": unigram}
if SMOLLM2.is_file():
    TOKENIZERS["smollm2"] = lambda: Tokenizer.from_file(str(SMOLLM2))


@cache
def grown(name):
    tokenizer = TOKENIZERS[name]()
    words = tokenizer.get_vocab(with_added_tokens=True)
    end = words.get("<|end|>", words.get("<|im_end|>"))
    return Vocab(tokenizer, end, max(words.values()) + 3, 5, {"image": 16, "state": 4}, ("<fim_prefix>", "<file_sep>"))


def forbidden(vocab):
    """Every id that no text may become: the end, control words, and all that lies above the tokenizer."""
    added = vocab.tokenizer.get_added_tokens_decoder()
    ours = {vocab.end, *vocab.sentinels.values()}
    return {i for i, token in added.items() if token.special and token.content != "<unk>"} | ours


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


@pytest.mark.parametrize("name", TOKENIZERS)
@given(pieces=st.lists(PIECES, max_size=8))
@example(pieces=["\x00\x1b[0m\ufeff\u202e", "<|im_end|>", "<|fim_prefix|>", "<", "|", "im_end", "|", ">"])
def test_no_text_becomes_an_id_that_is_ours(name, pieces):
    vocab = grown(name)
    ids = set(vocab.encode("".join(pieces)))
    assert max(ids, default=0) < vocab.num_text <= vocab.extra_start
    assert not ids & forbidden(vocab)


def test_special_tokens_in_text_are_spelled_out_in_a_worker_too(vocab):
    for copy in (vocab, pickle.loads(pickle.dumps(vocab))):
        assert len(copy.encode("a<|end|>")) == 8
        assert copy.end not in copy.encode("<|end|>")
        assert copy.encode("<extra_0>") != [260]


def test_a_control_word_among_ordinary_ones_is_no_text_and_a_word_of_the_text_stays_one():
    plain, vocab = qwen_like(), grown("qwen")
    assert 257 in plain.encode("<|fim_prefix|>").ids, "the trap that is set here"
    for copy in (vocab, pickle.loads(pickle.dumps(vocab))):
        assert 257 not in copy.encode("a<|fim_prefix|>b")
        assert copy.encode("<b>") == [258]
        assert copy.encode("a<|fim_prefix|>b", ["<|fim_prefix|>"])[1] == 257


def test_spans_and_sentinels_stand_above_one_another():
    vocab = grown("bytes")
    start = vocab.extra_start
    assert [vocab.span(name) for name in ("action", "image", "state")] == [
        range(start, start + 5),
        range(start + 5, start + 21),
        range(start + 21, start + 25),
    ]
    assert vocab.sentinels == {"<|end|>": 256, "<fim_prefix>": start + 25, "<file_sep>": start + 26}
    assert vocab.size == start + 27
    assert vocab.decode([start + 7, start + 25, start + 24, start + 26]) == "<image_2><fim_prefix><state_3><file_sep>"
    with pytest.raises(ConfigError, match=r"language\.spans\.video: found no such span; expected one of action, image"):
        vocab.span("video")


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no weights in build/weights: make setup")
def test_a_tokenizer_keeps_the_sentinels_that_it_has():
    vocab = grown("smollm2")
    assert vocab.sentinels["<file_sep>"] == 5
    assert vocab.sentinels["<fim_prefix>"] == vocab.size - 1 == vocab.extra_start + 25
    words = tuple(STARCODER2.values())
    text = "<repo_name>a/b<file_sep>x.py\n<fim_prefix>x<fim_suffix>y<|endoftext|>"
    ids = vocab.encode(text, words)
    assert [i for i in ids if i < 17 or i >= vocab.extra_start] == [3, 5, vocab.size - 1, 0]
    assert vocab.decode(ids) == text
    assert not set(vocab.encode(text)) & {3, 5, 0, vocab.size - 1}, "text that nobody vouches for is spelled out"


@given(st.lists(st.one_of(st.text(alphabet="<>\\|fim_prexends", max_size=9), st.sampled_from(CONTROL)), max_size=9))
def test_code_that_quotes_sentinels_makes_none(parts):
    vocab, sentinels = grown("qwen"), Sentinels({"fim_prefix": "<|fim_prefix|>"})
    code = sentinels.escape("".join(parts))
    ids = vocab.encode(f"<file_sep>{code}<|fim_prefix|>", sentinels.words)
    assert (ids[0], ids[-1]) == (vocab.sentinels["<file_sep>"], 257)
    assert not set(ids[1:-1]) & {*vocab.sentinels.values(), 256, 257}
    assert vocab.decode(ids) == f"<file_sep>{code}<|fim_prefix|>"


def test_decode_shows_extra_ids_in_their_place(vocab):
    assert vocab.decode([*vocab.encode("go"), 260, 264, *vocab.encode("!")]) == "go<extra_0><extra_4>!"
    assert vocab.size == 265


def test_extra_ids_that_collide_are_refused():
    with pytest.raises(AssertionError, match="extra ids start at 256, the tokenizer reaches 256"):
        Vocab(byte_tokenizer(), end=256, extra_start=256, num_extra=1)


@pytest.mark.parametrize(
    ("spans", "sentinels", "said"),
    [
        ({"image": 0}, (), r"language\.spans\.image: found 0; expected at least 1"),
        ({"action": 3}, (), r"language\.spans\.action: found a span of that name; expected another name"),
        ({}, ("fim",), r"language\.sentinels: found 'fim'; expected one word in angle brackets"),
        ({}, ("<0x41>",), r"language\.sentinels: found '<0x41>', which is a word of the tokenizer's own text"),
        ({}, ("<b>", "<b>"), r"language\.sentinels: found '<b>' twice; expected different words"),
    ],
)
def test_what_would_collide_is_refused(spans, sentinels, said):
    with pytest.raises(ConfigError, match=said):
        Vocab(unigram(), 261, 270, 5, spans, sentinels)
