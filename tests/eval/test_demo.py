import json
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Image
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.source.text import TextConfig
from trivium.eval import demo
from trivium.eval.demo import DemoDataConfig, Recorder, record
from trivium.eval.demo_episode import FIRST_EVALUATION_SEED, SEEDS_PER_SET, SmoothNoise, record_episode

pytestmark = pytest.mark.sim
TASK = "handle-press-v3"
CONFIG = DemoDataConfig(action_noise=0.3, tasks=(TASK,), episodes=2, image_size=32, caption_every=6, max_steps=80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "set"
    record(CONFIG, root, workers=1)
    return root


def test_a_set_holds_robot_captions_questions_and_text(folder: Path):
    about = json.loads((folder / "demo.json").read_text())
    robot = LeRobotConfig(path=str(folder / "robot"), views=("top",), horizon=4).build()
    assert len(robot) == about["report"]["frames"]
    assert about["report"]["episodes"] == {TASK: 2}
    assert set(robot.read(0).truth) == {"object", "goal", "object_image", "gripper_image"}
    captions = ImageTextConfig(path=str(folder / "captions"), words=CaptionColumns(), group_column="episode").build()
    asked = ImageTextConfig(path=str(folder / "spatial_qa"), words=QuestionColumns(), group_column="episode").build()
    assert len(captions) == about["report"]["captions"] > 4
    assert len(asked) == about["report"]["questions"] == 3 * len(captions)
    assert set(captions.groups()) == set(asked.groups()) == {0, 1}
    assert len(TextConfig(path=str(folder / "text/corpus.jsonl")).build()) > 10
    assert os.listdir(folder.parent) == ["set"], "nothing is left beside it"


def test_captions_lie_on_the_frames_they_describe(folder: Path):
    robot = LeRobotConfig(path=str(folder / "robot"), views=("top",), horizon=4).build()
    captions = ImageTextConfig(path=str(folder / "captions"), words=CaptionColumns()).build()
    rows = pq.read_table(folder / "captions", columns=["id", "episode"]).to_pylist()
    lengths = pq.read_table(folder / "robot/meta/episodes/chunk-000/file-000.parquet")["length"].to_pylist()
    for number, row in enumerate(rows):
        frame = int(row["id"].rsplit("/", 1)[1]) + sum(lengths[: row["episode"]])
        pictures = [source.read(i).of(Image)[0].pixels for source, i in ((captions, number), (robot, frame))]
        assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8  # JPEG here, H.264 there
        other = robot.read(frame - 6 if frame > 6 else frame + 6).of(Image)[0].pixels
        assert np.abs(pictures[0].astype(int) - other).mean() > np.abs(pictures[0].astype(int) - pictures[1]).mean()


def test_a_finished_set_is_recognised_and_not_touched(folder: Path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = record(CONFIG, folder, workers=1)
    assert report.already_there
    assert report.episodes == {TASK: 2}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_set_of_other_settings_is_refused(folder: Path):
    with pytest.raises(DataError, match=r"made with image_size=32; expected image_size=64 as asked now.*rm -r"):
        record(CONFIG.replace(image_size=64), folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"files that `trivium demo-data` did not write.*Give another folder"):
        record(CONFIG, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_interrupted_recording_goes_on_to_the_same_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recorder = Recorder(CONFIG, tmp_path / "set", 1)
    recorder._claim()
    assert record_episode(recorder.settings, TASK, 1)
    staged = recorder.settings.folder / f"{TASK}-000001"
    (recorder.settings.folder / f".{TASK}-000000.77.tmp").mkdir()  # what a killed worker leaves
    kept = staged.stat().st_mtime_ns
    asked = []
    monkeypatch.setattr(demo, "_pool", lambda workers: Here(asked))
    again = Recorder(CONFIG, tmp_path / "set", 1)
    publish = again._publish
    monkeypatch.setattr(again, "_publish", lambda *a: [publish(*a), asked.append(staged.stat().st_mtime_ns)][0])
    report = again.run()
    assert asked == [(TASK, 0), kept], "the finished episode was not played again"
    assert report.episodes == {TASK: 2}
    for name in ("robot/data/chunk-000/file-000.parquet", "captions/part-000.parquet", "text/corpus.jsonl"):
        assert (tmp_path / "set" / name).read_bytes() == (folder / name).read_bytes(), name


class Here:
    """Runs what is submitted at once, in this process."""

    def __init__(self, asked: list):
        self.asked = asked

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, function, settings, task, seed):
        from concurrent.futures import Future

        self.asked.append((task, seed))
        future = Future()
        future.set_result(function(settings, task, seed))
        return future


def test_failures_are_replaced_by_the_next_seeds_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list = []
    monkeypatch.setattr(demo, "_pool", lambda workers: Here(asked))
    monkeypatch.setattr(demo, "record_episode", lambda settings, task, seed: seed not in (1, 2))
    recorder = Recorder(CONFIG.replace(episodes=3), tmp_path / "set", 1)
    recorder._claim()
    outcomes = recorder._record()
    assert sorted(asked) == [(TASK, seed) for seed in range(5)]
    assert [seed for seed, kept in sorted(outcomes[TASK].items()) if kept] == [0, 3, 4]


def test_an_expert_that_never_succeeds_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "_pool", lambda workers: Here([]))
    monkeypatch.setattr(demo, "record_episode", lambda settings, task, seed: False)
    recorder = Recorder(CONFIG, tmp_path / "set", 1)
    recorder._claim()
    with pytest.raises(DataError, match=r"13 failed episodes out of 13; .*Lower `action_noise`"):
        recorder._record()


def test_the_label_is_the_clean_action_and_noise_leaves_the_gripper_alone():
    noise = SmoothNoise(1.0, np.random.default_rng(0))
    noise.spread = 1.0
    drawn = np.stack([noise.draw() for _ in range(4000)])
    assert (drawn[:, 3] == 0).all()
    np.testing.assert_allclose(drawn[:, :3].std(0), 0.98, atol=0.05)
    assert np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1] == pytest.approx(0.7, abs=0.05)
    spreads = {SmoothNoise(1.0, np.random.default_rng(i)).spread for i in range(30)}
    assert spreads == {0.0, 0.4, 1.0}


def test_no_recording_can_reach_a_seed_of_an_evaluation():
    largest = DemoDataConfig.model_fields["seed"].metadata
    assert SEEDS_PER_SET * 1001 < FIRST_EVALUATION_SEED
    assert any(getattr(rule, "le", None) == 1000 for rule in largest)


def test_a_killed_worker_is_explained():
    with (
        pytest.raises(DataError, match=r"a worker process that was killed .* Type the same command again"),
        demo._pool(1),
    ):
        raise BrokenProcessPool("a child process terminated abruptly")
