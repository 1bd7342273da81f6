"""Frames of mp4 files by number, decoded a run at a time and kept in a bounded cache."""

import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

OPEN_FILES = 8
"""Videos that a process keeps open."""
SAFE = {"format_whitelist": "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif", "protocol_whitelist": "file"}
"""Only files that hold their own frames: a playlist of a stranger would open whatever it names."""


class VideoError(Exception):
    """A video file cannot give what it should; the source that knows the episode turns this into a `DataError`."""


def check_video(path: Path, num_frames: int, size: tuple[int, int]) -> None:
    """Check a file by its header alone: it opens, is whole, and holds enough frames of the right size.

    Args:
        path: the mp4 file.
        num_frames: frames that the episodes in it need.
        size: height and width in pixels.

    Raises:
        VideoError: it does not.
    """
    try:
        with av.open(str(path), options=SAFE) as container:
            stream = _video_stream(container)
            found, last_byte = _index(container, stream)
            shape = (stream.codec_context.height, stream.codec_context.width)
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:  # PyAV reads titles as UTF-8
        raise VideoError(f"a video that cannot be opened ({_reason(error)})") from error
    if last_byte > path.stat().st_size:
        raise VideoError(f"a truncated video: its index points to byte {last_byte:,} of {path.stat().st_size:,}")
    if found < num_frames:
        raise VideoError(f"{found} frames where the episodes need {num_frames}")
    if shape != size:
        raise VideoError(f"pictures of {shape[0]}x{shape[1]} where meta/info.json says {size[0]}x{size[1]}")


