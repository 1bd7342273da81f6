import json
import sys
from pathlib import Path

import pytest

from trivium.report.page import write_report
from trivium.report.run_folder import read_run
from trivium.report.stability import stability_section

SENSES = ("corner2", "wrist", "state", "instruction")
ALARM = {"watch": "text.general", "stage": "everything", "step": 300, "text": "NEGATIVE TRANSFER: <general> fell."}


def write_stability(run: Path) -> Path:
    """Add what rollouts and health checks write about missing senses, and an alarm."""
    path = run / "eval/everything.json"
    result = json.loads(path.read_text())
    result["ablations"] = [
        {
            **{"without": sense, "successes": won, "whole": 22, "episodes": 30},
            **{"low": max(0.0, won / 30 - 0.15), "high": min(1.0, won / 30 + 0.15)},
            **{"change": (won - 22) / 30, "change_low": (won - 22) / 30 - 0.2, "change_high": (won - 22) / 30 + 0.1},
        }
        for sense, won in zip(SENSES, (2, 19, 15, 23), strict=True)
    ]
    path.write_text(json.dumps(result))
    for number, stage in enumerate(("joint", "everything")):
        losses = ("text",) if number == 0 else ("text", "action_token", "flow")
        record = {
            **{"stage": stage, "step": None, "episodes": 15, "samples": 100},
            "units": {loss: "" if loss == "flow" else "bits" for loss in losses},
            "whole": {loss: {"value": 1.2, "low": 1.1, "high": 1.35} for loss in losses},
            "without": [
                {"sense": sense, "losses": {loss: {"change": c, "low": c - 0.1, "high": c + 0.08} for loss in losses}}
                for sense, c in zip(SENSES, (0.61, 0.12, 0.3, -0.02), strict=True)
            ],
        }
        (run / "ablation").mkdir(exist_ok=True)
        (run / f"ablation/{stage}.json").write_text(json.dumps(record))
    (run / "alarms.jsonl").write_text(json.dumps(ALARM) + "\n")
    return run


@pytest.fixture
def run(fake_run):
    return write_stability(fake_run(num_clips=0))


def test_what_was_measured_is_gathered_in_the_order_of_the_stages(run):
    section = stability_section(read_run(run))
    assert [file.stage for file in section["files"]] == ["joint", "everything"]
    assert section["losses"] == ["text", "action_token", "flow"]
    assert [label for label, _ in section["played"]] == ["everything"]
    assert [alarm.watch for alarm in section["alarms"]] == ["text.general"]
    assert section["problems"] == []


def test_the_page_says_what_a_missing_sense_costs(run):
    page = write_report(run).read_text()
    for words in (
        '<section id="stability">',
        '<a href="#stability">',
        "<td>wrist</td>",
        "2/30",
        "-67 points",
        "+0.610",
        "Negative transfer: 1 alarm.",
        "NEGATIVE TRANSFER: &lt;general&gt; fell.",
        "100 held-out frames of 15 episodes",
    ):
        assert words in page, words


def test_nothing_measured_leaves_no_section(fake_run):
    page = write_report(fake_run(num_clips=0)).read_text()
    assert "stability" not in page
    assert "Negative transfer" not in page


def test_what_is_broken_is_said(run):
    (run / "ablation/joint.json").write_text("{}")
    (run / "alarms.jsonl").write_text(json.dumps(ALARM) + "\n{\n")
    page = write_report(run).read_text()
    assert "ablation/joint.json cannot be read" in page
    assert "alarms.jsonl: line 2 cannot be read" in page
    assert "+0.610" in page


if __name__ == "__main__":  # to look at it: python tests/report/test_stability_section.py FOLDER
    from conftest import make_run

    print(write_report(write_stability(make_run(Path(sys.argv[1]), num_clips=0, num_strips=1))))
