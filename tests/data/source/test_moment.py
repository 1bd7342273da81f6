import os
import pickle
from typing import Any

import av
import numpy as np
import pytest
from film import TIMES_MS, clip, levels

from trivium.data.source import moment as module
from trivium.data.source.moment import MomentReader, open_video
from trivium.data.source.video import VideoError, check_video


def shown(time_s: float) -> int:
    return max((j for j, at in enumerate(TIMES_MS) if at <= 1000 * time_s + 1e-3), default=0)


@pytest.mark.parametrize("options", [{"g": "1"}, {"g": "250"}, {"g": "4", "bf": "2", "preset": "medium"}])
def test_the_frame_shown_at_a_time_whatever_the_rate(tmp_path, options):
    path = clip(tmp_path / "a.mp4", **options)
    reader = MomentReader()
    rng = np.random.default_rng(0)
    asked = [0.0, 0.039, 0.04, 0.2, 0.399, 0.4, 1.25, 2.999, 3.0, 8.999, 9.0, 9.02, 9.5, 9.6, 20.0]
    assert levels(reader.frames(path, asked)) == [shown(time_s) for time_s in asked]
    for _ in range(30):
        some = sorted(rng.uniform(0, 10, 3).tolist())
        assert levels(reader.frames(path, some)) == [shown(time_s) for time_s in some]


def test_a_video_that_begins_late_shows_its_first_frame_before(tmp_path):
    path = clip(tmp_path / "a.mp4", times_ms=(2000, 3000))
    assert levels(MomentReader().frames(path, [0.0, 0.5, 2.5, 3.5]))[-1] == 1


def test_far_moments_are_sought(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.mp4", g="1")
    decoded = []
    whole = module.decode
    monkeypatch.setattr(module, "decode", lambda c, s: (decoded.append(t) or (t, f) for t, f in whole(c, s)))
    assert levels(MomentReader().frames(path, [0.0, 9.5])) == [0, 10]
    assert 3.0 not in [round(time_s, 2) for time_s in decoded]


def test_it_travels_and_survives_a_fork(tmp_path):
    path = clip(tmp_path / "a.mp4")
    reader = MomentReader()
    assert levels(reader.frames(path, [0.4])) == [2]
    assert levels(pickle.loads(pickle.dumps(reader)).frames(path, [1.0])) == [4]
    child = os.fork()
    if child == 0:
        os._exit(0 if levels(reader.frames(path, [3.0, 9.5])) == [7, 10] else 1)
    assert levels(reader.frames(path, [1.6, 9.1])) == [6, 9]
    assert os.waitpid(child, 0)[1] == 0


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path):
    path = tmp_path / "a.mp4"
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:32] = 255  # white above, black below
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    data[matrix : matrix + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)  # a quarter turn clockwise
    path.write_bytes(data)
    [found] = MomentReader().frames(path, [0.0])
    assert found.shape == (32, 64, 3)
    assert found[:, 40:].mean() > 200  # what was above is now on the right
    assert found[:, :24].mean() < 50


def test_a_playlist_leads_nowhere(tmp_path):
    clip(tmp_path / "secret.mp4")
    lists = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    }
    for name, text in lists.items():
        path = tmp_path / f"{name}.mp4"
        path.write_text(text)
        with pytest.raises(VideoError, match="a video that cannot be opened"):
            open_video(path)
        with pytest.raises(VideoError, match="a video that cannot be opened"):
            check_video(path, 1, (48, 64))


def test_what_is_no_video(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.mp4")
    whole = path.read_bytes()
    with pytest.raises(VideoError, match="a video that cannot be opened"):
        MomentReader().frames(tmp_path / "nowhere.mp4", [0.0])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError):
        MomentReader().frames(path, [0.0, 9.5])
    path.write_bytes(whole)
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(VideoError, match="frames of 48 x 64 pixels, not from 1 to 100"):
        open_video(path)
