"""What every set of robot episodes can do, whatever its format: one sample a frame, from tables and pictures."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample, Segment, State, Text
from trivium.data.align import chunk, history
from trivium.data.blank import blank
from trivium.data.embodiment import Kind, dimensions
from trivium.data.motion import Motion
from trivium.data.resample import resample
from trivium.data.source.corrections import read_corrections, rearrange, write_corrections
from trivium.data.source.source import Source, digest
from trivium.data.trajectory import Trajectories as Trajectories


class EpisodeConfig(Config):
    """What is asked of a set of robot episodes, in any format."""

    path: str
    """Folder or file of the set, relative to where the command runs."""
    views: tuple[str, ...]
    """Cameras to read, by short name ("corner2" for observation.images.corner2), in this order; () reads no picture."""
    horizon: int = Field(ge=1)
    """Steps in an action chunk, 8 to 50 as a rule: longer commits the robot for longer without looking."""
    history: int = Field(default=1, ge=1)
    """Frames of each camera up to the present one; 1 is the present alone. Cost grows in proportion."""
    future: int = Field(default=0, ge=0)
    """Frames ahead of the picture that ends a sample, one a view, behind its actions: what a unified stage learns to
    foresee, 1 to `horizon`. The last so many frames of an episode have none. 0 shows nothing of the future, which is
    all that a policy takes: its layout refuses the rest."""
    rate_hz: float | None = Field(default=None, gt=0, le=1000)
    """Frames a second to bring the set to, before anything else sees it; null keeps the recorded rate. Pictures are the
    latest recorded ones; more than 10 times the recorded rate is refused."""
    kinds: dict[str, Kind] = {}
    """What each dimension of the set's action is, by name and in its order: position, angle (radians), delta, turn (a
    change of angle), velocity, gripper. {} takes it from the registry of robots, in data/embodiment.py, and only
    resampling asks for it; a wrong kind makes wrong commands at another rate."""
    corrections: str | None = None
    """File that `trivium data audit --fix` wrote: episodes to leave out, actions and pictures to move against the
    state. None takes the set as it is stored; a file of another set is refused."""


class EpisodeSource(Source):
    """One sample a frame: pictures of each view, the instruction, the state, and the chunk of actions that follows.

    A format hands its `Trajectories` over and says how to get a picture; all else is here, once.
    """

    config: EpisodeConfig

    def __init__(
        self,
        config: EpisodeConfig,
        name: str,
        license: str,
        found: Trajectories,
        cameras: Mapping[str, tuple[int, int]],
    ) -> None:
        """Hold what a format has read and checked.

        Args:
            config: what was asked for.
            name: of the set, the first word of every sample's id.
            license: of the set, "unknown" where it does not say.
            found: the numbers.
            cameras: height and width of the pictures of every camera that the set has.

        Raises:
            DataError: a view that the set lacks, a number that is not finite, or a rate that it cannot be brought to.
        """
        self.config, self.name, self.license, self.cameras = config, name, license, dict(cameras)
        self.found, self._corrected = (found, "") if config.corrections is None else _correct(found, config.corrections)
        where = f"set {config.path}"
        for view in config.views:
            if view not in self.cameras:
                raise DataError(
                    where,
                    f"no view {view!r}",
                    f"one of {', '.join(self.cameras) or 'none'}",
                    "Change `views`.",
                )
        found = self.found
        for column, values in self.columns().items():
            self._check_finite(column, values)
        rate_hz = found.fps if config.rate_hz is None else config.rate_hz
        if config.kinds or rate_hz != found.fps:
            about = dimensions(found.embodiment, len(found.action_names), found.action_names, config.kinds, where)
            self.found = found = resample(found, rate_hz, about, where)
        self._alike = np.zeros(0, np.int32)
        self._episode_of = np.repeat(np.arange(len(found.end), dtype=np.int32), found.end - found.begin)

    @abstractmethod
    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture: stored frame `frame` of the episode at `place` of the set's own tables.

        Raises:
            DataError: it cannot be decoded; the text names file, episode and frame.
        """

    @property
    def fingerprint(self) -> str:
        """What the format found, and what was corrected: another content of the same file counts."""
        return digest(self._content, self._corrected) if self._corrected else self._content

    @fingerprint.setter
    def fingerprint(self, stored: str) -> None:
        self._content = stored

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.found.fps

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._episode_of)

    @property
    def embodiment(self) -> str:
        """Name of the robot ("" where the set does not say)."""
        return self.found.embodiment

    @property
    def truths(self) -> tuple[str, ...]:
        """Names of the simulator truths that samples carry."""
        return tuple(self.found.truth)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return the episode of every frame, by the set's own number."""
        return self.found.number[self._episode_of].astype(np.int64)

    def columns(self) -> Mapping[str, Float32[np.ndarray, "_ _"]]:
        """Return "state" and "action" of every frame."""
        return {"state": self.found.state, "action": self.found.action}

    def names(self, column: str) -> tuple[str, ...]:
        """Return the names of the dimensions of "state" or "action"."""
        return {"state": self.found.state_names, "action": self.found.action_names}[column]

    def chunks(self, i: Int[np.ndarray, " n"]) -> tuple[Float32[np.ndarray, "n k a"], Bool[np.ndarray, "n k"]]:
        """Return the action chunks of many frames at once, and which of their steps are real."""
        index, valid = chunk(i, self.found.end[self._episode_of[i]], self.config.horizon)
        return self.found.action[index], valid

    def motion(self, i: Int[np.ndarray, " n"]) -> Motion:
        """Return chunks and states of many frames at once."""
        action, valid = self.chunks(i)
        return Motion(
            embodiment=self.embodiment,
            action=action,
            valid=valid,
            action_names=self.found.action_names,
            state=self.found.state[i],
            state_names=self.found.state_names,
        )

    def task(self, i: int) -> str:
        """Return the task sentence of frame `i`, whatever paraphrase its sample shows."""
        return self.found.tasks[int(self.found.task[i])]

    def alike(self) -> Int32[np.ndarray, " n"]:
        """Label frames by the sentence and the later pictures of their sample; shapes are one in the whole set."""
        if not len(self._alike):
            seen: dict[tuple[str, int], int] = {}
            labels = np.zeros(len(self), np.int32)
            for i in range(len(self)):
                number, frame = self.where(i)
                words = self.instruction(i, f"{self.name}/{number}/{frame}")
                labels[i] = seen.setdefault((words, len(self._later(i))), len(seen))
            self._alike = labels
        return self._alike

    def where(self, i: int) -> tuple[int, int]:
        """Return the set's own number of the episode of frame `i`, and the frame within it."""
        e = int(self._episode_of[i])
        return int(self.found.number[e]), i - int(self.found.begin[e])

    def place(self, i: int) -> int:
        """Return where the episode of frame `i` stands in the set's own tables."""
        e = int(self._episode_of[i])
        return int(self.found.place[e]) if len(self.found.place) else e

    def peek(self, i: int) -> Sample:
        """Return frame `i` with blank pictures."""
        return self._sample(i, decode=False)

    def read(self, i: int) -> Sample:
        """Return frame `i`.

        Raises:
            DataError: a picture cannot be decoded; the text names file, episode and frame.
        """
        return self._sample(i, decode=True)

    def instruction(self, i: int, sample_id: str) -> str:
        """Return the sentence that the sample of frame `i` shows; a format with paraphrases draws one of them."""
        return self.task(i)

    def remarks(self, i: int, time_s: float) -> Sequence[Text]:
        """Return what else is said at frame `i`, beside the instruction; nothing, in most formats."""
        return ()

    def _sample(self, i: int, decode: bool) -> Sample:
        number, frame = self.where(i)
        sample_id, time_s = f"{self.name}/{number}/{frame}", frame / self.fps
        values, valid = self.chunks(np.asarray([i]))
        e = int(self._episode_of[i])
        frames, _ = history(np.asarray([i]), self.found.begin[e : e + 1], self.config.history)
        segments: list[Segment] = [*self._images(frames[0], decode)]
        segments.append(Text(text=self.instruction(i, sample_id), role="instruction", time_s=time_s))
        segments += self.remarks(i, time_s)
        segments.append(State(values=self.found.state[i], names=self.found.state_names, time_s=time_s))
        segments.append(Action(values=values[0], valid=valid[0], names=self.found.action_names, time_s=time_s))
        segments += self._images(self._later(i), decode)
        return Sample(
            id=sample_id,
            segments=tuple(segments),
            source=self.name,
            license=self.license,
            embodiment=self.embodiment,
            truth={name: values[i] for name, values in self.found.truth.items()},
        )

    def _later(self, i: int) -> Sequence[int]:
        """Return the frame that the sample of frame `i` is to foresee; none where the episode ends before it.

        It is not repeated there as actions are: a picture in which nothing moves would be taught as what they do.
        """
        later = i + self.config.future
        return [later] if i < later < int(self.found.end[self._episode_of[i]]) else []

    def _images(self, frames: Sequence[int] | Int[np.ndarray, " f"], decode: bool) -> list[Image]:
        """Return the pictures of some frames of one episode, view by view."""
        if not len(frames):
            return []
        i = int(frames[0])
        place, begin = self.place(i), int(self.found.begin[self._episode_of[i]])
        shown = [int(self.found.shown[f]) if len(self.found.shown) else int(f) - begin for f in frames]
        return [
            Image(
                pixels=self.picture(view, place, stored) if decode else blank(*self.cameras[view]),
                view=view,
                time_s=(int(frame) - begin) / self.fps,
            )
            for view in self.config.views
            for frame, stored in zip(frames, shown, strict=True)
        ]

    def _check_finite(self, column: str, values: Float32[np.ndarray, "n d"]) -> None:
        faults = np.argwhere(~np.isfinite(values))
        if len(faults):
            row, dimension = (int(x) for x in faults[0])
            e = int(np.searchsorted(self.found.end, row, side="right"))
            raise DataError(
                f"set {self.config.path}: episode {self.found.number[e]}, frame {row - self.found.begin[e]}",
                f"{values[row, dimension]} in {column}, dimension {dimension} ({self.names(column)[dimension]}); "
                f"{len(faults)} such values in the set",
                "finite numbers",
                "Record that episode again or remove it from the set.",
            )


def _correct(found: Trajectories, file: str) -> tuple[Trajectories, str]:
    """Return what is left after the corrections of a file, and a digest of them."""
    path = Path(file)
    corrections = read_corrections(path)
    new = rearrange(path, corrections, found.number, found.end)
    lengths = found.end - found.begin
    place = found.place if len(found.place) else np.arange(len(found.end))
    shown = found.shown if len(found.shown) else np.arange(len(found.state)) - np.repeat(found.begin, lengths)
    corrected = replace(
        found,
        number=found.number[new.episode],
        end=new.end,
        state=found.state[new.state],
        action=found.action[new.action],
        task=found.task[new.state],
        truth={name: values[new.state] for name, values in found.truth.items()},
        place=place[new.episode],
        shown=shown[new.pictures],
        clock=found.clock[new.state] if len(found.clock) else found.clock,
    )
    return corrected, digest(write_corrections(corrections))
