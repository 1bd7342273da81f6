"""LeRobot v3.0 folders read natively: Parquet and mp4, one sample a frame."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.rng import key as hash_key
from trivium.core.sample import Action, Image, Sample, Segment, State, Text
from trivium.data.align import chunk, history
from trivium.data.source.lerobot_meta import (
    feature,
    fingerprint,
    place,
    read_episodes,
    read_frames,
    read_info,
    read_tasks,
)
from trivium.data.source.source import Source, blank, digest
from trivium.data.source.video import RecentFrames, SharedFrames, VideoError, VideoReader, check_video

STATE = "observation.state"
ACTION = "action"
CAMERA = "observation.images."
TRUTH = "truth."
NUMERIC = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class LeRobotConfig(Config):
    """A LeRobot v3.0 data set on disk."""

    kind: Literal["lerobot"] = "lerobot"
    path: str
    """Folder that holds meta/info.json, relative to where the command runs."""
    views: tuple[str, ...]
    """Cameras to read, by short name ("corner2" for observation.images.corner2), in this order; () reads no video."""
    horizon: int = Field(ge=1)
    """Steps in an action chunk, 8 to 50 as a rule: longer commits the robot for longer without looking."""
    history: int = Field(default=1, ge=1)
    """Frames of each camera up to the present one; 1 is the present alone. Cost grows in proportion."""
    paraphrase: bool = True
    """Draw the instruction from the set's paraphrases of the task, where it has some (always the same one for a frame);
    False shows the task sentence itself."""
    cache_gb: float = Field(default=1.5, gt=0)
    """Decoded frames to keep, in GB. A set that fits is decoded once and shared by all workers; of a larger one each
    process keeps the frames it used last, so the memory is this times the workers."""

    def build(self) -> "LeRobot":
        """Open the set and check all of it but the pixels."""
        return LeRobot(self)


class LeRobot(Source):
    """One sample a frame: pictures of each view, the instruction, the state, and the chunk of actions that follows.

    Raises:
        DataError: the folder is not a whole v3.0 set; the text names the file, and episode and frame if there is one.
    """

    def __init__(self, config: LeRobotConfig) -> None:
        self.config = config
        self.root = Path(config.path)
        self.name = self.root.name
        self.info = read_info(self.root)
        self.license = str(self.info.extra.get("license") or _readme_license(self.root))
        feature(self.info, STATE, "path")
        feature(self.info, ACTION, "path")
        self._cameras = {view: CAMERA + view for view in config.views}
        for camera in self._cameras.values():
            _check_camera(self.root, feature(self.info, camera, "views"))
        self._truth = tuple(
            key for key, what in self.info.features.items() if key.startswith(TRUTH) and what["dtype"] in NUMERIC
        )
        self._tasks = read_tasks(self.info)
        self.episodes = read_episodes(self.info, tuple(self._cameras.values()))
        self._frames = read_frames(self.info, self.episodes, (STATE, ACTION, *self._truth))
        self._check_tasks()
        self._names = {"state": self.info.names(STATE), "action": self.info.names(ACTION)}
        lengths = self.episodes.end - self.episodes.begin
        self._episode_of = np.repeat(np.arange(len(lengths)), lengths)
        files = self._check_videos()
        self.fingerprint = digest(
            config.model_dump(exclude={"path", "cache_gb"}), fingerprint(self.info, self._frames, self.episodes)
        )
        num_bytes, cache_bytes = sum(3 * math.prod(size) for size in files.values()), int(config.cache_gb * 1e9)
        frames = SharedFrames(files) if num_bytes <= cache_bytes else RecentFrames(cache_bytes)
        self._videos = VideoReader(self.info.fps, frames)

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self.episodes.end[-1])

    @property
    def embodiment(self) -> str:
        """`robot_type` of the set."""
        return self.info.raw.get("robot_type") or ""

    @property
    def truths(self) -> tuple[str, ...]:
        """Names of the simulator truths that samples carry."""
        return tuple(key.removeprefix(TRUTH) for key in self._truth)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return the episode of every frame."""
        return self._frames["episode_index"].astype(np.int64)

    def columns(self) -> Mapping[str, Float32[np.ndarray, "_ _"]]:
        """Return "state" and "action" of every frame."""
        return {"state": self._frames[STATE], "action": self._frames[ACTION]}

    def names(self, column: str) -> tuple[str, ...]:
        """Return the names of the dimensions of "state" or "action"."""
        return self._names[column]

    def chunks(self, i: Int[np.ndarray, " n"]) -> tuple[Float32[np.ndarray, "n k a"], Bool[np.ndarray, "n k"]]:
        """Return the action chunks of many frames at once, and which of their steps are real."""
        index, valid = chunk(i, self.episodes.end[self._episode_of[i]], self.config.horizon)
        return self._frames[ACTION][index], valid

    def task(self, i: int) -> str:
        """Return the task sentence of frame `i`, whatever paraphrase its sample shows."""
        return self._tasks[int(self._frames["task_index"][i])]

    def peek(self, i: int) -> Sample:
        """Return frame `i` with blank pictures."""
        return self._sample(i, decode=False)

    def read(self, i: int) -> Sample:
        """Return frame `i`.

        Raises:
            DataError: a picture cannot be decoded; the text names file, episode and frame.
        """
        return self._sample(i, decode=True)

    def _sample(self, i: int, decode: bool) -> Sample:
        e = self._episode_of[i]
        begin, number = int(self.episodes.begin[e]), int(self.episodes.number[e])
        sample_id = f"{self.name}/{number}/{i - begin}"
        time_s = (i - begin) / self.info.fps
        values, valid = self.chunks(np.asarray([i]))
        segments: list[Segment] = [*self._images(i, int(e), decode)]
        segments.append(Text(text=self._instruction(i, sample_id), role="instruction", time_s=time_s))
        segments.append(State(values=self._frames[STATE][i], names=self.names("state"), time_s=time_s))
        segments.append(Action(values=values[0], valid=valid[0], names=self.names("action"), time_s=time_s))
        return Sample(
            id=sample_id,
            segments=tuple(segments),
            source=self.name,
            license=self.license,
            embodiment=self.embodiment,
            truth={key.removeprefix(TRUTH): self._frames[key][i] for key in self._truth},
        )

    def _images(self, i: int, e: int, decode: bool) -> list[Image]:
        begin = int(self.episodes.begin[e])
        frames, _ = history(np.asarray([i]), np.asarray([begin]), self.config.history)
        return [
            Image(
                pixels=self._pixels(view, e, int(frame) - begin) if decode else blank(*self.info.picture_size(camera)),
                view=view,
                time_s=(int(frame) - begin) / self.info.fps,
            )
            for view, camera in self._cameras.items()
            for frame in frames[0]
        ]

    def _pixels(self, view: str, e: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        camera = self._cameras[view]
        file = self.episodes.video_file[camera][e]
        number = round(self.episodes.video_begin[camera][e] * self.info.fps) + frame
        try:
            pixels = self._videos.frame(file, number)
        except VideoError as fault:
            raise DataError(
                f"{file}: episode {self.episodes.number[e]}, frame {frame}",
                str(fault),
                "a picture that can be decoded",
                "Copy that file again, or record the episode again.",
            ) from fault
        return pixels

    def _instruction(self, i: int, sample_id: str) -> str:
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
