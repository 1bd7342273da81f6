import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from trivium.core.sample import Image, Sample, State, Text
from trivium.eval.ablation import blank, compare, senses
from trivium.eval.rollout import RolloutConfig, evaluate
from trivium.eval.statistics import change, wilson
from trivium.report.run_folder import EvalFile

TASK = "handle-press-v3"


def observation() -> Sample:
    rng = np.random.default_rng(0)
    pictures = [Image(pixels=rng.integers(1, 255, (4, 4, 3), dtype=np.uint8), view=view) for view in ("front", "wrist")]
    words = [Text(text="push", role="instruction"), Text(text="what?", role="question")]
    state = State(values=np.ones(2, np.float32), names=("a", "b"))
    return Sample(id="x", segments=(*pictures, *words, state), source="test", license="MIT", embodiment="arm")


def test_a_dead_camera_sends_black_and_all_else_stays():
    whole = observation()
    for sense in ("front", "wrist"):
        found = blank(whole, sense)
        assert [image.view for image in found.of(Image)] == ["front", "wrist"]
        for before, after in zip(whole.of(Image), found.of(Image), strict=True):
            assert after.pixels.any() == (after.view != sense)
            assert (after is before) == (after.view != sense)
        assert found.segments[2:] == whole.segments[2:]
        assert (found.id, found.embodiment) == ("x", "arm")


def test_state_and_instruction_are_simply_not_there():
    whole = observation()
    assert [type(part) for part in blank(whole, "state").segments] == [Image, Image, Text, Text]
    assert [text.role for text in blank(whole, "instruction").of(Text)] == ["question"]
    assert senses(("front", "wrist")) == ("front", "wrist", "state", "instruction")


def test_paired_change_is_newcombes_table():
    """Newcombe 1998, Table II, method 10: (36, 12, 2, 0), (53, 0, 1, 0), (0, 29, 0, 1) and (54, 0, 0, 0)."""
    for table, low, high in [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        ((30, 0, 0, 0), -0.1135, 0.1135),
    ]:
        both, lost, won, neither = table
        value, least, most = change(both, won, lost, neither)  # his difference is first minus second
        assert value == pytest.approx((lost - won) / sum(table))
        assert (least, most) == pytest.approx((low, high), abs=2e-3), table


def test_the_interval_of_a_change_holds_the_truth():
    rng, held, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        first = rng.random(20) < 0.7
        second = np.where(rng.random(20) < 0.6, first, rng.random(20) < 0.3)
        truth = 0.6 * 0.7 + 0.4 * 0.3 - 0.7
        both, neither = int((first & second).sum()), int((~first & ~second).sum())
        _, low, high = change(both, int((first & ~second).sum()), int((~first & second).sum()), neither)
        held += low <= truth <= high
    assert 0.92 < held / trials < 0.99


def test_compare_pairs_by_episode():
    whole = {"a": [True, True, False], "b": [True, False, True]}
    without = {"a": [True, False, False], "b": [False, False, True]}
    found = compare("wrist", whole, without)
    assert (found["successes"], found["whole"], found["episodes"]) == (2, 4, 6)
    assert (found["low"], found["high"]) == wilson(2, 6)
    assert found["change"] == pytest.approx(-1 / 3)
    assert (found["change"], found["change_low"], found["change_high"]) == change(2, 2, 0, 2)
    assert found["tasks"][1] == {"task": "b", "successes": 1, "whole": 2, "episodes": 3}


class Sighted:
    """Presses the handle from what the truth says, as long as the camera and the state are alive."""

    def __init__(self):
        self.seen = []

    def act(self, observations: Sequence[Sample]) -> np.ndarray:
        self.seen += [(s.of(Image)[0].pixels.any(), len(s.of(State)), len(s.of(Text))) for s in observations]
        return np.stack([self.one(sample) for sample in observations])[:, None].astype(np.float32)

    def one(self, sample: Sample) -> np.ndarray:
        if not sample.of(State) or not sample.of(Image)[0].pixels.any():
            return np.array([0, 0, 1, 0], np.float32)  # up and away
        away = sample.truth["object"] - sample.of(State)[0].values[:3]
        if np.linalg.norm(away[:2]) > 0.02:
            away[2] = max(away[2] + 0.14, 0)
        else:
            away[2] = -1.0
        return np.append(np.clip(10 * away, -1, 1), 1.0)


@pytest.mark.sim
def test_every_sense_is_taken_away_in_turn(tmp_path: Path):
    policy = Sighted()
    config = RolloutConfig(
        tasks=(TASK,), image_size=32, episodes=3, parallel=2, execute=1, max_steps=60, clips=1, ablate=2
    )
    report = evaluate(policy, config, tmp_path, "seeing")
    assert report["tasks"][0]["outcomes"] == [True, True, True]
    rows = {row["without"]: row for row in report["ablations"]}
    assert list(rows) == ["top", "state", "instruction"]
    assert all((row["episodes"], row["whole"]) == (2, 2) for row in rows.values())
    assert [rows[sense]["successes"] for sense in rows] == [0, 0, 2]
    assert rows["top"]["change"] == -1.0
    assert rows["top"]["change_high"] < 0 < rows["instruction"]["change_high"] + 1e-9
    assert set(policy.seen) == {(True, 1, 1), (False, 1, 1), (True, 0, 1), (True, 1, 0)}
    assert len(list((tmp_path / "videos").iterdir())) == 1, "ablations are not filmed"
    assert json.loads((tmp_path / "seeing.json").read_text()) == report
    found = EvalFile.model_validate_json((tmp_path / "seeing.json").read_text())
    assert found.ablations[0].without == "top"
    alone = evaluate(Sighted(), config.replace(ablate=0), tmp_path, "alone")
    assert alone["ablations"] == []
    assert alone["tasks"][0]["outcomes"] == report["tasks"][0]["outcomes"]
