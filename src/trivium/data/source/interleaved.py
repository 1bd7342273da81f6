"""Videos told as documents: key frames of every scene and what is said, in the order of time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.rng import key
from trivium.core.sample import Image, Sample, Segment, Text
from trivium.data.blank import blank
from trivium.data.source.moment import MomentReader
from trivium.data.source.scene import Scenes, load, videos
from trivium.data.source.source import Source, digest
from trivium.data.source.transcript import SUFFIXES, read_transcript, runs
from trivium.data.source.video import VideoError

PAUSE_S = 0.8
"""Silence that parts two runs of speech."""
LATE_S = 1.0
"""Speech may begin so long after the last frame: clocks of sound and picture are not one."""


class InterleavedConfig(Config):
    """Videos with transcripts, as documents of pictures and words."""

    kind: Literal["interleaved"] = "interleaved"
    path: str
    """A folder of NAME.mp4, each with NAME.srt, NAME.vtt or a Whisper NAME.json, and NAME.scenes.json, which
    `python -m trivium.data.source.scene FOLDER` writes."""
    every_s: float = Field(default=4.0, ge=0.01)
    """Seconds from one key frame to the next within a scene, 2 to 10; a shorter scene gives the frame at its middle.
    4 gives about the 0.27 key frames a second of Emu3.5; smaller means more picture tokens a minute."""
    max_frames: int = Field(default=8, ge=1)
    """Pictures in a sample; longer documents are cut into samples that follow one another. Choose so that this many
    pictures and the words between them fit a row, or samples are dropped as longer than a row."""
    stamp: str = "<{} s>"
    """Words before every picture, with its time in seconds in place of {}; "" for none."""
    license: str = "unknown"
    """Licence of the whole set."""

    def build(self) -> "Interleaved":
        """Open the set: transcripts and scenes are read, no video is decoded."""
        return Interleaved(self)


@dataclass(frozen=True, kw_only=True)
class Film:
    """One video: its pictures by time and its runs of speech, merged."""

    path: Path
    name: str
    scenes: Scenes
    events: tuple[tuple[float, str | None], ...]
    """Time, and words, or None for a picture."""


class Interleaved(Source):
    """One sample a stretch of a video: pictures and documents of words in the order of time.

    The rule is that of Emu3.5 (https://arxiv.org/abs/2510.26583, section 3): a scene shorter than `every_s` gives the
    frame at its middle, a longer one a frame every `every_s` seconds, the first after half of that; speech is parted
    at pauses and ends of sentences and put among the pictures by the time at which it begins. A picture comes before
    words that begin at the same moment. A video with an empty transcript is a document of pictures.

    Raises:
        ConfigError: a stamp without a place for the time.
        DataError: scenes or transcript are missing, broken, or another video's; the text says what to do.
    """

    def __init__(self, config: InterleavedConfig) -> None:
        if config.stamp and "{}" not in config.stamp:
            raise ConfigError("stamp", repr(config.stamp), "a text with {} in it", "Write for example <{} s>.")
        self.config = config
        root = Path(config.path)
        self.name = root.name.removesuffix(".mp4")
        self.license = config.license
        self._films = [_film(root, path, config.every_s) for path in videos(root)]
        cut = [(f, piece) for f, film in enumerate(self._films) for piece in _pieces(film.events, config.max_frames)]
        self._places = [(f, j, begin, end) for f, (j, begin, end) in cut]
        self._reader = MomentReader()
        self.fingerprint = digest(
            config.model_dump(exclude={"path"}),
            [(film.name, asdict(film.scenes), film.events) for film in self._films],
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return a number for the video of every sample, made of its name alone."""
        numbers = [key(0, "video", film.name) for film in self._films]
        return np.asarray([numbers[film] for film, *_ in self._places], np.int64)

    def peek(self, i: int) -> Sample:
        """Return sample `i` with blank pictures."""
        film, _, begin, end = self._film(i)
        pictures = sum(words is None for _, words in film.events[begin:end])
        return self._sample(i, [blank(film.scenes.height, film.scenes.width)] * pictures)

    def read(self, i: int) -> Sample:
        """Return sample `i`.

        Raises:
            DataError: the video is missing, truncated or corrupt there.
        """
        film, _, begin, end = self._film(i)
        times_s = [time_s for time_s, words in film.events[begin:end] if words is None]
        try:
            pictures = self._reader.frames(film.path, times_s)
        except VideoError as error:
            where = f"{film.path}: {times_s[0]:.3f} to {times_s[-1]:.3f} s"
            raise DataError(where, str(error), "a whole mp4", "Copy it again, or take it out.") from error
        size = (film.scenes.height, film.scenes.width)
        for time_s, picture in zip(times_s, pictures, strict=True):
            if picture.shape[:2] != size:
                found = f"a picture of {picture.shape[0]} x {picture.shape[1]}"
                raise DataError(
                    f"{film.path}: {time_s:.3f} s", found, f"{size[0]} x {size[1]}, as at first", "Encode it again."
                )
        return self._sample(i, pictures)

    def _film(self, i: int) -> tuple[Film, int, int, int]:
        film, piece, begin, end = self._places[i]
        return self._films[film], piece, begin, end

    def _sample(self, i: int, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Sample:
        film, piece, begin, end = self._film(i)
        segments: list[Segment] = []
        waiting = iter(pictures)
        for time_s, words in film.events[begin:end]:
            if words is not None:
                segments.append(Text(text=words, role="document", time_s=time_s))
                continue
            if self.config.stamp:
                stamp = self.config.stamp.replace("{}", f"{time_s:.1f}")
                segments.append(Text(text=stamp, role="document", time_s=time_s))
            segments.append(Image(pixels=next(waiting), time_s=time_s))
        return Sample(
            id=f"{self.name}/{film.name}/{piece}", segments=tuple(segments), source=self.name, license=self.license
        )


def key_frames(scenes: Scenes, every_s: float) -> list[float]:
    """Return the times of the key frames, rising."""
    found: list[float] = []
    for begin, end in zip(scenes.starts_s, [*scenes.starts_s[1:], scenes.end_s], strict=True):
        if end - begin < every_s:
            found.append((begin + end) / 2)
        else:
            found += np.arange(begin + every_s / 2, end, every_s).tolist()
    return found


def _film(root: Path, path: Path, every_s: float) -> Film:
    """Read scenes and transcript of a video and merge them."""
    scenes = load(path)
    beside = [path.with_suffix(suffix) for suffix in SUFFIXES if path.with_suffix(suffix).is_file()]
    if len(beside) != 1:
        found = f"{len(beside)} transcripts" if beside else "no transcript"
        expected = f"one of {', '.join(path.stem + suffix for suffix in SUFFIXES)}"
        raise DataError(str(path), found, expected, "Add one (empty where nothing is said), or take one away.")
    spoken = read_transcript(beside[0])
    if spoken and spoken[-1].start_s > scenes.end_s + LATE_S:
        late = spoken[-1]
        found = f"{late.text.strip()[:40]!r} at {late.start_s:.1f} s"
        expected = f"nothing after the end of {path.name} at {scenes.end_s:.1f} s"
        raise DataError(str(beside[0]), found, expected, "It is another video's, or one of the two was cut.")
    pictures = [(time_s, None) for time_s in key_frames(scenes, every_s)]
    merged = sorted([*pictures, *runs(spoken, PAUSE_S)], key=lambda event: (event[0], event[1] is not None))
    name = str(path.relative_to(root).with_suffix("")) if root.is_dir() else path.stem
    return Film(path=path, name=name, scenes=scenes, events=tuple(merged))


def _pieces(events: Sequence[tuple[float, str | None]], max_frames: int) -> list[tuple[int, int, int]]:
    """Cut a document before every picture that would be one too many: (number, first event, event after)."""
    at = [n for n, (_, words) in enumerate(events) if words is None]
    begins = [0, *at[max_frames::max_frames]]
    return [(j, begin, end) for j, (begin, end) in enumerate(zip(begins, [*begins[1:], len(events)], strict=True))]
