"""LeRobot folders of every version (v2.0, v2.1, v3.0) read natively: Parquet and mp4, one sample a frame."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from trivium.core.errors import DataError
from trivium.core.rng import key as hash_key
from trivium.core.sample import Text
from trivium.data.source.episode import EpisodeConfig, EpisodeSource, Trajectories
from trivium.data.source.lerobot_episodes import read_episodes, read_tasks
from trivium.data.source.lerobot_frames import Frames, read_frames
from trivium.data.source.lerobot_language import Language, read_language, segment
from trivium.data.source.lerobot_meta import Info, feature, missing, read_info
from trivium.data.source.lerobot_pictures import StoredPictures
from trivium.data.source.picture import MAX_PIXELS, decode
from trivium.data.source.source import digest
from trivium.data.source.video import RecentFrames, SharedFrames, VideoError, VideoReader, check_video

STATE = ("observation.state", "state")
ACTION = ("action", "actions")
"""The names that LeRobot itself uses, and those of the LIBERO sets for openpi."""
TRUTH = "truth."
NUMERIC = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class LeRobotConfig(EpisodeConfig):
    """A LeRobot data set on disk (v2.0, v2.1 or v3.0): the folder that holds meta/info.json."""

    kind: Literal["lerobot"] = "lerobot"
    paraphrase: bool = True
    """Draw the instruction from the set's paraphrases of the task, where it has some (always the same one for a frame);
    False shows the task sentence itself."""
    language: tuple[str, ...] = ()
    """Styles of the set's language columns that samples carry as further texts, in this order ("subtask", "plan",
    "vqa"): what the assistant says is learned as an answer. A style that the set lacks is refused; () reads none."""
    cache_gb: float = Field(default=1.5, gt=0)
    """Decoded frames to keep, in GB. Videos that fit are decoded once and shared by all workers; of larger ones, and of
    pictures inside Parquet files (kept encoded), each process keeps what it used last: this times the workers."""

    def build(self) -> "LeRobot":
        """Open the set and check all of it but the pixels."""
        return LeRobot(self)


class LeRobot(EpisodeSource):
    """A LeRobot set.

    Raises:
        DataError: the folder is not a whole set; the text names the file, and episode and frame if there is one.
    """

    config: LeRobotConfig

    def __init__(self, config: LeRobotConfig) -> None:
        self.root = Path(config.path)
        self.info = info = read_info(self.root)
        state, action = _first_of(info, STATE), _first_of(info, ACTION)
        cameras = _cameras(info)
        for view in config.views:
            if view not in cameras:
                raise missing(info, view, list(cameras), "views", "view")
        self._keys = {view: cameras[view] for view in config.views}
        self._stored = tuple(key for key in self._keys.values() if info.features[key]["dtype"] == "image")
        filmed = tuple(key for key in self._keys.values() if key not in self._stored)
        truths = [key for key, what in info.features.items() if key.startswith(TRUTH) and what["dtype"] in NUMERIC]
        tasks = read_tasks(info)
        self.episodes = read_episodes(info, filmed)
        frames = read_frames(info, self.episodes, (state, action), truths, self._stored, len(tasks))
        self._language = (
            read_language(frames.files, frames.first, self.episodes, config.language) if config.language else Language()
        )
        found = Trajectories(
            fps=info.fps,
            number=self.episodes.number,
            end=self.episodes.end,
            state=frames.columns[state],
            action=frames.columns[action],
            state_names=info.names(state),
            action_names=info.names(action),
            tasks=tuple(tasks),
            task=frames.task,
            truth={key.removeprefix(TRUTH): frames.columns[key] for key in truths},
            embodiment=str(info.raw.get("robot_type") or ""),
        )
        license_name = str(info.extra.get("license") or _readme_license(info))
        sizes = {view: info.picture_size(key) for view, key in cameras.items()}
        super().__init__(config, self.root.name, license_name, found, sizes)
        self._videos, self._pictures = self._open_pictures(frames)
        self.fingerprint = self._fingerprint(found, frames)

    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture of a video or of a data file."""
        key, number = self._keys[view], self.episodes.number[place]
        if key in self._stored:
            where = f"set {self.config.path}: episode {number}, frame {frame}, view {view}"
            encoded = self._pictures.encoded(key, int(self.episodes.begin[place]) + frame, where)
            pixels, size = decode(encoded, where), self.info.picture_size(key)
            if pixels.shape[:2] != size:
                raise DataError(
                    where,
                    f"a picture of {pixels.shape[0]}x{pixels.shape[1]}",
                    f"{size[0]}x{size[1]}, as meta/info.json says",
                    "Write the set again.",
                )
            return pixels
        videos = self.episodes.videos[key]
        file = videos.files[videos.file[place]]
        try:
            return self._videos.frame(file, int(videos.first[place]) + frame)
        except VideoError as fault:
            raise DataError(
                f"{file}: episode {number}, frame {frame}",
                str(fault),
                "a picture that can be decoded",
                "Copy that file again, or record the episode again.",
            ) from fault

    def instruction(self, i: int, sample_id: str) -> str:
        """Return the task sentence, or a paraphrase of it, always the same one for a frame."""
        task = self.task(i)
        others = self.info.extra.get("paraphrases", {}).get(task, ()) if self.config.paraphrase else ()
        choices = (task, *others)
        return choices[hash_key(0, "paraphrase", sample_id) % len(choices)] if others else task

    def remarks(self, i: int, time_s: float) -> Sequence[Text]:
        """Return the words of the language columns that hold at frame `i`."""
        if not self.config.language:
            return ()
        place = self.place(i)
        stored = int(self.found.shown[i]) if len(self.found.shown) else self.where(i)[1]
        row = int(self.episodes.begin[place]) + stored
        cameras = tuple(self._keys.values())
        words = self._language.at(self.config.language, place, row, stored / self.info.fps, cameras)
        return [segment(word, time_s) for word in words]

    def _open_pictures(self, frames: Frames) -> tuple[VideoReader, StoredPictures]:
        """Check every video by its header and make what reads pictures."""
        files = self._check_videos()
        num_bytes, cache_bytes = sum(3 * math.prod(size) for size in files.values()), int(self.config.cache_gb * 1e9)
        kept = SharedFrames(files) if num_bytes <= cache_bytes else RecentFrames(cache_bytes)
        stored = StoredPictures(self.root, frames.files if self._stored else (), frames.first, cache_bytes)
        return VideoReader(self.info.fps, kept), stored

    def _check_videos(self) -> dict[Path, tuple[int, int, int]]:
        """Return frames, height and width by file, as far as the episodes need them."""
        sizes: dict[Path, tuple[int, int, int]] = {}
        lengths = self.episodes.end - self.episodes.begin
        for key, videos in self.episodes.videos.items():
            height, width = self.info.picture_size(key)
            need = np.zeros(len(videos.files), np.int64)
            np.maximum.at(need, videos.file, videos.first + lengths)
            for number, (file, num_frames) in enumerate(zip(videos.files, need.tolist(), strict=True)):
                try:
                    check_video(file, num_frames, (height, width))
                except VideoError as fault:
                    numbers = self.episodes.number[videos.file == number]
                    raise DataError(
                        f"{file}: episodes {numbers.min()} to {numbers.max()}",
                        str(fault),
                        f"a whole mp4 with {num_frames} frames",
                        "Copy that file again, or record those episodes again.",
                    ) from fault
                sizes[file] = num_frames, height, width
        return sizes

    def _fingerprint(self, found: Trajectories, frames: Frames) -> str:
        """Hash everything but the pixels, and the sizes of the files that hold them; moving the folder changes nothing.

        The index columns are not needed: they were found to follow from the episodes.
        """
        files = [file for videos in self.episodes.videos.values() for file in videos.files]
        files += frames.files if self._stored else []
        return digest(
            self.config.model_dump(exclude={"path", "cache_gb"}),
            self.info.text,
            list(found.tasks),
            [(str(file.relative_to(self.root)), file.stat().st_size) for file in sorted(set(files))],
            [repr(words) for words in sorted(self._language.lasting.items())],
            [repr(words) for words in sorted(self._language.events.items())],
            *(part for videos in self.episodes.videos.values() for part in (videos.file, videos.first)),
            *(self.episodes.number, self.episodes.end, found.task),
            *(frames.columns[name] for name in sorted(frames.columns)),
        )