class RecentFrames:
    """The frames used last, up to a number of bytes, for this process alone: for sets larger than memory."""

    ahead = 0

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes, self._used = num_bytes, 0
        self._frames: OrderedDict[tuple[Path, int], np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict:
        """Travel empty."""
        return {**self.__dict__, "_frames": OrderedDict(), "_used": 0}

    def get(self, path: Path, number: int) -> np.ndarray | None:
        """Return a kept frame."""
        if (path, number) not in self._frames:
            return None
        self._frames.move_to_end((path, number))
        return self._frames[path, number]

    def put(self, path: Path, number: int, pixels: np.ndarray) -> None:
        """Keep a frame and forget the oldest."""
        self._frames[path, number] = pixels
        self._used += pixels.nbytes
        while self._used > self._num_bytes and len(self._frames) > 1:
            self._used -= self._frames.popitem(last=False)[1].nbytes


class SharedFrames:
    """Every frame of a set, in memory that forked loader workers share: each is decoded once on the machine.

    Two processes may decode the same frame at once; they write the same bytes, and the flag is set after them.
    Memory is taken as frames come in, not when this is built.
    """

    ahead = 96
    """Frames to decode beyond a wanted one: they will be wanted too, and a seek costs as much as several frames."""

    def __init__(self, files: Mapping[Path, tuple[int, int, int]]) -> None:
        """Lay the frames out.

        Args:
            files: frames, height and width by file.
        """
        self._files = dict(files)
        self._first: dict[Path, tuple[int, int]] = {}
        flag, byte = 0, 0
        for path, (num_frames, height, width) in self._files.items():
            self._first[path] = flag, byte
            flag, byte = flag + num_frames, byte + 3 * num_frames * height * width
        self._pixels, self._flags = mmap.mmap(-1, max(byte, 1)), mmap.mmap(-1, max(flag, 1))

    def __reduce__(self) -> tuple:
        """Travel empty; a fork shares the memory without this."""
        return type(self), (self._files,)

    def get(self, path: Path, number: int) -> np.ndarray | None:
        """Return a frame if some process has decoded it."""
        num_frames, height, width = self._files[path]
        flag, byte = self._first[path]
        if not 0 <= number < num_frames or not self._flags[flag + number]:
            return None
        size = 3 * height * width
        pixels = np.frombuffer(self._pixels, np.uint8, size, byte + number * size).reshape(height, width, 3)
        pixels.flags.writeable = False
        return pixels

    def put(self, path: Path, number: int, pixels: np.ndarray) -> None:
        """Keep a frame; one beyond what the episodes need has no place and is left."""
        num_frames, height, width = self._files[path]
        if number < num_frames and pixels.shape == (height, width, 3):
            flag, byte = self._first[path]
            start = byte + number * pixels.nbytes
            self._pixels[start : start + pixels.nbytes] = pixels.tobytes()
            self._flags[flag + number] = 1


class VideoReader:
    """Random access to the frames of constant-rate videos.

    Reading one frame costs a seek and the frames since the keyframe before it, so everything decoded on the way
    is kept.
    """

    def __init__(self, fps: float, frames: RecentFrames | SharedFrames) -> None:
        self._fps, self._frames = fps, frames
        self._open: OrderedDict[Path, InputContainer] = OrderedDict()
        self._process = os.getpid()
        self._reformatter: VideoReformatter | None = None

    def __getstate__(self) -> dict:
        """Leave open files behind: another process opens its own."""
        return {**self.__dict__, "_open": OrderedDict(), "_reformatter": None}

    def frame(self, path: Path, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return frame `number` of a file, counted from 0 at time 0; RGB, not to be written to.

        Raises:
            VideoError: the file is missing, truncated, corrupt, or has no such frame.
        """
        pixels = self._frames.get(path, number)
        if pixels is None:
            try:
                pixels = self._decode(path, number)
            except (av.FFmpegError, OSError, UnicodeDecodeError, VideoError) as error:
                self._close(path)
                if isinstance(error, VideoError):
                    raise
                raise VideoError(f"a video that cannot be decoded there ({_reason(error)})") from error
        if pixels is None:
            raise VideoError(f"no frame at {number / self._fps:.3f} s")
        return pixels

    def _decode(self, path: Path, number: int) -> np.ndarray | None:
        """Seek, decode the run around the wanted frame, and keep it all."""
        container = self._container(path)
        stream = container.streams.video[0]
        assert stream.time_base is not None, "a video stream without a time base"
        back = 0.0
        while True:
            start_s = max((number + 0.5) / self._fps - back, 0.0)
            container.seek(round(start_s / stream.time_base), stream=stream, backward=True)
            wanted, first = None, None
            for frame in container.decode(stream):
                at = self._number(frame)
                first = at if first is None else first
                if first > number:
                    break
                pixels = self._keep(path, at, frame)
                wanted = pixels if at == number else wanted
                if at > number and self._run_ends(path, number, at, frame):
                    break
            # With B-frames the container may land on a keyframe that is shown after the wanted frame: go back more.
            if wanted is not None or (first is not None and first <= number) or start_s == 0.0:
                return wanted
            back = 2 * back + 1.0

    def _number(self, frame: VideoFrame) -> int:
        if frame.is_corrupt:
            raise VideoError("a corrupt frame")
        if frame.time is None:
            raise VideoError("a frame without a time")
        place = frame.time * self._fps
        number = round(place)
        if abs(place - number) > 0.1:
            raise VideoError(f"a frame at {frame.time:.4f} s, which is not a multiple of 1/{self._fps:g} s")
        return number

    def _run_ends(self, path: Path, number: int, at: int, frame: VideoFrame) -> bool:
        """Tell whether decoding may stop at frame `at`, after the wanted one."""
        if self._frames.ahead:
            return at >= number + self._frames.ahead or self._frames.get(path, at + 1) is not None
        return bool(frame.key_frame)

    def _keep(self, path: Path, number: int, frame: VideoFrame) -> np.ndarray:
        pixels = self._frames.get(path, number)
        if pixels is None:
            # One converter, one thread: `frame.to_ndarray` would make a converter and its threads for every frame,
            # which costs 15 times the conversion itself.
            self._reformatter = self._reformatter or VideoReformatter()
            pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            pixels.flags.writeable = False
            self._frames.put(path, number, pixels)
        return pixels

    def _container(self, path: Path) -> InputContainer:
        if self._process != os.getpid():
            # Inherited through a fork: file positions are shared with the parent, so leave these alone.
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            container = av.open(str(path), options=SAFE)
            # One thread: the loader has its own workers, and threads of dav1d would delay frames.
            _video_stream(container).codec_context.thread_count = 1
            self._open[path] = container
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def _close(self, path: Path) -> None:
        if path in self._open:
            self._open.pop(path).close()


def _video_stream(container: InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise VideoError("a file without a video stream")
    if container.streams.video[0].codec_context is None:
        raise VideoError("a video stream of an unknown kind")
    return container.streams.video[0]


def _index(container: InputContainer, stream: av.VideoStream) -> tuple[int, int]:
    """Return the number of frames and the last byte that the header promises."""
    entries = getattr(stream, "index_entries", ())
    if len(entries) > 1:
        return len(entries), max(entry.pos + entry.size for entry in entries)
    packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    return len(packets), 0


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
