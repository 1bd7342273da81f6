"""A path is enough to know a set's format, and a wrong path is told what would have been known."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Image
from trivium.data.detect import detect, find, open_all
from trivium.data.survey import survey


@pytest.fixture
def sets(toy_set: Path, tmp_path: Path) -> Path:
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots/toy").symlink_to(toy_set)
    (tmp_path / "corpus.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / ".hidden.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "pictures").mkdir()
    pq.write_table(pa.table({"image": [b"x"], "question": ["a"], "answer": ["b"]}), tmp_path / "pictures/a.parquet")
    pq.write_table(pa.table({"price": [1.0]}), tmp_path / "robots/other.parquet")
    return tmp_path


def test_every_set_below_a_folder_is_found(sets: Path):
    found = list(find(sets / "robots"))
    assert found == [sets / "robots/toy"]
    assert [detect(path).kind for path in (sets / "pictures", sets / "corpus.jsonl")] == ["image_text", "text"]
    assert detect(sets / "pictures").words.kind == "question"


def test_a_robot_is_opened_with_all_its_cameras_unless_some_are_named(toy_set: Path):
    assert len(open_all(toy_set).read(0).of(Image)) == 1
    source = open_all(toy_set, ["views=[]", "horizon=4"])
    assert source.peek(0).of(Image) == []
    assert source.peek(0).of(Action)[0].values.shape == (4, 2)


def test_what_is_no_set_is_told_the_formats(sets: Path):
    with pytest.raises(DataError, match=r"found a folder with other\.parquet, toy; expected one of the formats"):
        detect(sets / "robots")
    with pytest.raises(DataError, match="found no such file or folder"):
        detect(sets / "nowhere")
    with pytest.raises(DataError, match="found a file of no known format"):
        detect(sets / "robots/other.parquet")
    with pytest.raises(ConfigError, match="Did you mean 'views'"):
        detect(sets / "robots/toy", ["view=[front]"])


def test_a_survey_says_what_a_set_holds(toy_set: Path, sets: Path):
    line = survey(toy_set, "lerobot", open_all(toy_set)).line()
    assert "lerobot: 28 samples in 3 groups" in line
    assert "licence CC-BY-4.0" in line
    assert "toy, 20 Hz, state 2, action 2, 2 tasks, front 64x64" in line
    words = survey(sets / "corpus.jsonl", "text", open_all(sets / "corpus.jsonl"))
    assert (words.samples, words.what) == (1, "document")
