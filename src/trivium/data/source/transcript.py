"""What is said in a video and when: SubRip, WebVTT, or the JSON of Whisper with a time for every word."""

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trivium.core.errors import DataError

SUFFIXES = (".srt", ".vtt", ".json")
MAX_BYTES = 16 << 20
"""Largest transcript: about 200 hours of speech with a time for every word."""
MAX_S = 1e6
"""Latest time, eleven days in."""
MAX_RUN_S = 15.0
"""Speech without a pause or the end of a sentence is cut after so long, or pictures would pile up behind it."""
TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
TAG = {".srt": re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}"), ".vtt": re.compile(r"<[^<>]*>")}
WORD_TIME = re.compile(r"<\d\d:\d\d:\d\d\.\d{3}>")
SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]\u300d\u300f]*$")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A word or a cue; `space` says whether a blank parts it from the one before."""

    text: str
    start_s: float
    end_s: float
    space: bool = True


def read_transcript(path: Path) -> list[Utterance]:
    """Read the utterances of a file in the order of their beginnings; an empty file has none, which is silence.

    Cues may overlap or stand out of order: beginnings alone count. Markup is taken off. The rolling captions of
    YouTube, where each cue shows the line before once more, are told once.

    Raises:
        DataError: too large, not UTF-8, or a part that is no cue; the text names line or segment.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _bad(str(path), f"{size:,} bytes", f"a transcript of at most {MAX_BYTES:,}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(str(path), f"bytes that are not UTF-8 ({error.reason} at {error.start})", "UTF-8") from error
    if not text.strip():
        return []
    found = _segments(path, text) if path.suffix == ".json" else _cues(path, text)
    return sorted(found, key=lambda utterance: utterance.start_s)


def runs(utterances: Sequence[Utterance], pause_s: float) -> list[tuple[float, str]]:
    """Join utterances to runs of speech: (beginning, words) each.

    A run ends at a pause, at the end of a sentence, or after 15 s. Emu3.5 does it by pauses and syntax (spaCy); ends
    of sentences are all the syntax that is looked at here.

    Args:
        utterances: in the order of their beginnings.
        pause_s: silence that ends a run.
    """
    found: list[tuple[float, str]] = []
    words, begin_s, end_s = "", 0.0, 0.0
    for utterance in utterances:
        silent = utterance.start_s - end_s > pause_s
        if words and (silent or SENTENCE_END.search(words) or utterance.start_s - begin_s > MAX_RUN_S):
            found.append((begin_s, words))
            words = ""
        if not words:
            words, begin_s, end_s = utterance.text.strip(), utterance.start_s, utterance.end_s
        else:
            words = (words + " " * utterance.space + utterance.text).rstrip()
            end_s = max(end_s, utterance.end_s)
    return [*found, (begin_s, words)] if words else found


def _cues(path: Path, text: str) -> Iterator[Utterance]:
    """Yield the cues of a SubRip or WebVTT file (https://www.w3.org/TR/webvtt1).

    Ours is stricter than the pysubs2 library, which takes identifiers, notes and broken time lines for words.
    """
    lines = [*re.split(r"\r\n|\r|\n", text), ""]
    vtt, rolling = path.suffix == ".vtt", bool(WORD_TIME.search(text))
    if vtt and not re.match(r"WEBVTT(\s|$)", text):
        raise _bad(f"{path}: line 1", repr(lines[0][:40]), "WEBVTT")
    last, last_end_s, first = "", -1.0, 0
    cue: tuple[float, float, list[str]] | None = None
    # In WebVTT a line with a blank in it is a line; SubRip files are parted by such ones too.
    for end in (n for n, line in enumerate(lines) if not (line if vtt else line.strip())):
        begin, first = first, end + 1
        block = lines[begin:end]
        if not block:
            continue
        place = next((n for n, line in enumerate(block[:2]) if "-->" in line), None)
        if vtt and place is None and (begin == 0 or re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0])):
            continue
        where = f"{path}: line {begin + 1}"
        if place is None or any("-->" in line for line in block[place + 1 :]):
            raise _bad(where, f"no cue ({block[0][:40]!r})", "a number or name, a line with times, and words")
        start_s, end_s = _timing(f"{path}: line {begin + place + 1}", block[place])
        cue = start_s, end_s, [_plain(path.suffix, line) for line in block[place + 1 :]]
        told = [line for line in cue[2] if line]
        if rolling and told and told[0] == last and start_s - last_end_s < 0.1:
            told = told[1:]
        last, last_end_s = next((line for line in reversed(cue[2]) if line), last), end_s
        if told:
            yield Utterance(text=" ".join(told), start_s=start_s, end_s=end_s)
    if cue is None and not vtt:
        raise _bad(str(path), "no cue", "cues, or an empty file where nothing is said")


def _timing(where: str, line: str) -> tuple[float, float]:
    found = TIMING.fullmatch(line)
    if not found:
        raise _bad(where, repr(line[:60]), "HH:MM:SS,mmm --> HH:MM:SS,mmm")
    start_s, end_s = (_seconds(found.groups()[n : n + 4]) for n in (0, 4))
    return _check_times(where, start_s, end_s)


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(f"0.{fraction}")


def _plain(suffix: str, line: str) -> str:
    text = TAG[suffix].sub("", line)
    return " ".join((html.unescape(text) if suffix == ".vtt" else text).split())


def _segments(path: Path, text: str) -> Iterator[Utterance]:
    """Yield the words of a Whisper JSON, or its segments where they have no words."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(str(path), f"broken JSON ({error})", "what Whisper wrote") from error
    segments = data.get("segments") if isinstance(data, dict) else None
    for number, segment in enumerate(_objects(str(path), segments)):
        where = f"{path}: segment {number}"
        start_s, end_s = _times(where, segment, None)
        told = _word(where, segment, ("text",))
        words = segment.get("words") or []
        if not words and told.strip():
            yield Utterance(text=told.strip(), start_s=start_s, end_s=end_s)
        found = [(word, _word(where, word, ("word", "text"))) for word in _objects(where, words)]
        # faster-whisper keeps blanks in the words, WhisperX drops them, Chinese has none: the segment's text tells.
        space = "".join(spelled for _, spelled in found).strip() != told.strip()
        now_s = start_s
        for j, (word, spelled) in enumerate(found):
            begin_s, now_s = _times(f"{where}: word {j}", word, now_s)
            if spelled.strip():
                yield Utterance(text=spelled, start_s=begin_s, end_s=now_s, space=space or j == 0)


def _objects(where: str, value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise _bad(where, f"{type(value).__name__} for a list", "a list of objects, segments with words in them")
    return cast(list[Mapping[str, Any]], value)


def _word(where: str, holder: Mapping[str, Any], keys: Sequence[str]) -> str:
    value = next((holder[key] for key in keys if key in holder), None)
    if not isinstance(value, str):
        raise _bad(where, f"{value!r} under {keys[0]!r}", "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _bad(where, f"half a character ({error.reason})", "valid Unicode") from error
    return value


def _times(where: str, holder: Mapping[str, Any], before_s: float | None) -> tuple[float, float]:
    """Return start and end; WhisperX gives none for numerals, which then stand where the word before ended."""
    if before_s is not None and "start" not in holder and "end" not in holder:
        return before_s, before_s
    start_s, end_s = (_second(where, holder.get(key)) for key in ("start", "end"))
    return _check_times(where, start_s, end_s)


def _second(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(where, f"{value!r} for a time", "seconds under 'start' and 'end'")
    return math.inf if abs(value) >= MAX_S else value  # a whole number may be too large for a float


def _check_times(where: str, start_s: float, end_s: float) -> tuple[float, float]:
    if not 0 <= start_s <= end_s < MAX_S:
        raise _bad(
            where, f"times from {start_s:g} to {end_s:g} s", "an end that is not before its beginning, from 0 on"
        )
    return start_s, end_s


def _bad(where: str, found: str, expected: str) -> DataError:
    return DataError(where, found, expected, "Mend that file, or transcribe the video again.")
