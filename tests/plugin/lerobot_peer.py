"""Runs inside the peer environment: the real lerobot 0.4.4 writes a set, or says what its own reader sees.

Usage: lerobot_peer.py write FOLDER | read FOLDER HORIZON HISTORY OUT.npz | convert FOLDER (v2.1 to v3.0, in place)
"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

library = torch.library.Library("torchvision", "DEF")  # its CUDA build does not load beside a CPU torch
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import av  # noqa: E402
import lerobot.datasets.lerobot_dataset as peer  # noqa: E402

FPS = 10
LENGTHS = (12, 7, 9)
CAMERAS = ("observation.images.top", "observation.images.wrist")


@cache
def decode_all(path: Path) -> list[tuple[float, torch.Tensor]]:
    with av.open(str(path)) as container:
        return [(f.time, torch.from_numpy(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]


def decode(path: Path, timestamps: list[float], tolerance: float, backend: str | None = None) -> torch.Tensor:
    """Stand in for torchcodec, which is not in the small environment."""
    frames = decode_all(path)
    found = [min(frames, key=lambda pair: abs(pair[0] - at)) for at in timestamps]
    assert all(abs(time - at) < tolerance for (time, _), at in zip(found, timestamps, strict=True))
    return torch.stack([pixels.permute(2, 0, 1).float() / 255 for _, pixels in found])


peer.decode_video_frames = decode


def write(folder: str) -> None:
    """Record three episodes of two tasks with one camera as video and one as images."""
    rng = np.random.default_rng(0)
    shape = {"shape": (64, 96, 3), "names": ["height", "width", "channels"]}
    features = {
        CAMERAS[0]: {"dtype": "video", **shape},
        CAMERAS[1]: {"dtype": "image", **shape},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    data = peer.LeRobotDataset.create("local/set", fps=FPS, root=folder, features=features, use_videos=True)
    for episode, length in enumerate(LENGTHS):
        for _ in range(length):
            pixels = rng.integers(0, 256, (2, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
            data.add_frame(
                {
                    CAMERAS[0]: pixels[0],
                    CAMERAS[1]: pixels[1],
                    "observation.state": rng.random(3, np.float32),
                    "action": rng.random(2, np.float32),
                    "task": ("pick up the cube", "put it down")[episode % 2],
                }
            )
        data.save_episode()
    data.finalize()


def read(folder: str, horizon: int, history: int, out: str) -> None:
    """Write what the package's own reader gives for every frame."""
    info = json.loads((Path(folder) / "meta/info.json").read_text())
    cameras = [key for key, what in info["features"].items() if what["dtype"] in ("video", "image")]
    past = [(j - history + 1) / info["fps"] for j in range(history)]
    steps = {"action": [j / info["fps"] for j in range(horizon)]} | dict.fromkeys(cameras, past)
    data = peer.LeRobotDataset("local/set", root=folder, video_backend="pyav", delta_timestamps=steps)
    rows: dict[str, list] = {}
    for i in range(len(data)):
        row = data[i]
        for camera in cameras:
            pixels = (row[camera] * 255).round().to(torch.uint8)
            pixels = pixels.reshape(-1, *pixels.shape[-3:])  # a single time comes without an axis of time
            rows.setdefault(camera, []).append(pixels.permute(0, 2, 3, 1).numpy())
            rows.setdefault(f"{camera}_is_pad", []).append(row[f"{camera}_is_pad"].numpy().reshape(-1))
        for key in ("observation.state", "action", "action_is_pad", "episode_index", "frame_index", "timestamp"):
            rows.setdefault(key, []).append(row[key].numpy())
        rows.setdefault("task", []).append(row["task"])
    np.savez(out, **{key: np.array(values) for key, values in rows.items()})


def convert(folder: str) -> None:
    """Let the package turn a v2.1 set into v3.0."""
    from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

    convert_dataset(Path(folder).name, root=Path(folder).parent, push_to_hub=False)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    elif sys.argv[1] == "convert":
        convert(sys.argv[2])
    else:
        read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
