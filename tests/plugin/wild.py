"""Sequences of action ids that no tokenizer would write and a model may."""

from collections.abc import Iterator, Sequence

import numpy as np


def wild(
    vocab_size: int, usual: Sequence[Sequence[int]], count: int, seed: int = 0, longest: int = 10
) -> Iterator[list[int]]:
    """Yield `count` sequences, a ninth of each sort; `usual` are encodings of real chunks, which most are made from.

    Sorts: random ids of random length up to `longest` times the usual one, one id again and again, all ids, all ids
    out of order, a cut encoding, a doubled one, a shuffled one, a reversed one, and one with random ids in it.
    """
    rng = np.random.default_rng(seed)
    typical = max(1, round(float(np.mean([len(ids) for ids in usual]))))
    for i in range(count):
        ids = np.array(usual[int(rng.integers(len(usual)))], np.int64)
        length = int(rng.integers(0, longest * typical + 1))
        match i % 9:
            case 0:
                made = rng.integers(0, vocab_size, length)
            case 1:
                made = np.full(length, rng.integers(0, vocab_size))
            case 2:
                made = np.arange(vocab_size) if i % 900 == 2 else np.arange(vocab_size)[-length:]
            case 3:
                made = rng.permutation(vocab_size)[: vocab_size if i % 900 == 3 else length]
            case 4:
                made = ids[: int(rng.integers(0, len(ids) + 1))]
            case 5:
                made = np.concatenate([ids, ids])
            case 6:
                made = rng.permutation(ids)
            case 7:
                made = ids[::-1]
            case _:
                made = np.where(rng.random(len(ids)) < 0.2, rng.integers(0, vocab_size, len(ids)), ids)
        yield made.tolist()
