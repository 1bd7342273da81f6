"""Statistics of a million frames: opening the set, moments and exact quantiles, beside NumPy on all rows at once.

Command     python bench/stats_speed.py [FRAMES]
Limit       np.quantile, mean and std over the whole columns as float64: a full partition of each dimension
Output      a table for a person, then one JSON line for a log; memory is the peak of what each way allocates
"""

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from trivium.core.log import console
from trivium.data.chain import Chain
from trivium.data.column import QUANTILES
from trivium.data.embodiment import Kind
from trivium.data.represent import RepresentConfig
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.stats import measure

T = TypeVar("T")
LENGTH = 500
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
HORIZON = 16


def write_set(root: Path, num_frames: int) -> Path:
    """Write a LeRobot v3.0 set without pictures: seven dimensions of state, seven of action."""
    feature = {"dtype": "float32", "shape": [len(NAMES)], "names": list(NAMES)}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "bench",
        "fps": 20,
        "total_episodes": num_frames // LENGTH,
        "total_frames": num_frames,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": {"observation.state": feature, "action": feature},
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    begin = np.arange(0, num_frames, LENGTH)
    episodes = {"episode_index": np.arange(len(begin)), "length": np.full(len(begin), LENGTH)}
    episodes |= {"dataset_from_index": begin, "dataset_to_index": begin + LENGTH}
    zeros = np.zeros(len(begin), np.int64)
    episodes |= {"data/chunk_index": zeros, "data/file_index": zeros}
    _write(root / "meta/episodes/chunk-000/file-000.parquet", episodes | {"tasks": [["move"]] * len(begin)})
    _write(root / "meta/tasks.parquet", {"task_index": [0], "__index_level_0__": ["move"]})
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(scale=0.01, size=(num_frames, len(NAMES))), 0).astype(np.float32)
    action = (state + rng.normal(scale=0.1, size=state.shape)).astype(np.float32)
    action[:, -1] = rng.integers(0, 2, num_frames)
    frame = np.tile(np.arange(LENGTH), len(begin))
    columns = {"observation.state": _rows(state), "action": _rows(action), "frame_index": frame}
    columns |= {"timestamp": (frame / 20).astype(np.float32), "index": np.arange(num_frames)}
    columns |= {"episode_index": np.repeat(np.arange(len(begin)), LENGTH), "task_index": np.zeros(num_frames, np.int64)}
    _write(root / "data/chunk-000/file-000.parquet", columns)
    return root


def by_numpy(source: LeRobot) -> dict[str, np.ndarray]:
    """Return the quantiles that NumPy finds, and do the rest of the work too."""
    found = {}
    for name, column in source.columns().items():
        values = column.astype(np.float64)
        assert np.isfinite(np.stack([values.mean(0), values.std(0), values.min(0), values.max(0)])).all()
        found[name] = np.quantile(values, list(QUANTILES.values()), axis=0)
    return found


def timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Return seconds, and, of a second run, the peak of memory in MB; and what came out."""
    start = time.perf_counter()
    out = work()
    seconds = time.perf_counter() - start
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, peak, out


def main(num_frames: int) -> None:
    """Measure, check that both ways agree to the bit, and print."""
    num_frames -= num_frames % LENGTH
    with tempfile.TemporaryDirectory() as folder:
        config = LeRobotConfig(path=str(write_set(Path(folder) / "set", num_frames)), views=(), horizon=HORIZON)
        open_s, _, source = timed(config.build)
    assert isinstance(source, LeRobot)
    every = np.arange(len(source))
    ours_s, ours_mb, stats = timed(lambda: measure([(source, every)])["bench"])
    numpy_s, numpy_mb, exact = timed(lambda: by_numpy(source))
    kinds: dict[str, Kind] = {name: "gripper" if name == "gripper" else "position" for name in NAMES}
    relative = RepresentConfig(to="relative", kinds=kinds)
    chunks_s, chunks_mb, _ = timed(lambda: measure([(source, every)], Chain([relative.build({})])))
    for name, quantiles in exact.items():
        ours = np.stack([getattr(stats[name], key) for key in QUANTILES])
        assert (ours == quantiles).all(), f"{name}: not NumPy's quantiles"
    rows = {
        "open the set": (open_s, 0.0),
        "statistics": (ours_s, ours_mb),
        "NumPy, all rows at once": (numpy_s, numpy_mb),
        f"relative commands, {HORIZON} a frame": (chunks_s, chunks_mb),
    }
    table = Table("what", "seconds", "peak MB", title=f"{num_frames:,} frames, 7 + 7 dimensions")
    for name, (seconds, peak) in rows.items():
        table.add_row(name, f"{seconds:.2f}", f"{peak:.0f}" if peak else "")
    console.print(table)
    result = {"frames": num_frames, "open_s": open_s, "stats_s": ours_s, "numpy_s": numpy_s, "relative_s": chunks_s}
    result |= {"ratio": numpy_s / ours_s, "stats_mb": ours_mb, "numpy_mb": numpy_mb}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


def _rows(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _write(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