def _first_of(info: Info, keys: tuple[str, ...]) -> str:
    key = next((key for key in keys if key in info.features), keys[0])
    what = feature(info, key, "path")
    if what["dtype"] not in NUMERIC:
        raise DataError(
            info.path, f"{key} of dtype {what['dtype']!r}", f"one of {', '.join(NUMERIC)}", "Write it again."
        )
    return key


def _cameras(info: Info) -> dict[str, str]:
    """Return feature keys of cameras by short name ("front" for observation.images.front)."""
    cameras: dict[str, str] = {}
    for key, what in info.features.items():
        if what["dtype"] not in ("video", "image"):
            continue
        short = key.removeprefix("observation.").removeprefix("images.")
        size = info.picture_size(key) if len(what["shape"]) == 3 else (0, 0)
        if not 0 < math.prod(size) <= MAX_PIXELS or short in cameras:
            found = f"{key} of shape {what['shape']}" + (f", beside {cameras[short]}" if short in cameras else "")
            expected = f"height, width and channels of at most {MAX_PIXELS:,} pixels; names that differ"
            raise DataError(info.path, found, expected, "Write the set again.")
        cameras[short] = key
    return cameras


def _readme_license(info: Info) -> str:
    """Return the licence from the front matter of a Hub data card, if it has one."""
    readme = info.inside("README.md")
    text = ""
    if readme.is_file():
        with readme.open(errors="replace") as file:
            text = file.read(1 << 16)
    found = (
        re.search(r"^license:[ \t]*(\S+)", text.split("\n---", 1)[0], re.MULTILINE) if text.startswith("---") else None
    )
    return found.group(1) if found else "unknown"
