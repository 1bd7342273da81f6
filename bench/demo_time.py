"""Where the time of a run went: by section, by stage in tokens a second, and how much of it waited for data.

Command     python bench/demo_time.py runs/quickstart
Output      a table for a person, then one JSON line for a log; seconds are wall time, all processes of the run added
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from trivium.core.errors import CheckpointError, TriviumError
from trivium.core.log import console


def measure(run: Path) -> dict[str, Any]:
    """Read times.json and metrics.jsonl of a run folder; return seconds and shares by section, and pace by stage.

    Raises:
        CheckpointError: the folder is no run folder, or the run has not done anything yet.
    """
    path = run / "times.json"
    try:
        seconds: dict[str, float] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(path), f"{type(error).__name__}", "the clock of a run", "Name a folder that `trivium train` made."
        ) from error
    total = sum(seconds.values())
    return {
        "run": str(run),
        "total_s": round(total, 1),
        "sections": {name: {"s": part, "share": round(part / total, 4)} for name, part in seconds.items()},
        "kinds": _by_kind(seconds, total),
        "stages": _stages(run / "metrics.jsonl"),
    }


def table(found: dict[str, Any]) -> Table:
    """Lay the sections out, the pace of a stage beside its training."""
    title = f"{found['run']}: {found['total_s']:,.0f} s"
    rows = Table(title=title)
    for header in ("section", "seconds", "share", "steps", "tokens/s", "data wait"):
        rows.add_column(header, justify="left" if header == "section" else "right")
    for name, part in found["sections"].items():
        pace = found["stages"].get(name.removeprefix("train: ")) if name.startswith("train: ") else None
        cells = (str(pace["steps"]), f"{pace['tokens_per_s']:,.0f}", f"{pace['data_wait']:.1%}") if pace else ()
        rows.add_row(name, f"{part['s']:.1f}", f"{part['share']:.1%}", *cells)
    rows.add_section()
    for kind, share in found["kinds"].items():
        rows.add_row(f"all {kind}", f"{share * found['total_s']:.1f}", f"{share:.1%}")
    return rows


def _by_kind(seconds: dict[str, float], total: float) -> dict[str, float]:
    """Add up what stands before the colon: plan, train, health, rollouts; the largest first."""
    kinds: dict[str, float] = {}
    for name, part in seconds.items():
        kind = name.split(":")[0]
        kinds[kind] = kinds.get(kind, 0.0) + part
    return {kind: round(part / total, 4) for kind, part in sorted(kinds.items(), key=lambda item: -item[1])}


def _stages(path: Path) -> dict[str, dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    names = dict.fromkeys(line["stage"] for line in lines)
    return {name: _pace(line for line in lines if line["stage"] == name) for name in names}


def _pace(lines: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Weigh every step by its seconds: a mean of rates would count short steps like long ones."""
    steps, tokens, step_s, wait_s = 0, 0, 0.0, 0.0
    for line in lines:
        number = sum(line["tokens"].values())
        lasted = number / max(line["tokens_per_s"], 1e-9)
        steps, tokens, step_s = steps + 1, tokens + number, step_s + lasted
        wait_s += line["data_wait"] * lasted
    return {
        "steps": steps,
        "tokens": tokens,
        "step_s": round(step_s / steps, 4),
        "tokens_per_s": round(tokens / max(step_s, 1e-9), 1),
        "data_wait": round(wait_s / max(step_s, 1e-9), 4),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/demo_time.py RUN")
    try:
        result = measure(Path(sys.argv[1]))
    except TriviumError as trouble:
        sys.exit(str(trouble))
    console.print(table(result))
    print(json.dumps(result))
