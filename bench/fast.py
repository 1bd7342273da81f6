"""FAST beside the published tokenizer: speed of fit, encode and decode, tokens and error on the four published shapes.

Command     RAYON_NUM_THREADS=1 OMP_NUM_THREADS=1 python bench/fast.py [CHUNKS]    one thread for both sides
Peer        bench/fast_reference.py, the published tokenizer written from its description, chunk by chunk as it works
Data        band-limited chunks (below 2 Hz) in the shapes of the paper's table; 3,000 to learn from, 1,000 fresh ones
Output      a table for a person, then one JSON line for a log. Speeds are chunks a processor-second, best of three;
            `fit` is of CHUNKS chunks (200,000), beside the peer's on 3,000, because its memory and time grow with
            their number. "of a sample": tokens where merges are learned from every fourth of the 3,000 chunks
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from rich.table import Table

from fast_reference import Reference, smooth
from trivium.action import fast
from trivium.action.fast import FastConfig
from trivium.core.log import console

SHAPES = {
    "Bridge 5 Hz": (5, 7, 5),
    "DROID 15 Hz": (15, 7, 15),
    "Bussing 20 Hz": (20, 7, 20),
    "Shirt 50 Hz": (50, 14, 50),
}
"""Steps, dimensions, rate of the paper's table: one second each."""
SCALE = 10.0
VOCAB = 1024

T = TypeVar("T")


def best(work: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """Return the least processor seconds of several tries, and what came out: wall time would count the neighbours."""
    seconds = []
    for _ in range(times - 1):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    begin = time.process_time()
    out = work()
    return min([*seconds, time.process_time() - begin]), out


def rmse(found: np.ndarray, chunks: np.ndarray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(((found - chunks) ** 2).mean()))


def measure(shape: tuple[int, int, int], num_chunks: int) -> dict[str, float]:
    """Measure both tokenizers on chunks of one shape."""
    config = FastConfig(scale=SCALE, vocab_size=VOCAB)
    train, fresh = smooth(3000, *shape), smooth(1000, *shape, seed=1)
    many = smooth(num_chunks, *shape, seed=2)
    fit_s, _ = best(lambda: config.fit(many), 1)
    peer_fit_s, peer = best(lambda: Reference.fit(train), 1)
    ours = config.fit(train)
    encode_s, ids = best(lambda: ours.encode_all(fresh))
    peer_encode_s, peer_ids = best(lambda: [peer.encode(chunk) for chunk in fresh])
    decode_s, decoded = best(lambda: ours.decode_all(ids))
    peer_decode_s, peer_decoded = best(lambda: np.stack([peer.decode(one) for one in peer_ids]))
    whole = np.array([len(peer.bpe.decode(one)) == train[0].size for one in peer_ids])
    assert ours.num_repaired == 0, "a chunk of our own did not come back whole"
    tokens, peer_tokens = (float(np.mean([len(one) for one in side])) for side in (ids, peer_ids))
    sampled = _tokens_of_a_sample(config, train, fresh)
    return {
        "fit_per_s": num_chunks / fit_s,
        "fit_ratio": num_chunks / fit_s / (len(train) / peer_fit_s),
        "encode_per_s": len(fresh) / encode_s,
        "encode_ratio": peer_encode_s / encode_s,
        "decode_per_s": len(fresh) / decode_s,
        "decode_ratio": peer_decode_s / decode_s,
        "tokens": tokens,
        "peer_tokens": peer_tokens,
        "compression": train[0].size / tokens,
        "sample_tokens": sampled,
        "rmse": rmse(decoded, fresh),
        "peer_rmse": rmse(peer_decoded[whole], fresh[whole]),
        "peer_zeroed": int((~whole).sum()),
    }


def _tokens_of_a_sample(config: FastConfig, train: np.ndarray, fresh: np.ndarray) -> float:
    """Return tokens a chunk when merges are learned from every fourth chunk."""
    before, fast.SAMPLE = fast.SAMPLE, train.size // 4
    sampled = config.fit(train)
    fast.SAMPLE = before
    return float(np.mean([len(one) for one in sampled.encode_all(fresh)]))


def main(num_chunks: int) -> None:
    """Measure every shape and print."""
    found: dict[str, dict[str, Any]] = {name: measure(shape, num_chunks) for name, shape in SHAPES.items()}
    bound = 1 / (SCALE * np.sqrt(12)) * 1.02
    table = Table(title=f"our FAST and the published one; rounding bound of the error {bound:.4f}")
    headers = ("shape", "fit k/s", "x peer", "encode k/s", "x peer", "decode k/s", "x peer", "tokens (peer's)")
    for header in (*headers, "of a sample", "RMSE (peer's)", "peer zeroed"):
        table.add_column(header, justify="left" if header == "shape" else "right")
    for name, row in found.items():
        speeds = [
            text
            for what in ("fit", "encode", "decode")
            for text in (f"{row[f'{what}_per_s'] / 1000:.0f}", f"{row[f'{what}_ratio']:.1f}")
        ]
        tokens = f"{row['tokens']:.1f} ({row['peer_tokens']:.1f})"
        errors = f"{row['rmse']:.4f} ({row['peer_rmse']:.4f})"
        table.add_row(name, *speeds, tokens, f"{row['sample_tokens']:.1f}", errors, str(row["peer_zeroed"]))
        assert row["rmse"] <= bound, name
    console.print(table)
    rounded = {name: {what: round(value, 4) for what, value in row.items()} for name, row in found.items()}
    print(json.dumps({"chunks": num_chunks, "shapes": rounded}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
