"""Damaging files in every way that disks, networks and strangers do, and seeing that a reader says so."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trivium.core.errors import TriviumError

EXTREMES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\xff" * 8,
    b"nan",
    b"1e999",
    b"../../x",
    b"{",
    b'"',
)
GROWTH_MB = 400
"""What a damaged file may cost in memory beyond what was used before."""


def mutations(original: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` damaged copies: cut short, bits flipped, bytes set to extremes, spans removed, repeated, zeroed."""
    rng = np.random.default_rng(seed)
    for j in range(count):
        data = bytearray(original)
        at, size = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
        match j % 6:
            case 0:
                del data[at:]
            case 1:
                for place in rng.integers(0, len(data), rng.integers(1, 9)):
                    data[place] ^= 1 << int(rng.integers(0, 8))
            case 2:
                data[at : at + size] = EXTREMES[int(rng.integers(0, len(EXTREMES)))]
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size]
            case 5:
                data[at : at + size] = bytes(len(data[at : at + size]))
        yield bytes(data)


def survive(file: Path, use: Callable[[], object], count: int = 2000, seed: int = 0) -> dict[str, int]:
    """Damage `file` again and again and use it: it may work or raise a whole `TriviumError`, nothing else.

    Returns:
        How often it "worked" and how often it was "refused".
    """
    original = file.read_bytes()
    seen = {"worked": 0, "refused": 0}
    nameless: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in mutations(original, count, seed):
        file.write_bytes(data)
        try:
            use()
            seen["worked"] += 1
        except TriviumError as error:
            seen["refused"] += 1
            nameless += [] if error.where and error.found and error.expected else [str(error)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    file.write_bytes(original)
    assert not nameless, f"errors without their parts: {nameless[:3]}"
    assert grown < GROWTH_MB, f"damaged files took {grown:.0f} MB"
    return seen
