"""Do diffusion policies act better with the running average of their weights (EMA) than with the last ones?

Command     python bench/average.py DATA/robot [STEPS]     (a set that trivium demo-data recorded; default 500 steps)
Arms        the last weights, and `average`: the same fit, step for step, whose average acts
Shared      5 demonstrations of a task, seed, episodes; object and goal are shown (src/trivium/policies.py)
Output      a table for a person, then one JSON line for a log
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from rich.table import Table

from trivium.core.log import console
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.eval.statistics import wilson
from trivium.policies import choose_episodes, fit_policy, normalise, read_demonstrations, try_policy
from trivium.trial import plan_trial

HORIZON, DEMOS, EPISODES = 16, 5, 40
HEADS = ("diffusion", "diffusion U-Net")


def main(path: str, steps: int) -> None:
    """Fit and try both arms of every head on every task of the set, and print."""
    torch.set_num_threads(1)
    source = LeRobotConfig(path=path, views=(), horizon=HORIZON).build()
    assert isinstance(source, LeRobot), "LeRobotConfig builds one"
    plan, found = plan_trial(source, "all", EPISODES, DEMOS, steps), {}
    table = Table("head", "weights", *plan.rollout.tasks, "all", "95 %", title=f"{DEMOS} demonstrations, {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        for head in HEADS:
            for average in (False, True):
                wins = []
                for task in plan.rollout.tasks:
                    samples = choose_episodes(source, (task,), DEMOS, 0)
                    demos = read_demonstrations(source, samples, normalise(source, samples))
                    policy, _ = fit_policy(plan.heads[head], demos, steps, average=average)
                    wins.append(try_policy(policy, plan.rollout, task, Path(folder), f"{head}-{average}")[0])
                tried, name = EPISODES * len(wins), "average" if average else "last"
                low, high = wilson(sum(wins), tried)
                interval = f"{low:.2f} to {high:.2f}"
                table.add_row(head, name, *map(str, wins), f"{sum(wins)}/{tried}", interval)
                found[f"{head}, {name}"] = {"successes": wins, "of": tried}
    console.print(table)
    print(json.dumps({"steps": steps, "demos": DEMOS, **found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500)
