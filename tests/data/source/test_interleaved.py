import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from film import film, levels
from fuzz import survive

from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Image, Text
from trivium.data.blank import is_blank
from trivium.data.source.interleaved import InterleavedConfig, key_frames
from trivium.data.source.scene import Scenes, prepare
from trivium.data.source.video_write import encode_video

SRT = """1
00:00:00,200 --> 00:00:00,900
Take the bowl.

2
00:00:02,100 --> 00:00:04,000
Put it
down.
"""


def make(folder: Path, transcript: str = SRT, suffix: str = ".srt", name: str = "clip") -> Path:
    """Write a film of grey steps: second j has the level 20 + 20 j; scenes of 1 s each but for the last of 5 s."""
    folder.mkdir(parents=True, exist_ok=True)
    level = [0] * 10 + [2] * 10 + [5] * 50
    frames = np.stack([np.full((32, 48, 3), 20 + 20 * value, np.uint8) for value in level])
    encode_video(folder / f"{name}.mp4", frames, 10)
    (folder / f"{name}{suffix}").write_text(transcript)
    prepare(folder)
    return folder


def build(folder: Path, **changes):
    return InterleavedConfig(path=str(folder), **({"every_s": 2.0} | changes)).build()


def told(source, i: int = 0) -> list[tuple[float, str]]:
    return [(round(s.time_s, 2), s.text if isinstance(s, Text) else "picture") for s in source.read(i).segments]


def broken(folder: Path, **changes) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        build(folder, **changes)
    return str(caught.value)


def test_pictures_and_words_in_the_order_of_time(tmp_path):
    source = build(make(tmp_path / "set"))
    assert told(source) == [
        (0.2, "Take the bowl."),
        (0.5, "<0.5 s>"),
        (0.5, "picture"),
        (1.5, "<1.5 s>"),
        (1.5, "picture"),
        (2.1, "Put it down."),
        (3.0, "<3.0 s>"),
        (3.0, "picture"),
        (5.0, "<5.0 s>"),
        (5.0, "picture"),
    ]
    sample = source.read(0)
    assert levels([image.pixels for image in sample.of(Image)]) == [0, 2, 5, 5]
    assert (sample.id, sample.source, sample.license) == ("set/clip/0", "set", "unknown")
    assert all(text.role == "document" for text in sample.of(Text))


def test_key_frames_of_long_and_short_scenes():
    scenes = Scenes(video="", height=1, width=1, threshold=1.0, starts_s=(0.0, 1.0, 4.0), end_s=13.9)
    assert key_frames(scenes, 4.0) == [0.5, 2.5, 6.0, 10.0]
    assert key_frames(scenes, 3.0) == [0.5, 2.5, 5.5, 8.5, 11.5]
    assert key_frames(scenes, 100.0) == [0.5, 2.5, 8.95]


def test_long_documents_become_samples_that_follow_one_another(tmp_path):
    whole, cut = (build(make(tmp_path / "set"), max_frames=number) for number in (8, 2))
    assert [len(source) for source in (whole, cut)] == [1, 2]
    assert told(cut, 0) + told(cut, 1) == told(whole)
    assert len(cut.read(0).of(Image)) == 2
    assert cut.read(1).id == "set/clip/1"
    assert len(set(cut.groups().tolist())) == 1


def test_peek_is_read_with_blank_pictures(tmp_path):
    source = build(make(tmp_path / "set"), max_frames=3)
    for i in range(len(source)):
        seen, read = source.peek(i), source.read(i)
        assert [type(s) for s in seen.segments] == [type(s) for s in read.segments]
        assert [s.time_s for s in seen.segments] == [s.time_s for s in read.segments]
        assert [t.text for t in seen.of(Text)] == [t.text for t in read.of(Text)]
        assert [m.pixels.shape for m in seen.of(Image)] == [m.pixels.shape for m in read.of(Image)]
        assert all(is_blank(image.pixels) for image in seen.of(Image))


def test_no_stamp_and_one_of_your_own(tmp_path):
    make(tmp_path / "set")
    assert "<0.5 s>" not in [text for _, text in told(build(tmp_path / "set", stamp=""))]
    assert (0.5, "[0.5]") in told(build(tmp_path / "set", stamp="[{}]"))
    assert "stamp: found 'at'; expected a text with {} in it" in broken(tmp_path / "set", stamp="at")


