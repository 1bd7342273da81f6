import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, trainers

from trivium.action import fast
from trivium.action.pairs import commonest, learn_first, letter, merge, symbols_of, texts_of


def plain(ids: np.ndarray, num_letters: int, vocab_size: int) -> tuple[Tokenizer, list[tuple[int, int]]]:
    """Train as the library does, letter by letter."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=[letter(i) for i in range(num_letters)], show_progress=False
    )
    bpe = Tokenizer(models.BPE())
    bpe.train_from_iterator(texts_of(symbols_of(ids)), trainer)
    model = json.loads(bpe.to_str())["model"]
    return bpe, [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def test_a_merge_goes_from_the_left() -> None:
    symbols = symbols_of(np.array([[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]))
    assert texts_of(merge(symbols, (0, 0), 2)) == ["".join(map(letter, word)) for word in ([2, 0, 1, 2], [2, 2, 0, 1])]
    assert texts_of(merge(symbols, (0, 1), 2)) == [
        "".join(map(letter, word)) for word in ([0, 0, 2, 0, 0], [0, 0, 0, 0, 2])
    ]
    assert texts_of(symbols_of(np.zeros((0, 3), int))) == []


@pytest.mark.parametrize("seed", range(12))
def test_merges_and_ids_are_those_of_the_library(seed: int) -> None:
    """Peaked coefficients, as of real motion: long runs of zeros, few letters; many ties and overlapping pairs."""
    rng = np.random.default_rng(seed)
    num_letters, size = int(rng.integers(2, 12)) * 2 + 1, int(rng.integers(8, 60))
    spread = rng.uniform(0.3, 3) * np.linspace(2, 0.1, size)
    radius = num_letters // 2
    ids = np.rint(rng.normal(0, spread, (300, size))).clip(-radius, radius).astype(int) + radius
    vocab_size = num_letters + int(rng.integers(5, 150))
    oracle, expected = plain(ids, num_letters, vocab_size)
    merges, num_first = fast._learn(ids, num_letters, vocab_size)
    assert merges == expected
    words = fast._words(merges, radius, size)
    bpe = fast._encoder(merges, num_letters + num_first, words)
    fresh = np.rint(rng.normal(0, spread, (200, size))).clip(-radius, radius).astype(int) + radius
    symbols = fast.apply_first(symbols_of(fresh), merges[:num_first], num_letters)
    theirs = [found.ids for found in oracle.encode_batch(texts_of(symbols_of(fresh)))]
    assert [found.ids for found in bpe.encode_batch(texts_of(symbols))] == theirs


def test_without_distinct_words_the_library_learns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (50, 30)) * 2
    _, expected = plain(ids, 3, 40)
    monkeypatch.setattr(fast, "_distinct", lambda *_: False)
    assert fast._learn(ids, 3, 40) == (expected, 0)


def test_two_merges_that_spell_one_word_share_its_id() -> None:
    merges = [(0, 1), (1, 2), (3, 2), (0, 4), (5, 0)]  # ab, bc, ab+c, a+bc, abc+a over the letters -1, 0, 1
    words = fast._words(merges, 1, 9)
    assert words[3:] == [(-1, 0), (0, 1), (-1, 0, 1), (-1, 0, 1, -1)]
    assert not fast._distinct(merges, 3, 9)
    assert fast._distinct(merges[:3], 3, 9)
    bpe = fast._encoder(merges, 3, words)
    assert bpe.encode("".join(map(letter, [0, 1, 2, 0]))).ids == [6]


def test_of_pairs_as_common_as_each_other_the_smaller_ids_come_first() -> None:
    assert commonest(symbols_of(np.array([[4, 5, 9], [2, 3, 9], [2, 3, 8], [4, 5, 8]])), 10) == ((2, 3), 2)
    assert commonest(symbols_of(np.array([[7, 1], [7, 0]])), 10) == ((7, 0), 1)
    assert commonest(symbols_of(np.array([[7], [7], [7]])), 10)[1] == 0, "no pair reaches over a chunk's end"


def test_first_merges_stop_where_they_are_not_worth_it() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200, (100, 50))
    merges, symbols = learn_first(symbols_of(ids), 200, 100)
    assert not merges
    assert len(symbols) == 100 * 51
    assert len(learn_first(symbols_of(np.zeros((10, 64), int)), 1, 2)[0]) == 2, "no more than there is room for"


def test_few_chunks_and_many_get_the_same_ids() -> None:
    rng = np.random.default_rng(0)
    chunks = np.cumsum(rng.normal(0, 0.1, (200, 12, 3)), 1)
    tokenizer = fast.FastConfig(vocab_size=300).fit(chunks)
    assert tokenizer.num_first > 0, "the fixture no longer has first merges"
    assert tokenizer.encode_all(chunks) == [tokenizer.encode(chunk) for chunk in chunks]
