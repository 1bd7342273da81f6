"""LeRobot v3.0 folders read natively: Parquet and mp4, one sample a frame."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from trivium.core.errors import DataError
from trivium.core.rng import key as hash_key
from trivium.data.source.episode import EpisodeConfig, EpisodeSource, Trajectories
from trivium.data.source.lerobot_meta import (
    feature,
    fingerprint,
    place,
    read_episodes,
    read_frames,
    read_info,
    read_tasks,
)
from trivium.data.source.source import digest
from trivium.data.source.video import RecentFrames, SharedFrames, VideoError, VideoReader, check_video

STATE = "observation.state"
ACTION = "action"
CAMERA = "observation.images."
TRUTH = "truth."
NUMERIC = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class LeRobotConfig(EpisodeConfig):
    """A LeRobot v3.0 data set on disk: the folder that holds meta/info.json."""

    kind: Literal["lerobot"] = "lerobot"
    paraphrase: bool = True
    """Draw the instruction from the set's paraphrases of the task, where it has some (always the same one for a frame);
    False shows the task sentence itself."""
    cache_gb: float = Field(default=1.5, gt=0)
    """Decoded frames to keep, in GB. A set that fits is decoded once and shared by all workers; of a larger one each
    process keeps the frames it used last, so the memory is this times the workers."""

    def build(self) -> "LeRobot":
        """Open the set and check all of it but the pixels."""
        return LeRobot(self)


class LeRobot(EpisodeSource):
    """A LeRobot v3.0 set.

    Raises:
        DataError: the folder is not a whole v3.0 set; the text names the file, and episode and frame if there is one.
    """

    config: LeRobotConfig

    def __init__(self, config: LeRobotConfig) -> None:
        self.root = Path(config.path)
        self.info = info = read_info(self.root)
        feature(info, STATE, "path")
        feature(info, ACTION, "path")
        self._cameras = {view: CAMERA + view for view in config.views}
        for camera in self._cameras.values():
            _check_camera(self.root, feature(info, camera, "views"))
        truths = [key for key, what in info.features.items() if key.startswith(TRUTH) and what["dtype"] in NUMERIC]
        self._tasks = read_tasks(info)
        self.episodes = read_episodes(info, tuple(self._cameras.values()))
        self._frames = read_frames(info, self.episodes, (STATE, ACTION, *truths))
        self._check_tasks()
        found = Trajectories(
            fps=info.fps,
            number=self.episodes.number,
            end=self.episodes.end,
            state=self._frames[STATE],
            action=self._frames[ACTION],
            state_names=info.names(STATE),
            action_names=info.names(ACTION),
            tasks=tuple(self._tasks),
            task=self._frames["task_index"],
            truth={key.removeprefix(TRUTH): self._frames[key] for key in truths},
            embodiment=info.raw.get("robot_type") or "",
            clock=self._frames["timestamp"].astype(np.float32),
        )
        license_name = str(info.extra.get("license") or _readme_license(self.root))
        cameras = {
            key.removeprefix(CAMERA): info.picture_size(key)
            for key, what in info.features.items()
            if key.startswith(CAMERA) and what["dtype"] == "video"
        }
        super().__init__(config, self.root.name, license_name, found, cameras)
        files = self._check_videos()
        self.fingerprint = digest(
            config.model_dump(exclude={"path", "cache_gb"}), fingerprint(info, self._frames, self.episodes)
        )
        num_bytes, cache_bytes = sum(3 * math.prod(size) for size in files.values()), int(config.cache_gb * 1e9)
        frames = SharedFrames(files) if num_bytes <= cache_bytes else RecentFrames(cache_bytes)
        self._videos = VideoReader(info.fps, frames)

    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture of a video."""
        camera = self._cameras[view]
        file = self.episodes.video_file[camera][place]
        number = round(self.episodes.video_begin[camera][place] * self.info.fps) + frame
        try:
            pixels = self._videos.frame(file, number)
        except VideoError as fault:
            raise DataError(
                f"{file}: episode {self.episodes.number[place]}, frame {frame}",
                str(fault),
                "a picture that can be decoded",
                "Copy that file again, or record the episode again.",
            ) from fault
        return pixels

    def instruction(self, i: int, sample_id: str) -> str:
        """Return the task sentence, or a paraphrase of it, always the same one for a frame."""
        task = self.task(i)
        others = self.info.extra.get("paraphrases", {}).get(task, ()) if self.config.paraphrase else ()
        choices = (task, *others)
        return choices[hash_key(0, "paraphrase", sample_id) % len(choices)] if others else task

    def _check_tasks(self) -> None:
        faults = np.flatnonzero((self._frames["task_index"] < 0) | (self._frames["task_index"] >= len(self._tasks)))
        if len(faults):
            raise DataError(
                place(self.episodes, int(faults[0])),
                f"task_index {self._frames['task_index'][faults[0]]}",
                f"0 to {len(self._tasks) - 1}: meta/tasks.parquet has {len(self._tasks)} sentences",
                "Write the set again.",
            )

    def _check_videos(self) -> dict[Path, tuple[int, int, int]]:
        """Check every video by its header; return frames, height and width by file."""
        sizes: dict[Path, tuple[int, int, int]] = {}
        for camera in self._cameras.values():
            height, width = self.info.picture_size(camera)
            users: dict[Path, list[int]] = {}
            for e, file in enumerate(self.episodes.video_file[camera]):
                users.setdefault(file, []).append(e)
            for file, episodes in users.items():
                num_frames = max(self._last_frame(camera, e) for e in episodes)
                try:
                    check_video(file, num_frames, (height, width))
                except VideoError as fault:
                    numbers = self.episodes.number[episodes]
                    raise DataError(
                        f"{file}: episodes {numbers.min()} to {numbers.max()}",
                        str(fault),
                        f"a whole mp4 with {num_frames} frames",
                        "Copy that file again, or record those episodes again.",
                    ) from fault
                sizes[file] = num_frames, height, width
        return sizes

    def _last_frame(self, camera: str, e: int) -> int:
        """Return the frame of the video file at which an episode ends."""
        begin_s = self.episodes.video_begin[camera][e]
        return round(begin_s * self.info.fps) + int(self.episodes.end[e] - self.episodes.begin[e])


def _check_camera(root: Path, what: Mapping) -> None:
    if what["dtype"] != "video":
        raise DataError(
            str(root / "meta" / "info.json"),
            f"a view of dtype {what['dtype']!r}",
            "'video': pictures stored in mp4 files",
            "Write the set with videos (LeRobot's use_videos=True).",
        )


def _readme_license(root: Path) -> str:
    """Return the licence from the front matter of a Hub data card, if it has one."""
    readme = root / "README.md"
    text = readme.read_text(errors="replace") if readme.is_file() else ""
    found = (
        re.search(r"^license:[ \t]*(\S+)", text.split("\n---", 1)[0], re.MULTILINE) if text.startswith("---") else None
    )
    return found.group(1) if found else "unknown"
