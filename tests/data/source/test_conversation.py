import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from film import clip, levels
from fuzz import survive
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Text
from trivium.data.blank import is_blank
from trivium.data.source import conversation, records
from trivium.data.source.conversation import ConversationConfig


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    Pillow.new("RGB", (8, 6), (value, 0, 0)).save(out, "PNG")
    path.write_bytes(out.getvalue())
    return path


def talk(*turns: str) -> list[dict]:
    return [{"from": ("human", "gpt")[j % 2], "value": words} for j, words in enumerate(turns)]


def save(path: Path, *found: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, found)) if path.suffix == ".jsonl" else json.dumps(found, indent=1)
    path.write_text(lines)
    return path


def segments(sample: Sample) -> list:
    return [(s.role, s.text) if isinstance(s, Text) else int(s.pixels[0, 0, 0]) for s in sample.segments]


def broken(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        ConversationConfig(path=str(path), **changes).build().read(0)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value in (1, 2, 3):
        picture(tmp_path / f"img/{value}.png", value)
    return tmp_path


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_turns_and_pictures_in_their_order(folder, name):
    turns = [
        {"from": "system", "value": "Be brief."},
        *talk("<image>\nWhat?", "A <image>.", "And here: <image> ?", "Ü"),
    ]
    both = {"id": "a", "image": ["img/2.png", "img/1.png"], "conversations": turns}
    one = {"id": 7, "image": "img/3.png", "conversations": talk("What?\n<image>", "Red"), "license": "CC0-1.0"}
    words = {"conversations": talk("Hello", "World")}
    source = ConversationConfig(path=str(save(folder / name, both, one, words)), license="mine").build()
    assert [source.read(i).id for i in range(3)] == ["llava/0:a", "llava/1:7", "llava/2"]
    assert segments(source.read(0)) == [
        ("instruction", "Be brief.\n"),
        2,
        ("question", "What?"),
        ("answer", "A <image>."),
        ("question", "And here:"),
        1,
        ("question", "?"),
        ("answer", "Ü"),
    ]
    assert segments(source.read(1)) == [("question", "What?"), 3, ("answer", "Red")]
    assert segments(source.read(2)) == [("question", "Hello"), ("answer", "World")]
    assert [source.read(i).license for i in range(3)] == ["mine", "CC0-1.0", "mine"]
    peeked = source.peek(0).of(Image)
    assert [image.pixels.shape for image in peeked] == [(6, 8, 3)] * 2
    assert all(is_blank(image.pixels) for image in peeked)
    assert segments(pickle.loads(pickle.dumps(source)).read(1)) == segments(source.read(1))


def test_records_that_share_a_picture_are_one_group(folder):
    images = [["img/1.png"], ["img/2.png", "img/1.png"], ["./img/2.png"], ["img/3.png"], None, ["img/3.png"]]
    found = [
        {"conversations": talk("<image>" * len(names or ["x"]) if names else f"words {j}", "a")}
        | ({"image": names} if names else {})
        for j, names in enumerate(images)
    ]
    groups = ConversationConfig(path=str(save(folder / "a.jsonl", *found))).build().groups()
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[5]
    assert len(set(groups.tolist())) == 3
    reverse = ConversationConfig(path=str(save(folder / "b.jsonl", *found[::-1]))).build().groups()
    assert groups.tolist() == reverse[::-1].tolist(), "ids hang on pictures, not on places"


def meta(folder: Path, **changes) -> Path:
    many = [{"id": j, "conversations": talk(f"words {j}", "a")} for j in range(100)]
    save(folder / "notes/many.jsonl", *many)
    save(folder / "notes/few.jsonl", {"image": "2.png", "conversations": talk("<image>", "b")})
    entry = {"root": "img/", "annotation": "notes/many.jsonl", "data_augment": False, "length": 100} | changes
    few = {"root": "img", "annotation": "notes/few.jsonl", "max_dynamic_patch": 6, "length": 1, "data_augment": True}
    path = folder / "meta.json"
    path.write_text(json.dumps({"few": few, "many": entry}))
    return path


def test_repeat_factors(folder):
    source = ConversationConfig(path=str(meta(folder, repeat_time=2.3))).build()
    assert len(source) == 1 + 230
    assert segments(source.read(0)) == [2, ("answer", "b")]
    ids = [source.read(i).id for i in range(len(source))]
    assert ids[:2] == ["meta/few/0", "meta/many/0:0"]
    assert len(set(ids)) == 231
    third = [int(name.split(":")[1].split("#")[0]) for name in ids if name.endswith("#2")]
    assert len(third) == 30
    assert third != list(range(30))
    assert 35 < np.mean(third) < 65, "from everywhere in the file"
    assert len(set(source.groups().tolist())) == 101, "copies stay together"
    half = ConversationConfig(path=str(meta(folder, repeat_time=0.3))).build()
    assert [half.read(i).id.split(":")[1] for i in range(1, len(half))] == [str(j) for j in third]
    assert len(ConversationConfig(path=str(meta(folder, repeat_time=0.001))).build()) == 2
    assert half.fingerprint != source.fingerprint


def test_choice_hangs_on_what_a_record_says(folder):
    source = ConversationConfig(path=str(meta(folder, repeat_time=0.3))).build()
    before = {segments(source.read(i))[0] for i in range(1, len(source))}
    path = folder / "notes/many.jsonl"
    meta(folder, repeat_time=0.3, length=101)
    path.write_text(json.dumps({"conversations": talk("new", "a")}) + "\n" + path.read_text())
    source = ConversationConfig(path=str(folder / "meta.json")).build()
    after = {segments(source.read(i))[0] for i in range(1, len(source))}
    assert len(before & after) >= 29


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"length": 99}, "many.jsonl (many): found 100 records; expected `length`, 99"),
        ({"repeat_time": 0}, "meta.json: many: found repeat_time 0.0; expected above 0, at most 100"),
        ({"repeat_time": float("nan")}, "found repeat_time nan"),
        ({"repeat_time": "2"}, "found repeat_time '2'; expected int or float"),
        ({"length": True}, "found length True; expected int"),
        ({"repeat_tims": 2}, "found unknown key 'repeat_tims'; expected one of root, annotation"),
        ({"root": "../.."}, "found root '../..'; expected a folder in"),
        ({"root": "/etc"}, "found root '/etc'; expected a folder in"),
        ({"annotation": "../a.jsonl"}, "found annotation '../a.jsonl'; expected a .json or .jsonl"),
        ({"annotation": "img/1.png"}, "found annotation 'img/1.png'"),
    ],
)
def test_meta_files_that_are_refused(folder, changes, found):
    assert found in broken(meta(folder, **changes))


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"image": "img/1.png", "conversations": talk("What?", "<image>")}, "0 <image> in human turns; expected 1"),
        ({"conversations": talk("<image>", "b")}, "1 <image> in human turns; expected 0, one for every picture"),
        ({"image": ["img/1.png"] * 2, "conversations": talk("<image>", "b")}, "1 <image> in human turns; expected 2"),
        ({"conversations": talk("a")}, "turns of human; expected system turns first, then human and gpt by turns"),
        ({"conversations": talk("a", "b")[::-1]}, "turns of gpt, human"),
        ({"conversations": talk("a", " ")}, "turn 1: found an empty turn of 'gpt'"),
        ({"conversations": [{"from": "user", "value": "a"}]}, "turn 0: found \"{'from': 'user', 'value': 'a'}\""),
        ({"conversations": talk("a", "\ud800")}, "turn 1: found"),
        ({"conversations": []}, "found a conversation of type list"),
        ({"text": "a"}, "found a conversation of type NoneType"),
        ({"video": "a.mp4", "conversations": talk("a", "b")}, "0 <image> in human turns; expected 1"),
        (
            {"video": "a.mp4", "conversations": talk("<video>" * 2, "b")},
            "2 <video> in human turns; expected 1",
        ),
        (
            {"video": ["a.mp4"] * 2, "conversations": talk("<video>", "b")},
            "found 2 videos and image 'None'",
        ),
        ({"video": "a.mp4", "image": "x.png", "conversations": talk("<video>", "b")}, "1 videos and image 'x.png'"),
        ({"video": "a.mp4", "conversations": talk("<video>", "b")}, "found a path 'a.mp4' that is no file in"),
        (
            {"video": "img/text.png", "conversations": talk("<video>", "b")},
            "img/text.png: a ",
        ),
        ({"video": "img/1.png", "conversations": talk("<video>", "b")}, "a video that cannot be opened"),
        ({"image": "", "conversations": talk("<image>", "b")}, "found image ''; expected a path"),
        ({"image": 3, "conversations": talk("<image>", "b")}, "found image '3'"),
        ({"image": "../x.png", "conversations": talk("<image>", "b")}, "found a path '../x.png' that is no file in"),
        ({"image": "/etc/passwd", "conversations": talk("<image>", "b")}, "found a path '/etc/passwd' that is no file"),
        ({"image": "img/link.png", "conversations": talk("<image>", "b")}, "found a path 'img/link.png' that is no"),
        ({"image": "img/pipe.png", "conversations": talk("<image>", "b")}, "found a path 'img/pipe.png' that is no"),
        ({"image": "img/\0.png", "conversations": talk("<image>", "b")}, "that is no file in"),
        ({"image": "x" * 5000, "conversations": talk("<image>", "b")}, "that is no file in"),
        ({"image": "img/text.png", "conversations": talk("<image>", "b")}, "bytes that are no picture"),
        ({"conversations": talk("a", "b"), "license": 3}, "found license '3'"),
    ],
)
def test_records_that_are_refused(folder, record, found):
    (folder / "img/link.png").symlink_to("/etc/passwd")
    (folder / "img/text.png").write_text("words")
    os.mkfifo(folder / "img/pipe.png")
    path = save(folder / "a.jsonl", {"id": "x"} | record)
    text = broken(path)
    assert found in text
    assert f"{path}: line 1 (id 'x')" in text


