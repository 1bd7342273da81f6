"""LeRobot v3.0 with pictures inside Parquet files and words beside the frames."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_sets import SIZE, add_words, copy, edit_json, png, set_cell, set_column, shade, word, write_v3

from trivium.core.errors import DataError
from trivium.core.sample import Image, Text
from trivium.data.blank import is_blank
from trivium.data.source import table
from trivium.data.source.lerobot import LeRobot, LeRobotConfig

PLACES = [(e, i) for e, length in enumerate((5, 7, 3)) for i in range(length)]
FIRST, SECOND = (f"data/chunk-000/file-00{j}.parquet" for j in range(2))
KEY = "observation.images.eye"


def open_set(path: Path, **changes) -> LeRobot:
    return LeRobotConfig(**{"path": str(path), "views": ("eye",), "horizon": 4} | changes).build()


def broken(path: Path, row: int = 0, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(path, **changes).read(row)
    return str(caught.value)


@pytest.fixture(scope="module")
def stored_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v3(tmp_path_factory.mktemp("stored") / "toy")


@pytest.fixture
def mine(stored_set: Path, tmp_path: Path) -> Path:
    return copy(stored_set, tmp_path / "toy")


@pytest.mark.parametrize("cache_gb", [1.0, 1e-9])
def test_every_picture_is_the_right_one_in_random_order(stored_set, cache_gb):
    source = open_set(stored_set, cache_gb=cache_gb, history=2)
    for i in np.random.default_rng(0).permutation(len(source)):
        e, frame = PLACES[i]
        before, now = source.read(int(i)).of(Image)
        assert (now.pixels == shade(e, frame)).all()
        assert (before.pixels == shade(e, max(frame - 1, 0))).all()
    source = pickle.loads(pickle.dumps(source))
    assert (source.read(7).of(Image)[1].pixels == shade(1, 2)).all()
    assert is_blank(source.peek(7).of(Image)[1].pixels)


def test_few_row_groups_are_kept(stored_set, monkeypatch):
    """A row group is read once while its frames are wanted; with no room at all only the last one stays."""
    read: list[int] = []
    real = table.read_group

    def counted(path: Path, number: int, column: str) -> pa.ChunkedArray:
        read.append(number)
        return real(path, number, column)

    monkeypatch.setattr("trivium.data.source.lerobot_pictures.read_group", counted)
    source = open_set(stored_set)
    for _ in range(2):
        for i in range(12):
            source.read(i)
    assert read == [0, 1, 2]
    source = open_set(stored_set, cache_gb=1e-9)
    for i in (0, 1, 5, 0):
        source.read(i)
    assert read[3:] == [0, 1, 0]


def test_pictures_as_plain_bytes_and_as_files_beside(mine, tmp_path):
    set_column(mine / FIRST, KEY, pa.array([png(shade(3, j)) for j in range(12)]))
    assert (open_set(mine).read(11).of(Image)[0].pixels == shade(3, 11)).all()
    (mine / "images").mkdir()
    (mine / "images/a.png").write_bytes(png(shade(2, 9)))
    (tmp_path / "secret.png").write_bytes(png(shade(2, 9)))
    (mine / "images/link.png").symlink_to(tmp_path / "secret.png")
    set_cell(mine / SECOND, KEY, 0, {"bytes": None, "path": "images/a.png"})
    assert (open_set(mine).read(12).of(Image)[0].pixels == shade(2, 9)).all()
    for path in ("../secret.png", str(tmp_path / "secret.png"), "images/link.png", "images", "images/\0"):
        set_cell(mine / SECOND, KEY, 0, {"bytes": None, "path": path})
        text = broken(mine, 12)
        assert "episode 2, frame 0, view eye: found a path" in text
        assert "that is no file in" in text


def test_pictures_that_are_none(mine, monkeypatch):
    set_cell(mine / FIRST, KEY, 6, None)
    assert "episode 1, frame 1, view eye: found no picture" in broken(mine, 6)
    set_cell(mine / FIRST, KEY, 6, {"bytes": b"GIF89a nothing", "path": None})
    assert "episode 1, frame 1, view eye: found 14 bytes that are no picture" in broken(mine, 6)
    set_cell(mine / FIRST, KEY, 6, {"bytes": png(shade(1, 1)[:20]), "path": None})
    assert "found a picture of 20x32; expected 32x32, as meta/info.json says" in broken(mine, 6)
    with monkeypatch.context() as patch:
        patch.setattr("trivium.data.source.picture.MAX_PIXELS", 1000)
        assert f"frame 0, view eye: found a picture of {SIZE} x {SIZE} pixels, above 1,000" in broken(mine)
    monkeypatch.setattr(table, "MAX_GROUP_BYTES", 100)
    assert f"{FIRST}: row group 0: found a table that takes at least" in broken(mine)
    set_column(mine / FIRST, KEY, pa.array(range(12)))
    assert f"{FIRST}: column {KEY}: found type int64; expected encoded pictures" in broken(mine)
    pq.write_table(pq.read_table(mine / FIRST).drop_columns(KEY), mine / FIRST)
    assert f"{FIRST}: found no column '{KEY}'" in broken(mine)
    assert len(open_set(mine, views=())) == 15


def test_a_table_that_unpacks_without_end_is_refused(mine, monkeypatch):
    monkeypatch.setattr(table, "GROWTH", 0)
    monkeypatch.setattr(table, "SMALL_BYTES", 100)
    assert "file-000.parquet: found a table that takes at least" in broken(mine)
    monkeypatch.setattr(table, "SMALL_BYTES", 10_000)
    assert len(open_set(mine)) == 15
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(12 << 16, np.float32)), 1 << 16)
    set_column(mine / FIRST, "action", wide)
    text = broken(mine)
    assert f"{FIRST}: found a table that takes at least 3,14" in text
    assert "bytes in memory; expected at most 10,000" in text


def test_fingerprint_sees_the_size_of_pictures(mine):
    before = open_set(mine).fingerprint
    set_cell(
        mine / FIRST,
        KEY,
        6,
        {"bytes": png(np.arange(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3).astype(np.uint8)), "path": ""},
    )
    assert open_set(mine).fingerprint != before


SUBTASKS = [word("reach", "subtask", timestamp=0.0), word("grasp", "subtask", timestamp=0.1)]
PLAN = word("reach, then grasp", "plan", timestamp=0.0)


def with_words(root: Path) -> Path:
    asked = word("which colour?", "vqa", "user", camera=KEY)
    told = word("red", "vqa", camera=KEY)
    elsewhere = word("blue", "vqa", camera="observation.images.back")
    said = word(None, None, tool_calls=['{"name": "say"}'])
    events = [[] for _ in range(12)]
    events[1], events[6] = [said], [asked, told, elsewhere]
    lasting = [[*SUBTASKS, PLAN]] * 5 + [[word("open", "subtask", timestamp=0.2)]] * 7
    add_words(root / FIRST, lasting, events)
    add_words(root / SECOND, [[]] * 3, [[]] * 3)
    return root


def told(source: LeRobot, i: int) -> list[tuple[str, str]]:
    return [(text.role, text.text) for text in source.peek(i).of(Text)]


def test_words_that_hold_at_a_time(mine):
    source = open_set(with_words(mine), language=("plan", "subtask", "vqa"))
    task, plan = ("instruction", "push the block"), ("answer", "reach, then grasp")
    assert [told(source, i) for i in range(4)] == [
        [task, plan, ("answer", w)] for w in ("reach", "reach", "grasp", "grasp")
    ]
    assert told(source, 5)[1:] == []
    assert told(source, 6)[1:] == [("question", "which colour?"), ("answer", "red")]
    assert [told(source, i)[1:] for i in (8, 9, 11, 12)] == [[], [("answer", "open")], [("answer", "open")], []]
    assert told(open_set(mine, views=(), language=("vqa",)), 6)[1:] == []
    assert told(open_set(mine), 6) == [("instruction", "open the drawer")]
    assert open_set(mine, language=("plan",)).fingerprint != open_set(mine).fingerprint


def test_words_survive_chunks_of_any_size(mine, monkeypatch):
    monkeypatch.setattr("trivium.data.source.lerobot_language.ROWS_AT_ONCE", 2)
    source = open_set(with_words(mine), language=("subtask",))
    assert [told(source, i)[-1][1] for i in (0, 1, 2, 4, 9, 11)] == ["reach", "reach", "grasp", "grasp", "open", "open"]


def test_wrong_words(mine):
    assert f"{FIRST}: found no language columns; expected one of language_persistent" in broken(
        mine, language=("plan",)
    )
    with_words(mine)
    assert "found no words of style 'memory'" in broken(mine, language=("memory",))
    set_cell(mine / FIRST, "language_persistent", 3, [PLAN])
    text = broken(mine, language=("subtask",))
    assert f"{FIRST}: episode 0, frame 3: found language_persistent that differs from the frames before" in text
    set_cell(mine / FIRST, "language_persistent", 0, [PLAN | {"timestamp": float("nan")}])
    assert "episode 0, frame 0, language_persistent: found {'role'" in broken(mine, language=("plan",))
    set_column(mine / FIRST, "language_persistent", pa.array(["words"] * 12))
    assert "column language_persistent: found type string" in broken(mine, language=("vqa",))


def test_a_conversion_that_left_an_episode_in_the_file_before(tmp_path):
    """lerobot#2401: rows lie in the new file, meta/episodes names the old one. Rows say who they are: read right."""
    root = write_v3(tmp_path / "toy")
    episodes = root / "meta/episodes/chunk-000/file-000.parquet"
    tables = [pq.read_table(root / name) for name in (FIRST, SECOND)]
    pq.write_table(tables[0].slice(0, 5), root / FIRST, row_group_size=4)
    pq.write_table(pa.concat_tables([tables[0].slice(5), tables[1]]), root / SECOND, row_group_size=4)
    assert pq.read_table(episodes)["data/file_index"].to_pylist() == [0, 0, 1]
    source = open_set(root)
    assert all((source.read(i).of(Image)[0].pixels == shade(*PLACES[i])).all() for i in range(15))
    pq.write_table(tables[1], root / SECOND)
    assert f"{FIRST}: episodes 0 to 1: found 5 frames; expected 12 frames, as meta/episodes says" in broken(root)


