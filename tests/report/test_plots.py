"""Charts: they draw what they are given, from one point to a thousand, without a warning."""

import json
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest
from PIL import Image

from trivium.probe.health import HealthReport
from trivium.report import plots
from trivium.report.metrics import StageMetrics
from trivium.report.run_folder import BucketShare, EvalFile, Strip, TaskResult


def _metrics(count, loss=1.0):
    metrics = StageMetrics()
    for step in range(count):
        metrics.add({"stage": "s", "step": step, "loss": {"text": loss}, "lr": {"base": 1e-3}, "grad_norm": loss})
    return metrics


def _is_svg(text):
    return ElementTree.fromstring(text[text.index("<svg") :]).tag.endswith("svg")


@pytest.mark.parametrize("metrics", [_metrics(1), _metrics(2, loss=None), _metrics(1000)], ids=["one", "nan", "many"])
def test_training_charts_draw_any_length(metrics):
    before = dict(mpl.rcParams)
    for draw in (plots.losses, plots.learning_rates, plots.gradient_norm):
        drawn = draw(metrics)
        assert _is_svg(drawn)
        assert len(drawn) < 150_000
    assert dict(mpl.rcParams) == before


def test_long_names_are_cut():
    shares = [
        BucketShare(bucket="b" * 60, asked=0.5, planned=0.5, tokens=1),
        BucketShare(bucket="c", asked=0.5, planned=0.5, tokens=1),
    ]
    assert _is_svg(plots.token_shares(shares, {"c": 1.0}))


def test_success_draws_tasks_that_one_policy_lacks():
    row = TaskResult(task="reach", successes=0, episodes=0, low=0.0, high=1.0)
    other = row.model_copy(update={"task": "push", "successes": 3, "episodes": 4, "low": 0.3, "high": 0.95})
    evals = {
        "untrained": EvalFile(tasks=(row,), mean=0.0, low=0.0, high=1.0),
        "last": EvalFile(tasks=(row, other), mean=0.4, low=0.2, high=0.7),
    }
    assert _is_svg(plots.success(evals))


def test_probe_charts_bear_one_stage_and_one_size(fake_run):
    report = json.loads((fake_run(num_clips=0) / "health/joint.json").read_text())
    for target in report["targets"]:
        for curve in target["curves"]:
            curve.update(sizes=curve["sizes"][:1], scores=curve["scores"][:1], second=curve["second"][:1])
    found = HealthReport.model_validate(report)
    assert _is_svg(plots.learning_curves(found.targets[0]))
    assert _is_svg(plots.scores_by_stage([found], found.targets[2].name))


def test_aligned_sample_draws_the_part_past_the_end(tmp_path):
    picture = tmp_path / "seen.png"
    Image.new("RGB", (320, 240), (200, 30, 30)).save(picture)
    actions = tuple((0.1 * step, -0.1) for step in range(8))
    inside = Strip(image="seen.png", names=("dx",), actions=actions, valid=(True,) * 8)
    past = inside.model_copy(update={"valid": (True,) * 5 + (False,) * 3})
    one, two = plots.aligned_sample(inside, picture), plots.aligned_sample(past, picture)
    assert _is_svg(one)
    assert "#c7ccd6" not in one
    assert "#c7ccd6" in two
    assert "image/png;base64" in one