@pytest.mark.parametrize("mark", ["<video>", "<image>"])
def test_a_video_is_frames_evenly_spread(folder, mark):
    clip(folder / "a.mp4", times_ms=range(0, 5500, 500))
    words = talk(f"{mark}\nWhat happens?", "It gets brighter.")
    path = save(folder / "a.jsonl", {"id": 1, "video": "a.mp4", "conversations": words})
    source = ConversationConfig(path=str(path), frames=4).build()
    film, question, answer = source.read(0).segments
    assert film.times_s == pytest.approx([5.25 * (j + 0.5) / 4 for j in range(4)], abs=0.25), "5 s and the last frame"
    assert levels(list(film.frames)) == [int(time_s / 0.5) for time_s in film.times_s]
    assert (question.text, answer.text) == ("What happens?", "It gets brighter.")
    blank = source.peek(0).segments[0]
    assert blank.frames.shape == film.frames.shape
    assert is_blank(blank.frames)
    assert blank.times_s.tolist() == film.times_s.tolist()
    assert pickle.loads(pickle.dumps(source)).read(0).segments[0].frames.shape == (4, 48, 64, 3)
    more = ConversationConfig(path=str(path), frames=5).build()
    assert more.fingerprint != source.fingerprint


def test_links_within_the_root_are_fine(folder):
    (folder / "img/link.png").symlink_to(folder / "img/3.png")
    path = save(folder / "a.json", {"image": "img/link.png", "conversations": talk("<image>", "b")})
    assert segments(ConversationConfig(path=str(path)).build().read(0))[0] == 3
    assert f"found a path 'img/link.png' that is no file in {folder / 'img'}" in broken(path, root=str(folder / "img"))