def test_words_of_whisper_stand_between_pictures(tmp_path):
    words = [{"word": f" w{j}{'.' * (j % 2)}", "start": j / 2, "end": j / 2 + 0.4} for j in range(10)]
    text = json.dumps({"segments": [{"start": 0, "end": 5, "text": "".join(w["word"] for w in words), "words": words}]})
    source = build(make(tmp_path / "set", text, ".json"), stamp="")
    assert [text for _, text in told(source)] == (
        ["w0 w1.", "picture", "w2 w3.", "picture", "w4 w5.", "picture", "w6 w7.", "w8 w9.", "picture"]
    )


def test_a_silent_film_is_pictures_alone(tmp_path):
    assert [text for _, text in told(build(make(tmp_path / "set", ""), stamp=""))] == ["picture"] * 4


def test_fingerprint_groups_and_travel(tmp_path):
    source = build(make(tmp_path / "set"))
    assert pickle.loads(pickle.dumps(source)).read(0).id == source.read(0).id
    (tmp_path / "set").rename(tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "set")
    assert build(tmp_path / "set").fingerprint == source.fingerprint
    assert build(tmp_path / "set", every_s=1.0).fingerprint != source.fingerprint
    make(tmp_path / "set" / "deep", name="other")
    both = build(tmp_path / "set")
    assert len(set(both.groups().tolist())) == 2
    assert both.read(1).id == "set/deep/other/0"
    assert both.groups()[0] == source.groups()[0]
    (tmp_path / "set" / "clip.srt").write_text(SRT.replace("bowl", "cup"))
    assert build(tmp_path / "set").fingerprint != both.fingerprint


def test_sets_that_are_not_whole(tmp_path):
    folder = make(tmp_path / "set")
    late = SRT.replace("00:00:02,100 --> 00:00:04,000", "00:01:02,100 --> 00:01:04,000")
    (folder / "clip.srt").write_text(late)
    text = broken(folder)
    assert f"{folder / 'clip.srt'}: found 'Put it down.' at 62.1 s" in text
    assert "expected nothing after the end of clip.mp4 at 7.0 s" in text
    (folder / "clip.vtt").write_text("WEBVTT\n")
    assert f"{folder / 'clip.mp4'}: found 2 transcripts; expected one of clip.srt, clip.vtt, clip.json" in broken(
        folder
    )
    (folder / "clip.vtt").unlink()
    (folder / "clip.srt").unlink()
    assert "found no transcript; expected one of clip.srt" in broken(folder)
    (folder / "clip.srt").write_text(SRT)
    (folder / "clip.scenes.json").unlink()
    assert f"found by decoding, once. Type: python -m trivium.data.source.scene {folder}" in broken(folder)
    assert "found no such file or folder" in broken(tmp_path / "nowhere")


def test_a_video_that_breaks_after_opening_is_named(tmp_path):
    folder = make(tmp_path / "set")
    source = build(folder)
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "clip.mp4").write_bytes(whole[: len(whole) // 2])
    assert f"{folder / 'clip.scenes.json'}: found the scenes of another video" in broken(folder)
    with pytest.raises(DataError, match=r"clip.mp4: 0.500 to 5.000 s: found .*; expected a whole mp4"):
        source.read(0)
    film(folder / "clip.mp4", [7.0])
    with pytest.raises(
        DataError, match=r"clip.mp4: 0.500 s: found a picture of 48 x 64; expected 32 x 48, as at first"
    ):
        source.read(0)


def test_damaged_videos(tmp_path):
    folder = make(tmp_path / "set")
    source = build(folder)

    def use() -> None:
        prepare(folder)
        build(folder).read(0)

    seen = survive(folder / "clip.mp4", use, count=300)
    assert min(seen.values()) > 20
    prepare(folder)
    # Opened while whole, damaged afterwards: it may show other pixels, but of the right size, or be refused.
    assert survive(folder / "clip.mp4", lambda: pickle.loads(pickle.dumps(source)).read(0), count=300)["refused"] > 20
