"""One run learns from nine formats at once, and what it has seen is what was planned, to the token."""

import json
from pathlib import Path

import many_formats
import pytest
import small_run

from trivium import curriculum
from trivium.data.bucket import BucketConfig
from trivium.data.detect import open_episodes


@pytest.mark.parametrize("workers", [0, 2])
def test_realised_tokens_equal_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int):
    data = small_run.write_set(tmp_path / "set")
    config = small_run.small_run(data, workers)
    stage = config.stages[1]
    robot = open_episodes(data, [f"horizon={small_run.HORIZON}"])
    root = many_formats.write_all(tmp_path / "formats", robot, 6, 20)
    first: BucketConfig = stage.mixture.buckets[0]
    mixture = many_formats.mixture(root, first, robot, stage.mixture).replace(row_length=400, rows_per_batch=2)
    config = config.replace(stages=(stage.replace(steps=12, mixture=mixture),))
    monkeypatch.setattr(curriculum, "roll_out", small_run.no_simulator)
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    folder = tmp_path / "run"
    curriculum.execute(config, folder)
    plan = json.loads((folder / "plan/vla.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = many_formats.check_tokens(plan, metrics)
    assert len(tokens) == 9
    assert all(planned == realised > 0 for planned, realised in tokens.values()), tokens
    assert many_formats.error_of_shares(plan) < 0.05  # few tokens: one document is a few per cent
    assert not (folder / "quarantine.jsonl").exists() or not (folder / "quarantine.jsonl").read_text()
    assert metrics[-1]["loss"]["text"] < metrics[0]["loss"]["text"]
