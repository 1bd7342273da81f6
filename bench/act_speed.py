"""How long a robot waits for an exported policy: loading it, one answer, several in one pass, one with its density.

Command     python bench/act_speed.py EXPORT [ANSWERS]     what `trivium export` wrote; 30 answers of each kind
Limit       the time between two commands of the robot, and that of a chunk: slower answers stop it
Output      a table for a person, then one JSON line for a log; medians in milliseconds, on one thread
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.table import Table

from trivium.core.log import console
from trivium.serve.policy import Policy, load_policy

SEVERAL = 8


def observation(policy: Policy, rng: np.random.Generator) -> dict[str, Any]:
    """Make an observation of noise of the right shape."""
    contract = policy.contract
    frames = (contract.history,) if contract.history > 1 else ()
    images = {
        view: rng.integers(256, size=(*frames, *size, 3), dtype=np.uint8)
        for view, size in contract.picture_sizes.items()
    }
    state = rng.normal(size=len(contract.state_names))
    return {"images": images, "state": state, "instruction": "open the door with the robot arm"}


def median_ms(run: Callable[[], object], times: int) -> float:
    """Return the median of several runs, the first apart."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def main(folder: str, times: int) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    policy = load_policy(folder)
    load_s = time.perf_counter() - start
    rng = np.random.default_rng(0)
    one, several = observation(policy, rng), [observation(policy, rng) for _ in range(SEVERAL)]
    rows = {
        "one answer": median_ms(lambda: policy.act(one), times),
        f"{SEVERAL} answers in one pass": median_ms(lambda: policy.act(several), times),
    }
    policy.policy.model.action.float()
    seen = policy.samples([one])
    rows["one answer with its log-probability"] = median_ms(lambda: policy.policy.draw(seen, 1.0), max(times // 10, 3))
    step_ms = 1000 / policy.contract.rate_hz
    title = f"{folder}: loaded in {load_s:.1f} s, a command is {step_ms:.0f} ms"
    table = Table("what", "ms", "commands missed", title=title)
    for name, taken in rows.items():
        table.add_row(name, f"{taken:.1f}", f"{taken / step_ms:.1f} of {policy.contract.horizon}")
    console.print(table)
    result = {"load_s": load_s, "step_ms": step_ms, "horizon": policy.contract.horizon}
    result |= dict(zip(("one_ms", "several_ms", "density_ms"), rows.values(), strict=True))
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30)
