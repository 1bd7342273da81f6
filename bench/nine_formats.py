"""The quickstart's last stage on nine formats at once: are the tokens that were trained on those that were planned?

Command     python bench/nine_formats.py DEMO_DATA RUN_FOLDER [STEPS]   (DEMO_DATA as `trivium demo-data` writes it)
Output      a table for a person, then one JSON line; exit code 1 where a bucket differs by one token
"""

import json
import sys
from pathlib import Path

from rich.table import Table

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests/plugin", "recipes")]

import many_formats

import quickstart
from trivium import curriculum
from trivium.core.log import console
from trivium.data.detect import open_episodes

EPISODES, WORDS = 40, 300


def main(data: Path, folder: Path, steps: int) -> int:
    """Write the formats beside the run, train, and compare."""
    config = quickstart.recipe()
    stage = config.stages[-1]
    robot = open_episodes(data / "robot", [f"horizon={quickstart.HORIZON}"])
    formats = folder.with_name(f"{folder.name}.formats")
    if not formats.exists():
        many_formats.write_all(formats, robot, EPISODES, WORDS)
    source = config.robot.source.replace(path=str(data / "robot"))
    first = stage.mixture.buckets[0].replace(source=source)
    mixture = many_formats.mixture(formats, first, robot, stage.mixture)
    config = config.replace(
        name=folder.name,
        robot=config.robot.replace(source=source),
        stages=(stage.replace(steps=steps, warmup_steps=5, mixture=mixture),),
        rollout=None,
    )
    curriculum.execute(config, folder)
    plan = json.loads((folder / f"plan/{stage.name}.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = many_formats.check_tokens(plan, metrics)
    table = Table(title=f"{steps} steps of the quickstart's last stage on {len(tokens)} formats")
    for header in ("bucket", "asked", "planned", "planned tokens", "trained on"):
        table.add_column(header, justify="left" if header == "bucket" else "right")
    for row in plan["buckets"]:
        planned, realised = tokens[row["bucket"]]
        table.add_row(row["bucket"], f"{row['asked']:.2%}", f"{row['planned']:.2%}", f"{planned:,}", f"{realised:,}")
    console.print(table)
    equal = all(planned == realised for planned, realised in tokens.values())
    about = {"equal": equal, "largest_error_of_a_share": many_formats.error_of_shares(plan), "tokens": tokens}
    print(json.dumps(about | {"loss": [metrics[0]["loss"], metrics[-1]["loss"]]}))
    return 0 if equal else 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 60))
