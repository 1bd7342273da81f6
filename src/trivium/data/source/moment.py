"""Frames of videos by the time at which they are shown, whatever the rate."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from trivium.data.source.video import OPEN_FILES, SAFE, VideoError

MAX_PIXELS = 64_000_000
"""Largest frame that is decoded; the header says how large before any is."""
READ_ON_S = 4.0
"""Wanted frames so near are reached by decoding on; a seek goes back to a key frame and costs about as much."""
EPSILON_S = 1e-6
MAX_S = 1e6
"""Longest video, eleven days: nothing is laid out over a length that only a damaged header claims."""


def open_video(path: Path) -> tuple[InputContainer, av.VideoStream]:
    """Open a file and its first video stream, for one thread.

    Raises:
        VideoError: it cannot be opened, has no video, or frames above 64 megapixels.
    """
    try:
        container = av.open(str(path), options=SAFE)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"a video that cannot be opened ({_reason(error)})") from error
    stream = container.streams.video[0] if container.streams.video else None
    if stream is None or stream.time_base is None:
        container.close()
        raise VideoError("a file without a video stream")
    codec = stream.codec_context
    if codec is None:  # PyAV's types promise one, a damaged header has none
        container.close()
        raise VideoError("a video stream of an unknown codec")
    height, width = codec.height, codec.width
    if not 0 < height * width <= MAX_PIXELS:
        container.close()
        raise VideoError(f"frames of {height} x {width} pixels, not from 1 to {MAX_PIXELS:,}")
    codec.thread_count = 1
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # frames may grow in the middle of a stream
    return container, stream


def decode(container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Yield the frames from where the container stands, with their times in seconds.

    Raises:
        VideoError: a frame is corrupt or has no time.
    """
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt or frame.time is None:
                raise VideoError("a corrupt frame" if frame.is_corrupt else "a frame without a time")
            yield frame.time, frame
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"a video that cannot be decoded there ({_reason(error)})") from error


def upright(frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture as it is shown: phones store theirs lying on a side, with a note to turn it."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


class MomentReader:
    """What videos show at given times; `VideoReader` counts frames of constant rate instead."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[InputContainer, av.VideoStream]] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        """Leave open files behind: another process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def length_s(self, path: Path) -> float:
        """Return the seconds that a video lasts, as its header says.

        Raises:
            VideoError: it cannot be opened, or does not say.
        """
        container, stream = self._container(path)
        assert stream.time_base is not None, "checked on opening"
        if stream.duration:
            length_s = float(stream.duration * stream.time_base)
        else:
            length_s = (container.duration or 0) / av.time_base
        if not 0 < length_s < MAX_S:
            raise VideoError(f"a video of {length_s:g} seconds, not from above 0 to {MAX_S:g}")
        return length_s

    def frames(self, path: Path, times_s: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Return the frame that is shown at each time: the last one that begins at or before it.

        Args:
            path: the video.
            times_s: rising; one before the first frame gets the first, one after the last the last.

        Raises:
            VideoError: the file is missing, truncated or corrupt there.
        """
        found: list[np.ndarray] = []
        try:
            while len(found) < len(times_s):
                run = self._run(path, times_s[len(found)])
                found += self._walk(run, times_s[len(found) :])
        except VideoError:
            self._close(path)
            raise
        return found

    def _walk(self, run: Iterator[tuple[float, VideoFrame]], times_s: Sequence[float]) -> list[np.ndarray]:
        """Take the wanted frames from a run, at least one, until the next lies far ahead."""
        found: list[np.ndarray] = []
        shown: VideoFrame | None = None
        for time_s, frame in run:
            while time_s > times_s[len(found)] + EPSILON_S:
                found.append(upright(shown or frame))
                if len(found) == len(times_s):
                    return found
            if found and times_s[len(found)] - time_s > READ_ON_S:
                return found
            shown = frame
        if shown is None:
            raise VideoError("no frame")
        return found + [upright(shown)] * (len(times_s) - len(found))

    def _run(self, path: Path, time_s: float) -> Iterator[tuple[float, VideoFrame]]:
        """Yield the frames from the key frame before a time on."""
        container, stream = self._container(path)
        assert stream.time_base is not None, "checked on opening"
        back_s = 0.0
        while True:
            start_s = max(time_s - back_s, 0.0)
            try:
                container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
            except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
                raise VideoError(f"a video without a place at {time_s:g} s ({_reason(error)})") from error
            run = decode(container, stream)
            first = next(run, None)
            # With B-frames a seek may land on a key frame that is shown after the wanted time: go back more.
            if start_s == 0.0 or (first is not None and first[0] <= time_s + EPSILON_S):
                break
            back_s = 2 * back_s + 1.0
        if first is not None:
            yield first
            yield from run

    def _container(self, path: Path) -> tuple[InputContainer, av.VideoStream]:
        if self._process != os.getpid():
            # Inherited through a fork: file positions are shared with the parent, so leave these alone.
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = open_video(path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(path)
        return self._open[path]

    def _close(self, path: Path) -> None:
        if path in self._open:
            self._open.pop(path)[0].close()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
