"""Small videos of which a test knows every frame."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from trivium.data.source.video_write import encode_video

TIMES_MS = (0, 40, 400, 440, 1000, 1500, 1540, 3000, 9000, 9040, 9500)


def clip(path: Path, times_ms=TIMES_MS, size=(48, 64), **options: str) -> Path:
    """Write frames of plain grey at uneven times: frame j has the level 20 + 20 j."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "1", "preset": "ultrafast"} | options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for j, at in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 20 + 20 * j, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 20) / 20) for frame in frames]


def film(path: Path, seconds: list[float], fps: int = 25, size=(48, 64)) -> Path:
    """Write scenes of random squares that drift, with noise; every scene has colours of its own."""
    rng = np.random.default_rng(len(seconds))
    frames = []
    for length in seconds:
        still = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1)))
        for j in range(round(length * fps)):
            moved = np.roll(still, j // 4, axis=1)
            frames.append(np.clip(moved + rng.normal(0, 6, moved.shape), 0, 255))
    encode_video(path, np.stack(frames).astype(np.uint8), fps)
    return path