def test_a_first_file_that_was_never_written(tmp_path):
    """lerobot#2643: the first episode filled a file: there is no file-000, but meta/episodes names it all the same."""
    root = write_v3(tmp_path / "toy", first_file=1)
    source = open_set(root)
    assert (source.read(14).of(Image)[0].pixels == shade(2, 2)).all()
    set_cell(root / "meta/episodes/chunk-000/file-000.parquet", "data/file_index", 0, 0)
    assert len(open_set(root)) == 15
    (root / SECOND).unlink()
    assert "file-000.parquet: episodes 0 to 0: found no such file; expected 5 frames" in broken(root)


def test_scrambled_borders(mine):
    """lerobot#1919."""
    episodes = mine / "meta/episodes/chunk-000/file-000.parquet"
    for name, values in {"dataset_from_index": [0, 12, 5], "dataset_to_index": [5, 15, 12]}.items():
        set_column(episodes, name, pa.array(values))
    text = broken(mine)
    assert "episode 1: found frames 12..15 and length 7; expected frames that start at 5" in text
    assert "a conversion from v2.1 may have left wrong borders" in text
    set_column(episodes, "episode_index", pa.array([0, 2, 1]))
    assert "found episode_index 1 in row 2; expected episodes in ascending order" in broken(mine)
    set_column(episodes, "episode_index", pa.array([0, 1, 2]))
    set_cell(episodes, "length", 1, None)
    assert "column length: found 1 empty cells" in broken(mine)


def test_files_in_the_wrong_order(mine):
    a, b = mine / FIRST, mine / SECOND
    tables = pq.read_table(a), pq.read_table(b)
    pq.write_table(tables[1], a)
    pq.write_table(tables[0], b)
    assert f"{FIRST}: episode 0, frame 0: found index 12; expected 0" in broken(mine)


def test_templates_and_places_of_strangers(mine):
    episodes = mine / "meta/episodes/chunk-000/file-000.parquet"
    set_cell(episodes, "data/file_index", 1, -1)
    assert "episode 1: found data/file_index -1; expected 0 or more" in broken(mine)
    set_cell(episodes, "data/file_index", 1, 0)
    edit_json(mine / "meta/info.json", data_path="data/{file_index.__class__.__mro__}")
    assert "found data_path 'data/{file_index.__class__.__mro__}'; expected a path inside the set" in broken(mine)
    edit_json(mine / "meta/info.json", data_path="data/chunk-000/file-000.parquet")
    assert "found 12 frames; expected 15 frames" in broken(mine)
