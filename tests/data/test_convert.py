"""Sets written anew say what they said before; an interrupted conversion goes on; what has no plainer form is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.convert import convert
from trivium.data.detect import open_all
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import ImageTextConfig, QuestionColumns
from trivium.data.source.text import TextConfig


def test_episodes_come_back_frame_by_frame(toy_set: Path, tmp_path: Path, picture_number):
    before = LeRobotConfig(path=str(toy_set), views=("front",), horizon=3, paraphrase=False).build()
    assert convert(before, tmp_path / "new") == "LeRobot v3.0"
    after = LeRobotConfig(path=str(tmp_path / "new"), views=("front",), horizon=3, paraphrase=False).build()
    assert len(after) == len(before)
    assert after.license == before.license
    for i in range(len(before)):
        old, new = before.read(i), after.read(i)
        assert picture_number(new.of(Image)[0].pixels) == picture_number(old.of(Image)[0].pixels) == before.where(i)
        assert new.of(Text)[0].text == old.of(Text)[0].text
        for kind in (State, Action):
            np.testing.assert_array_equal(new.of(kind)[0].values, old.of(kind)[0].values)
        np.testing.assert_array_equal(new.of(Action)[0].valid, old.of(Action)[0].valid)
        np.testing.assert_array_equal(new.truth["object"], old.truth["object"])


def test_an_interrupted_conversion_goes_on(toy_set: Path, tmp_path: Path):
    source = open_all(toy_set)

    def stop(done: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "new", stop)
    assert not (tmp_path / "new").exists()
    [staged] = (tmp_path / ".new.converting" / source.fingerprint).iterdir()
    born = staged.stat().st_mtime_ns
    seen = []
    convert(source, tmp_path / "new", lambda done: seen.append((done, staged.stat().st_mtime_ns)))
    assert seen == [(9, born), (23, born), (28, born)]  # the first episode was not written again
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_text_becomes_json_lines(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": "x", "license": "MIT"}\n{"text": "zw\\u00f6lf"}\n')
    before = TextConfig(path=str(tmp_path / "a.jsonl"), license="CC0-1.0").build()
    assert convert(before, tmp_path / "new") == "json lines"
    after = open_all(tmp_path / "new")
    assert [after.read(i).of(Text)[0].text for i in range(2)] == ["one", "zwölf"]
    assert [after.read(i).license for i in range(2)] == ["MIT", "CC0-1.0"]


def test_questions_keep_their_picture_and_their_group(tmp_path: Path):
    picture = tmp_path / "p.png"
    Pillow.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(picture)
    columns = {"image": [picture.read_bytes()] * 3, "question": ["a?", "b?", "c?"], "answer": ["x", "y", "z"]}
    pq.write_table(pa.table(columns | {"episode": [7, 7, 8]}), tmp_path / "q.parquet")
    config = ImageTextConfig(path=str(tmp_path / "q.parquet"), words=QuestionColumns(), group_column="episode")
    assert convert(config.build(), tmp_path / "new") == "image-text Parquet"
    after = config.replace(path=str(tmp_path / "new"), group_column="group").build()
    assert after.groups().tolist() == [7, 7, 8]
    sample = after.read(2)
    assert [text.text for text in sample.of(Text)] == ["c?", "z"]
    np.testing.assert_array_equal(sample.of(Image)[0].pixels.reshape(-1), np.arange(48))


def test_what_is_there_is_never_written_over(toy_set: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/thesis.tex").write_text("")
    with pytest.raises(DataError, match="found something there already; expected a new folder"):
        convert(open_all(toy_set), tmp_path / "new")


def test_an_episode_with_two_tasks_is_refused(own_set: Path, tmp_path: Path):
    path = own_set / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    tasks = np.asarray(table["task_index"]).copy()
    tasks[4] = 1 - tasks[4]
    at = table.column_names.index("task_index")
    pq.write_table(table.set_column(at, "task_index", pa.array(tasks)), path)
    with pytest.raises(DataError, match="episode 0: found 2 task sentences; expected one sentence an episode"):
        convert(open_all(own_set), tmp_path / "new")


def test_a_rate_that_is_no_whole_number_is_refused(own_set: Path, tmp_path: Path):
    source = open_all(own_set)
    source.found = replace(source.found, fps=12.5)
    with pytest.raises(DataError, match=r"found 12\.5 frames a second"):
        convert(source, tmp_path / "new")
