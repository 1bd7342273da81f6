import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from trivium.core.errors import ConfigError
from trivium.core.sample import Sample, State
from trivium.eval import rollout
from trivium.eval.policy import Policy
from trivium.eval.rollout import RolloutConfig, evaluate, gif
from trivium.eval.statistics import wilson
from trivium.report.run_folder import EvalFile

TASK = "handle-press-v3"
CONFIG = RolloutConfig(tasks=(TASK,), image_size=32, episodes=3, parallel=2, execute=1, max_steps=60, clips=1, ablate=0)


class Still:
    """Never moves; remembers what it was shown."""

    def __init__(self, horizon: int = 4):
        self.horizon, self.shown = horizon, []

    def act(self, observations: Sequence[Sample]) -> np.ndarray:
        self.shown.append([sample.id for sample in observations])
        return np.zeros((len(observations), self.horizon, 4), np.float32)


class Oracle:
    """The expert's idea from truth alone: go above the handle, then down."""

    def act(self, observations: Sequence[Sample]) -> np.ndarray:
        return np.stack([self.one(sample) for sample in observations])[:, None].astype(np.float32)

    def one(self, sample: Sample) -> np.ndarray:
        hand, thing = sample.of(State)[0].values[:3], sample.truth["object"]
        away = thing - hand
        if np.linalg.norm(away[:2]) > 0.02:
            away[2] = max(thing[2] + 0.14 - hand[2], 0)
        else:
            away[2] = -1.0
        return np.append(np.clip(10 * away, -1, 1), 1.0)


@pytest.mark.sim
def test_an_oracle_succeeds_and_the_result_is_written(tmp_path: Path):
    report = evaluate(Oracle(), CONFIG, tmp_path, "oracle")
    task = report["tasks"][0]
    assert (task["task"], task["successes"], task["episodes"]) == (TASK, 3, 3)
    assert (task["low"], task["high"]) == wilson(3, 3)
    assert 5 < task["mean_length"] < 60
    assert report["mean"] == 1.0
    assert json.loads((tmp_path / "oracle.json").read_text()) == report
    EvalFile.model_validate_json((tmp_path / "oracle.json").read_text())  # what the report reads
    assert task["videos"] == [f"videos/oracle-{TASK}-0.gif"]
    with Pillow.open(tmp_path / task["videos"][0]) as film:
        assert film.size == (32, 32)
        assert film.n_frames > 3


@pytest.mark.sim
def test_a_still_arm_fails_after_the_last_step_and_looks_once_a_chunk(tmp_path: Path):
    policy = Still()
    report = evaluate(policy, CONFIG.replace(execute=3, max_steps=7, clips=0), tmp_path, "still")
    assert report["mean"] == 0.0
    assert report["tasks"][0]["mean_length"] == 7.0
    seeds = [rollout.FIRST_EVALUATION_SEED + i for i in range(3)]
    assert policy.shown == [  # two side by side, then the third
        *[[f"{TASK}/{seeds[0]}/{at}", f"{TASK}/{seeds[1]}/{at}"] for at in (0, 3, 6)],
        *[[f"{TASK}/{seeds[2]}/{at}"] for at in (0, 3, 6)],
    ]


@pytest.mark.sim
def test_what_is_interrupted_leaves_no_result(tmp_path: Path):
    class Dies(Still):
        def act(self, observations: Sequence[Sample]) -> np.ndarray:
            if self.shown:
                raise KeyboardInterrupt
            return super().act(observations)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Dies(), CONFIG.replace(clips=0), tmp_path, "dies")
    assert not list(tmp_path.iterdir())


def test_a_wrong_task_or_view_is_refused_before_anything_starts(tmp_path: Path):
    with pytest.raises(ConfigError, match="Did you mean 'handle-press-v3'"):
        evaluate(Still(), CONFIG.replace(tasks=("handle-pres-v3",)), tmp_path, "x")
    with pytest.raises(ConfigError, match="views: found"):
        evaluate(Still(), CONFIG.replace(views=("front",)), tmp_path, "x")


def test_a_clip_of_a_whole_episode_stays_small():
    rng = np.random.default_rng(0)
    ground = rng.integers(90, 110, (112, 112, 3), dtype=np.uint8)  # the grain of the table
    frames = []
    for step in range(75):
        frame = ground.copy()
        frame[20:60, step : step + 30] = (200, 30, 40)
        frames.append(frame)
    data = gif(frames, 20)
    assert len(data) < 500_000
    with Pillow.open(BytesIO(data)) as film:
        assert film.info["duration"] == 50
        assert film.info["loop"] == 0


def test_policies_are_known_by_what_they_can_do():
    assert isinstance(Still(), Policy)
    assert not isinstance(object(), Policy)
