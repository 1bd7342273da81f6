import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, State, Text
from trivium.data.blank import is_blank
from trivium.data.source.lerobot import LeRobot, LeRobotConfig

LENGTHS = (9, 14, 5)
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-{}.mp4"


def open_set(path: Path, **changes) -> LeRobot:
    return LeRobotConfig(**{"path": str(path), "views": ("front",), "horizon": 4} | changes).build()


def edit(path: Path, column: str, row: int, value) -> None:
    """Change one cell of a Parquet file."""
    table = pq.read_table(path)
    cells = table[column].to_pylist()
    cells[row] = value
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(cells, table.schema.field(column).type)), path)


def edit_info(path: Path, **changes) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | changes))


def test_every_picture_is_the_right_one_in_random_order(toy_set, picture_number):
    # cache_gb decides between the shared store and the small one per process; both must be right.
    for cache_gb in (1.0, 1e-5):
        source = open_set(toy_set, cache_gb=cache_gb)
        for i in np.random.default_rng(0).permutation(len(source)):
            sample = source.read(int(i))
            _, episode, frame = sample.id.split("/")
            assert picture_number(sample.of(Image)[0].pixels) == (int(episode), int(frame))


def test_sample_has_what_a_policy_sees_and_nothing_of_the_truth(toy_set):
    source = open_set(toy_set)
    i = LENGTHS[0] + 12
    sample = source.read(i)
    assert sample.id == "toy/1/12"
    assert [type(segment) for segment in sample.segments] == [Image, Text, State, Action]
    assert sample.of(State)[0].values.tolist() == [12, 12]
    assert sample.of(State)[0].names == ("a", "b")
    action = sample.of(Action)[0]
    assert action.values[:, 0].tolist() == [1012, 1013, 1013, 1013]
    assert action.valid.tolist() == [True, True, False, False]
    assert sample.of(Text)[0].text == "open the drawer"
    assert sample.of(Text)[0].role == "instruction"
    assert sample.truth["object"].tolist() == [1, 12, 0]
    assert (sample.embodiment, sample.license, source.license) == ("toy", "CC-BY-4.0", "CC-BY-4.0")
    assert sample.of(Image)[0].time_s == pytest.approx(12 / 20)


