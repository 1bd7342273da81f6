import json
from pathlib import Path

import pytest
from fuzz import survive

from trivium.core.errors import DataError
from trivium.data.source import transcript as module
from trivium.data.source.transcript import Utterance, read_transcript, runs

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>
{\\an8}my friend.

2
00:00:03,000 --> 00:00:04,000
In the year
1984

3
01:00:05,250 --> 01:00:06,000
a < b & c
"""
VTT = """WEBVTT - title

NOTE nothing
is said

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Ann>A &amp; B</v>

00:00:03.000 --> 00:00:04.000
second
"""
WHISPER = {
    "segments": [
        {"start": 0.5, "end": 2.0, "text": " Hello there.", "words": [
            {"word": " Hello", "start": 0.5, "end": 0.9}, {"word": " there.", "start": 1.0, "end": 2.0}]},
        {"start": 2.1, "end": 3.0, "text": "So 7 it", "words": [
            {"word": "So", "start": 2.1, "end": 2.3}, {"word": "7"}, {"word": "it", "start": 2.6, "end": 3.0}]},
        {"start": 5.0, "end": 6.0, "text": "no words here"},
        {"start": 7.0, "end": 8.0, "text": "你好", "words": [
            {"word": "你", "start": 7.0, "end": 7.4}, {"word": "好", "start": 7.5, "end": 8.0}]},
    ]
}  # fmt: skip


def read(folder: Path, name: str, text: str) -> list[Utterance]:
    (folder / name).write_text(text)
    return read_transcript(folder / name)


def broken(folder: Path, name: str, text: str) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, name, text)
    return str(caught.value)


def told(utterances: list[Utterance]) -> list[tuple[float, float, str]]:
    return [(u.start_s, u.end_s, u.text) for u in utterances]


def test_subrip(tmp_path):
    expected = [
        (1.0, 2.5, "Hello there my friend."),
        (3.0, 4.0, "In the year 1984"),
        (3605.25, 3606.0, "a < b & c"),
    ]
    assert told(read(tmp_path, "a.srt", SRT)) == expected
    assert told(read(tmp_path, "a.srt", "\ufeff" + SRT.replace("\n", "\r\n"))) == expected


def test_webvtt_without_notes_styles_and_names(tmp_path):
    assert told(read(tmp_path, "a.vtt", VTT)) == [(1.0, 2.0, "A & B"), (3.0, 4.0, "second")]


def test_rolling_captions_are_told_once(tmp_path):
    text = (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n \nwell<00:00:00.500><c> then</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\nwell then\n \n\n"
        "00:00:02.010 --> 00:00:04.000\nwell then\nlet<00:00:03.000><c> us</c><00:00:03.500><c> go</c>\n\n"
    )
    assert told(read(tmp_path, "a.vtt", text)) == [(0.0, 2.0, "well then"), (2.01, 4.0, "let us go")]


def test_whisper(tmp_path):
    found = read(tmp_path, "a.json", json.dumps(WHISPER))
    assert runs(found, 0.8) == [(0.5, "Hello there."), (2.1, "So 7 it"), (5.0, "no words here"), (7.0, "你好")]


def test_runs_end_at_pauses_sentences_and_after_a_while():
    def at(text: str, start_s: float, end_s: float) -> Utterance:
        return Utterance(text=text, start_s=start_s, end_s=end_s)

    said = [at("one", 0, 1), at("two.", 1.2, 2), at("three", 2.1, 3), at("four", 3.9, 4), at("five", 4.1, 5)]
    assert runs(said, 0.8) == [(0, "one two."), (2.1, "three"), (3.9, "four five")]
    steady = [at(str(j), float(j), j + 0.9) for j in range(40)]
    assert [begin for begin, _ in runs(steady, 0.8)] == [0.0, 16.0, 32.0]
    assert runs([], 0.8) == []
    # A long cue that lies over the next ones is no pause after the short one.
    assert runs([at("a", 0, 9), at("b", 1, 2), at("c", 9.5, 10)], 0.8) == [(0, "a b c")]


def test_cues_out_of_order_are_sorted_and_silence_is_allowed(tmp_path):
    text = "2\n00:00:03,000 --> 00:00:04,000\nb\n\n1\n00:00:01,000 --> 00:00:05,000\na\n"
    assert told(read(tmp_path, "a.srt", text)) == [(1.0, 5.0, "a"), (3.0, 4.0, "b")]
    assert read(tmp_path, "a.srt", " \n") == read(tmp_path, "b.vtt", "WEBVTT\n") == []
    assert read(tmp_path, "a.json", '{"segments": []}') == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.srt", SRT.replace("00:00:03,000 -->", "00:00:3x,000 -->"), "a.srt: line 7: found '00:00:3x,000 --> "),
        ("a.srt", SRT.replace("00:00:04,000", "00:00:02,000"), "line 7: found times from 3 to 2 s"),
        ("a.srt", "just words\n", "line 1: found no cue ('just words'); expected a number or name"),
        ("a.srt", SRT.replace("\n\n2\n", "\n2\n"), "line 1: found no cue ('1')"),
        ("a.vtt", SRT, "line 1: found '1'; expected WEBVTT"),
        ("a.vtt", "WEBVTT\n\nwords alone\n", "line 3: found no cue ('words alone')"),
        ("a.json", "{", "found broken JSON"),
        ("a.json", "[" * 99_999, "found broken JSON"),
        ("a.json", "[]", "found NoneType for a list"),
        ("a.json", '{"segments": [{"start": 1, "end": NaN, "text": "x"}]}', "segment 0: found times from 1 to nan"),
        ("a.json", '{"segments": [{"start": -1, "end": 2, "text": "x"}]}', "segment 0: found times from -1 to 2"),
        ("a.json", f'{{"segments": [{{"start": 1, "end": 1{"0" * 400}, "text": "x"}}]}}', "times from 1 to inf s"),
        ("a.json", '{"segments": [{"start": "1", "end": 2, "text": "x"}]}', "segment 0: found '1' for a time"),
        ("a.json", '{"segments": [{"start": 1, "end": 2}]}', "segment 0: found None under 'text'"),
        ("a.json", '{"segments": [{"start": 1, "end": 2, "text": "\\ud800"}]}', "segment 0: found half a character"),
    ],
)
def test_what_is_no_transcript(tmp_path, name, text, found):
    assert found in broken(tmp_path, name, text)


def test_bytes_that_are_not_words(tmp_path, monkeypatch):
    (tmp_path / "a.srt").write_bytes(SRT.encode() + b"\xff")
    with pytest.raises(DataError, match="found bytes that are not UTF-8"):
        read_transcript(tmp_path / "a.srt")
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert "bytes; expected a transcript of at most 10" in broken(tmp_path, "a.srt", SRT)


def test_the_same_as_pysubs2_where_that_is_right(tmp_path):
    pysubs2 = pytest.importorskip("pysubs2")
    text = SRT.replace("\n1984", "").replace("{\\an8}", "")
    theirs = pysubs2.SSAFile.from_string(text, format_="srt")
    expected = [(e.start / 1000, e.end / 1000, " ".join(e.plaintext.split())) for e in theirs]
    assert told(read(tmp_path, "a.srt", text)) == expected


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT), ("a.vtt", VTT), ("a.json", json.dumps(WHISPER))])
def test_damaged_transcripts(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    seen = survive(path, lambda: runs(read_transcript(path), 0.8))
    assert min(seen.values()) > 20
