"""Fill-in-the-middle: a file is cut at two characters and its middle is told last."""

import numpy as np

from trivium.data.sentinel import Sentinels

FILE_SHARE = 0.5
"""Of the files of a chosen repository, how many are rearranged (StarCoder2, section 5.1)."""
SUFFIX_FIRST_SHARE = 0.5
"""Of those, how many are told suffix, prefix, middle (https://arxiv.org/abs/2207.14255; Megatron's fim_spm_rate)."""


def overhead(sentinels: Sentinels) -> int:
    """Return the characters that rearranging adds to a file."""
    return sum(len(sentinels[name]) for name in ("fim_prefix", "fim_suffix", "fim_middle"))


def fill(sentinels: Sentinels, head: str, code: str, rng: np.random.Generator) -> str:
    """Rearrange a file, or leave it, by the numbers that `rng` gives: its key says which file it is.

    PSM is prefix, suffix, middle; SPM tells the suffix first and then prefix and middle in one go (variant 2 of the
    paper, which is Megatron's too). The two cuts are uniform over the characters of the code. StarCoder2 draws them
    over path and code; here they fall in the code alone, so that the path always leads, as in the paper's example.

    Args:
        sentinels: the words.
        head: what stands before the code, the path and a line break; "" without metadata.
        code: the escaped file.
        rng: keyed by seed, repository and file.
    """
    rearranged, suffix_first = rng.random(2) < (FILE_SHARE, SUFFIX_FIRST_SHARE)
    begin, end = sorted(rng.integers(0, len(code) + 1, 2).tolist())
    if not rearranged:
        return head + code
    before, middle, after = head + code[:begin], code[begin:end], code[end:]
    first, second, last = (sentinels[name] for name in ("fim_prefix", "fim_suffix", "fim_middle"))
    if suffix_first:
        return f"{first}{second}{after}{last}{before}{middle}"
    return f"{first}{before}{second}{after}{last}{middle}"


def unfill(sentinels: Sentinels, chunk: str) -> str:
    """Undo `fill`: return head and code as they were, whichever way they were told."""
    first, second, last = (sentinels[name] for name in ("fim_prefix", "fim_suffix", "fim_middle"))
    if not chunk.startswith(first):
        return chunk
    # SPM has nothing between the first two words, and putting the parts in order is then the same.
    before, _, rest = chunk.removeprefix(first).partition(second)
    after, _, middle = rest.partition(last)
    return before + middle + after