def test_chunks_never_cross_episodes(toy_set):
    source = open_set(toy_set)
    values, valid = source.chunks(np.arange(len(source)))
    assert (values[:, :, 0] // 1000 == source.groups()[:, None]).all()
    assert (~valid).sum() == len(LENGTHS) * 4 * 3 // 2


def test_history_is_oldest_first_and_stays_in_its_episode(toy_set, picture_number):
    source = open_set(toy_set, history=3)
    images = source.read(LENGTHS[0] + 1).of(Image)
    assert [picture_number(image.pixels) for image in images] == [(1, 0), (1, 0), (1, 1)]
    assert [image.time_s for image in images] == [0.0, 0.0, pytest.approx(0.05)]


def test_peek_equals_read_but_for_the_pixels(toy_set):
    source = open_set(toy_set, history=2)
    peeked, read = source.peek(11), source.read(11)
    assert all(is_blank(image.pixels) for image in peeked.of(Image))
    assert [image.pixels.shape for image in peeked.of(Image)] == [image.pixels.shape for image in read.of(Image)]
    assert peeked.id == read.id
    assert peeked.of(Text)[0] == read.of(Text)[0] or peeked.of(Text)[0].text == read.of(Text)[0].text


def test_paraphrases_vary_by_frame_and_never_for_one(toy_set):
    source = open_set(toy_set)
    said = [source.peek(i).of(Text)[0].text for i in range(LENGTHS[0])]
    assert said == [open_set(toy_set).peek(i).of(Text)[0].text for i in range(LENGTHS[0])]
    assert set(said) == {"push the block", "shove the block", "move the block"}
    plain = open_set(toy_set, paraphrase=False)
    assert {plain.peek(i).of(Text)[0].text for i in range(LENGTHS[0])} == {"push the block"}


def test_no_views_needs_no_videos(own_set):
    shutil.rmtree(own_set / "videos")
    assert not open_set(own_set, views=()).read(3).of(Image)


def test_fingerprint_follows_content_and_not_place(toy_set, own_set):
    assert open_set(own_set).fingerprint == open_set(toy_set).fingerprint
    assert open_set(own_set, horizon=5).fingerprint != open_set(toy_set).fingerprint
    edit(own_set / DATA, "action", 3, [0.5, 0.5])
    assert open_set(own_set).fingerprint != open_set(toy_set).fingerprint


def test_a_source_travels_to_another_process(toy_set, picture_number):
    source = open_set(toy_set)
    source.read(0)
    again = pickle.loads(pickle.dumps(source))
    assert picture_number(again.read(10).of(Image)[0].pixels) == (1, 1)


def test_license_from_the_data_card(own_set):
    edit_info(own_set, trivium={})
    assert open_set(own_set).license == "unknown"
    (own_set / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: none\n")
    assert open_set(own_set).license == "apache-2.0"


def broken(own_set: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        open_set(own_set, **changes)
    return str(caught.value)


def test_not_a_set(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    text = broken(tmp_path)
    assert f"{tmp_path}: found no meta/info.json (the folder holds: notes.txt)" in text
    assert "expected a LeRobot data set (v2.0, v2.1 or v3.0)" in text
    assert "trivium demo-data FOLDER" in text
    assert "found no such folder" in broken(tmp_path / "nowhere")


def test_wrong_version(own_set):
    edit_info(own_set, codebase_version="v1.6")
    text = broken(own_set)
    assert "found codebase_version 'v1.6'; expected one of v2.0, v2.1, v3.0. Convert it" in text


def test_broken_info(own_set):
    (own_set / "meta/info.json").write_text("{")
    assert "meta/info.json: found broken JSON" in broken(own_set)


def test_unknown_view(own_set):
    text = broken(own_set, views=("frnt",))
    assert "found no view 'frnt'; expected one of front. Did you mean 'front'? Change `views`." in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_action_that_is_not_finite(own_set, value):
    edit(own_set / DATA, "action", LENGTHS[0] + 3, [0.0, value])
    text = broken(own_set)
    assert f"{DATA}: episode 1, frame 3: found {value} in action, dimension 1 (b); 1 such values in the file" in text


def test_frames_that_are_not_in_order(own_set):
    edit(own_set / DATA, "index", 5, 7)
    assert "episode 0, frame 5: found index 7; expected 5" in broken(own_set)


def test_clock_that_slips(own_set):
    edit(own_set / DATA, "timestamp", 5, 0.26)
    assert "episode 0, frame 5: found timestamp 0.26; expected 0.25" in broken(own_set)


def test_fewer_frames_than_promised(own_set):
    pq.write_table(pq.read_table(own_set / DATA).slice(0, 20), own_set / DATA)
    assert f"{DATA}: episodes 0 to 1: found 20 frames; expected 23 frames, as meta/episodes says" in broken(own_set)
    edit_info(own_set, total_frames=29)
    assert "found 3 episodes with 28 frames; expected 3 episodes with 29 frames" in broken(own_set)


def test_episodes_that_overlap(own_set):
    edit(own_set / EPISODES, "dataset_from_index", 1, 8)
    assert "episode 1: found frames 8..23 and length 14; expected frames that start at 9" in broken(own_set)


def test_episode_that_points_into_the_previous_file(own_set):
    edit(own_set / EPISODES, "videos/observation.images.front/to_timestamp", 2, 1.0)
    text = broken(own_set)
    assert "episode 2, observation.images.front: found a video span of 20.0 frames from 0 s; expected 5 frames" in text


def test_an_episode_that_shares_frames_of_a_video(own_set):
    """The other face of lerobot#2401: a stale file index points at frames that another episode has."""
    set_cells = {"chunk_index": 0, "file_index": 0, "from_timestamp": 0.3, "to_timestamp": 0.3 + LENGTHS[2] / 20}
    for name, value in set_cells.items():
        edit(own_set / EPISODES, f"videos/observation.images.front/{name}", 2, value)
    text = broken(own_set)
    assert "episode 2, observation.images.front: found frames 6 to 10 of a video file" in text
    assert "some of which episode 0 has too; expected frames of its own" in text


def test_sizes_of_pictures_without_names(own_set):
    info = json.loads((own_set / "meta/info.json").read_text())
    for shape in ([64, 64, 3], [3, 64, 64]):
        info["features"]["observation.images.front"] |= {"shape": shape, "names": None}
        edit_info(own_set, features=info["features"])
        assert open_set(own_set).peek(0).of(Image)[0].pixels.shape == (64, 64, 3)


def test_missing_column(own_set):
    pq.write_table(pq.read_table(own_set / DATA).drop_columns("action"), own_set / DATA)
    assert f"{DATA}: found no column 'action'" in broken(own_set)


def test_missing_and_broken_files(own_set):
    (own_set / DATA).write_bytes(b"PAR1 nothing else")
    assert f"{DATA}: found a broken Parquet file" in broken(own_set)
    (own_set / DATA).unlink()
    assert f"{DATA}: episodes 0 to 1: found no such file" in broken(own_set)
    shutil.rmtree(own_set / "meta/episodes")
    assert "found no chunk-*/file-*.parquet" in broken(own_set)


def test_truncated_video(own_set):
    file = own_set / VIDEO.format("001")
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"moov")])
    text = broken(own_set)
    assert f"{file}: episodes 2 to 2: found a video that cannot be opened (Invalid data" in text
    assert "expected a whole mp4 with 5 frames. Copy that file again" in text
    file.write_bytes(data[: data.index(b"moov") + 100])
    assert "found a file without a video stream" in broken(own_set)
    file.unlink()
    assert "No such file" in broken(own_set)


def test_video_cut_behind_its_index(own_set, tmp_path):
    """With the index in front (faststart, as streamed sets have it) only the pictures are missing."""
    import av

    file, moved = own_set / VIDEO.format("000"), tmp_path / "moved.mp4"
    with av.open(str(file)) as old, av.open(str(moved), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    file.write_bytes(moved.read_bytes()[:-200])
    assert f"{file}: episodes 0 to 1: found a truncated video: its index points to byte" in broken(own_set)


def test_video_with_too_few_frames(own_set):
    shutil.copy(own_set / VIDEO.format("001"), own_set / VIDEO.format("000"))
    assert "episodes 0 to 1: found 5 frames where the episodes need 23" in broken(own_set)


def test_corrupt_pictures_name_the_frame(own_set):
    source = open_set(own_set)
    file = own_set / VIDEO.format("001")
    data = bytearray(file.read_bytes())
    data[data.index(b"mdat") + 4 : data.index(b"moov") - 4] = b"\0" * (data.index(b"moov") - data.index(b"mdat") - 8)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"file-001\.mp4: episode 2, frame 3: found ") as caught:
        source.read(sum(LENGTHS[:2]) + 3)
    assert "expected a picture that can be decoded" in str(caught.value)


REAL = Path(__file__).parents[4] / "shared" / "samples" / "lerobot_v3_tiny"


@pytest.mark.skipif(not REAL.is_dir(), reason="the sample set is not on this machine")
def test_a_set_written_by_lerobot_itself():
    source = open_set(REAL, views=("corner2",))
    assert len(source) == 307
    sample = source.read(200)
    assert sample.of(Image)[0].pixels.shape == (112, 112, 3)
    assert sample.of(Action)[0].names == ("dx", "dy", "dz", "grip")
    assert sample.of(Text)[0].text == "button-press-topdown-v3.npz"
