"""metrics.jsonl: exact sums, thinning that keeps the shape, torn lines counted."""

import json
import math

import numpy as np

from trivium.report.metrics import MAX_POINTS, read_metrics, smooth, thin


def _line(step, loss, **more):
    return {"stage": "joint", "step": step, "loss": loss, "tokens": {"demo/image": 10, "demo/text": 3}, **more}


def test_sums_are_exact_and_late_losses_are_nan_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [_line(1, {"text": 2.0}), _line(2, {"text": None, "flow": 1.0}, skipped=1), _line(3, {"text": 4.0})]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = []
    stage = read_metrics(path, problems)["joint"]
    assert problems == []
    assert stage.by(0) == {"demo": 39}
    assert stage.by(1) == {"image": 30, "text": 9}
    assert stage.skipped == 1
    assert stage.losses["flow"][1] == 1.0
    assert math.isnan(stage.losses["flow"][0])
    assert math.isnan(stage.losses["flow"][2])
    assert stage.last("text") == 3.0
    assert stage.first("flow") == 1.0


def test_torn_and_foreign_lines_are_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(_line(1, {"text": 2.0})) + '\n[]\n{"stage": "joint"}\n{"stage": "jo')
    problems = []
    stage = read_metrics(path, problems)["joint"]
    assert stage.steps == [1]
    assert problems == ["metrics.jsonl: 3 lines cannot be read (the first is line 2) and are left out."]


def test_a_line_that_breaks_off_midway_leaves_no_half_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        json.dumps(_line(1, {"text": 2.0}, lr={"base": "fast"})) + "\n" + json.dumps(_line(2, {"text": 1.0}))
    )
    problems = []
    stage = read_metrics(path, problems)["joint"]
    assert len(problems) == 1
    assert stage.steps == [2]
    assert len(stage.losses["text"]) == 1


def test_thin_averages_a_line_and_bounds_its_points():
    steps = list(range(5000))
    x, y = thin(steps, [2.0 * step for step in steps])
    assert len(x) == len(y) == MAX_POINTS
    np.testing.assert_allclose(y, 2 * x)
    assert (x[0], x[-1]) == (6.0, 4993.5)
    assert thin([1, 2], [3.0, 4.0])[1].tolist() == [3.0, 4.0]


def test_smooth_keeps_a_constant_and_passes_over_nan():
    values = np.full(100, 2.0)
    values[7] = np.nan
    np.testing.assert_allclose(smooth(values), 2.0)
