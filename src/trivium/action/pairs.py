"""The first merges of a byte-pair encoding, on all chunks at once.

Most symbols of a chunk vanish in a few merges of the commonest pairs (runs of zeros, above all). Array operations do
those several times as fast as a general encoder does; it begins where they end. The result is the same to the last id.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt16

BETWEEN = 0
"""The symbol behind every chunk; id i is symbol i + 1."""
SPACE = 0x20
"""Code point of that symbol in texts: id i is the character SPACE + 1 + i."""
LETTERS = 0xD000
"""Ids that have a character below the surrogates."""
WORTH = 32
"""A merge is done here as long as it takes at least one symbol in so many away: below, an encoder is faster."""

Pair = tuple[int, int]
"""Ids of the left and the right word."""
Symbols = UInt16[np.ndarray, " _"]


def symbols_of(ids: Int[np.ndarray, "m z"]) -> Symbols:
    """Lay the ids of chunks end to end, `BETWEEN` behind each."""
    out = np.zeros((len(ids), ids.shape[1] + 1), np.uint16)
    out[:, :-1] = ids + 1
    return out.ravel()


def texts_of(symbols: Symbols) -> list[str]:
    """Return one text a chunk, a character a symbol."""
    # One view and one split instead of a join of characters: NumPy stores text as code points, 4 bytes each.
    codes = symbols.astype(np.uint32) + SPACE
    return str(codes.view(f"U{len(codes)}")[0]).split(chr(SPACE))[:-1] if len(codes) else []


def letter(token: int) -> str:
    """Return the character of an id."""
    return chr(SPACE + 1 + token)


def commonest(symbols: Symbols, num_ids: int) -> tuple[Pair, int]:
    """Return the commonest pair of neighbours (the smaller ids on a tie) and how often it occurs."""
    base = num_ids + 1
    keys = symbols[:-1].astype(np.int64) * base + symbols[1:]
    counts = np.bincount(keys, minlength=base * base).reshape(base, base)[1:, 1:]
    left, right = divmod(int(counts.argmax()), num_ids)
    return (left, right), int(counts[left, right])


def merge(symbols: Symbols, pair: Pair, token: int) -> Symbols:
    """Replace a pair of neighbours by one id, from the left: of three equal symbols the first two become one."""
    left, right = pair
    places = np.flatnonzero((symbols[:-1] == left + 1) & (symbols[1:] == right + 1))
    if left == right and len(places):
        begins = np.concatenate([[True], np.diff(places) > 1])
        since = np.arange(len(places)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
        places = places[since % 2 == 0]
    kept = np.ones(len(symbols), bool)
    kept[places + 1] = False
    out = symbols.copy()
    out[places] = token + 1
    return out[kept]


def learn_first(symbols: Symbols, num_letters: int, most: int) -> tuple[list[Pair], Symbols]:
    """Learn up to `most` merges as long as they are worth it; new ids follow the letters.

    The commonest pair is not always as common as its count says ("000" holds two overlapping pairs), in which case one
    pass is wasted; the merge is the one that any trainer would choose.
    """
    merges: list[Pair] = []
    while len(merges) < most:
        pair, count = commonest(symbols, num_letters + len(merges))
        if count * WORTH < len(symbols):
            break
        symbols = merge(symbols, pair, num_letters + len(merges))
        merges.append(pair)
    return merges, symbols


def apply_first(symbols: Symbols, merges: Sequence[Pair], num_letters: int) -> Symbols:
    """Do what was learned, in its order."""
    for i, pair in enumerate(merges):
        symbols = merge(symbols, pair, num_letters + i)
    return symbols