def test_files_that_are_none(folder, monkeypatch):
    path = folder / "a.json"
    assert "found no such file; expected a .json or .jsonl" in broken(path)
    for text, found in [
        ("", f"{path}: found '' at the start; expected a JSON array of records"),
        ("[]", f"{path}: found no records"),
        (json.dumps([{"conversations": talk("a", "b")}])[:-1], "record 0: found '' after it; expected ',' or ']'"),
        (json.dumps([{"conversations": talk("a", "b")}])[:-1] + ",]", "record 1: found broken JSON"),
        ("[3]", "record 0: found a int; expected a JSON object"),
        ('[{"conversations": ', "record 0: found broken JSON"),
        ("[" * 100_000, "record 0: found broken JSON"),
        ("{", f"{path}: found broken JSON"),
        ('{"a": 3}', f"{path}: a: found 3; expected an object with `root` and `annotation`"),
        (json.dumps([{"conversations": talk("a", "b")}]) + "x", "found 'x' after the array"),
    ]:
        path.write_text(text)
        assert found in broken(path), text
    path.write_bytes(b"[\xff")
    assert f"{path}: found bytes that are not UTF-8" in broken(path)
    monkeypatch.setattr(records, "MAX_ARRAY_BYTES", 1)
    assert "found 2 bytes; expected at most 1 in one .json file. Write one record a line: jq -c" in broken(path)
    monkeypatch.setattr(conversation, "MAX_META_BYTES", 1)
    path.write_text("{}")
    assert "found a meta file above 16 MiB" in broken(path)


def test_entries_of_an_array_are_found_again_whatever_stands_between(folder):
    found = [{"id": f"Ü{j}", "conversations": talk(f"ä{j} ] , [", "b")} for j in range(3)]
    texts = [json.dumps(record, ensure_ascii=j % 2 == 0) for j, record in enumerate(found)]
    (folder / "a.json").write_text("\n [ " + " ,\r\n\t".join(texts) + "\n ]\n")
    source = ConversationConfig(path=str(folder / "a.json")).build()
    assert [source.read(i).id for i in (2, 0, 1)] == ["a/2:Ü2", "a/0:Ü0", "a/1:Ü1"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "meta.json", "img/1.png"])
def test_damaged_files(folder, name):
    one = {
        "id": "x",
        "image": ["img/1.png", "img/2.png"],
        "conversations": talk("<image> or <image>?", "Ü", "b", "c" * 500),
    }
    two = {"id": 2, "conversations": talk("Hello", "World")}
    save(folder / "a.json", one, two)
    save(folder / "a.jsonl", one, two)
    meta(folder, repeat_time=1.5)
    save(folder / "notes/many.jsonl", two, one)
    entries = {"many": {"root": "img/..", "annotation": "notes/many.jsonl", "repeat_time": 11.555555555, "length": 2}}
    (folder / "meta.json").write_text(json.dumps(entries))
    path = folder / ("a.json" if name.startswith("img") else name)

    def use() -> None:
        source = ConversationConfig(path=str(path)).build()
        for i in range(len(source)):
            shapes = [image.pixels.shape for image in source.peek(i).of(Image)]
            assert [image.pixels.shape for image in source.read(i).of(Image)] == shapes

    seen = survive(folder / name, use, 520)
    assert min(seen.values()) > 9, seen
