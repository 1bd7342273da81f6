"""RLDS episodes in TFDS folders (Open X-Embodiment, DROID, Bridge), read without TensorFlow.

Format: https://github.com/google-research/rlds. TFDS keeps an episode as one tf.train.Example with a list a feature:
"steps/action" holds the numbers of all steps one after the other, "steps/observation/image" one encoded picture a step.
A step is an observation and the action that followed it, as here. RLDS leaves the action of a last step undefined; sets
of demonstrations fill it in, so it is kept, where RLDS's own tools drop it.
"""

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, UInt8
from pydantic import Field

from trivium.core.errors import DataError
from trivium.core.sample import Sample
from trivium.data.source.episode import EpisodeSource, Trajectories
from trivium.data.source.recorded import (
    RecordedConfig,
    check_numbers,
    decode_picture,
    dimension_names,
    join,
    lacking,
    open_picture,
)
from trivium.data.source.rlds_meta import Feature, Info, read_info
from trivium.data.source.source import digest
from trivium.data.source.tfrecord import RecordError, Values, check_record, read_example, records
from trivium.data.source.video import RecentFrames

FLAGS = ("is_first", "is_last", "is_terminal")
TODO = "Copy that file again, or leave the episode out of the set."


class RldsConfig(RecordedConfig):
    """RLDS episodes that TFDS has written: the folder that holds dataset_info.json."""

    kind: Literal["rlds"] = "rlds"
    split: str = Field(default="train", min_length=1)
    """Which of the set's own splits to read."""
    instruction: str = "language_instruction"
    """Feature of the step that says what is done ("observation/natural_language_instruction" in RT-1's set); "" where
    there is none: then the sentence is empty."""

    def build(self) -> "Rlds":
        """Open the set: headers, numbers and sentences are read, pictures are stepped over."""
        return Rlds(self)


class Rlds(EpisodeSource):
    """RLDS episodes, one record each.

    The checksum of a record covers its pictures too. Opening checks those of headers; a whole record is read and
    checked when the first of its frames is, once in each process. Statistics see numbers before that.

    Raises:
        DataError: a file, record or feature is missing or broken; the text names the file and the episode.
    """

    config: RldsConfig

    def __init__(self, config: RldsConfig) -> None:
        root = Path(config.path)
        info = read_info(root, config.split)
        keys = _Keys(root, info, config)
        self._record: list[tuple[Path, int, int]] = []
        """File, offset and length of each episode."""
        self._pictures: list[dict[str, Int[np.ndarray, "n 2"]]] = []
        """By episode and view: offset and length of every picture."""
        found = self._read(config, info, keys)
        self._checked: set[int] = set()
        self._frames = RecentFrames(int(config.cache_gb * 1e9))
        cameras = {view: self._size(view, keys.features[key]) for view, key in keys.views.items()}
        super().__init__(config, info.name, info.license or config.license, found, cameras)
        places = [places[view] for places in self._pictures for view in config.views]
        numbers = [found.state, found.action, found.end, found.task, list(found.tasks)]
        self.fingerprint = digest(config.model_dump(exclude={"path", "cache_gb"}), info.text, *places, *numbers)

    def __getstate__(self) -> dict:
        """Leave behind what this process has checked: another may see another disk."""
        return {**self.__dict__, "_checked": set()}

    def read(self, i: int) -> Sample:
        """Return frame `i`, once its whole record has been compared with its checksum."""
        place = self.place(i)
        if place not in self._checked:
            path, offset, length = self._record[place]
            try:
                with path.open("rb") as file:
                    check_record(file, offset, length)
            except (RecordError, OSError) as fault:
                raise DataError(f"{path}: episode {place}", str(fault), "a whole record", TODO) from fault
            self._checked.add(place)
        return super().read(i)

    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture, decoded from its own bytes of the file."""
        key = Path(f"{place}") / view
        pixels = self._frames.get(key, frame)
        if pixels is None:
            pixels = decode_picture(*self._bytes(view, place, frame), self.cameras[view])
            self._frames.put(key, frame, pixels)
        return pixels

    def _bytes(self, view: str, place: int, frame: int) -> tuple[str, bytes]:
        """Return where a picture is, in words, and its bytes."""
        path, _, _ = self._record[place]
        where = f"{path}: episode {place}, frame {frame}, view {view}"
        offset, length = (int(x) for x in self._pictures[place][view][frame])
        try:
            with path.open("rb") as file:  # opened for each picture: a file kept open would not survive a fork
                file.seek(offset)
                return where, file.read(length)
        except OSError as error:
            raise DataError(where, f"a file that cannot be read ({error})", "a readable one", TODO) from error

    def _size(self, view: str, feature: Feature) -> tuple[int, int]:
        """Return height and width from features.json, or those of the first picture where it leaves them open."""
        if len(feature.shape) == 3 and min(feature.shape) > 0:
            return feature.shape[0], feature.shape[1]
        with open_picture(*self._bytes(view, 0, 0)) as image:
            return image.height, image.width

    def _read(self, config: RldsConfig, info: Info, keys: "_Keys") -> Trajectories:
        """Walk all records."""
        states: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        tasks: dict[str, int] = {}
        task: list[np.ndarray] = []
        for path, num_episodes in info.shards.items():
            places, data = _open(path)
            if len(places) != num_episodes:
                expected = f"{num_episodes}, as dataset_info.json says"
                raise DataError(str(path), f"{len(places)} episodes", expected, "Copy that file again.")
            for offset, length in places:
                where = f"{path}: episode {len(self._record)}"
                episode = _Episode(where, keys, data, offset, length)
                self._record.append((path, offset, length))
                self._pictures.append(episode.pictures())
                states.append(episode.numbers(keys.state))
                actions.append(episode.numbers(keys.action))
                task.append(np.array([tasks.setdefault(s, len(tasks)) for s in episode.sentences(keys.instruction)]))
        if not self._record:
            raise DataError(config.path, f"no episodes in split {config.split!r}", "at least one", "Change `split`.")
        return Trajectories(
            fps=config.fps,
            number=np.arange(len(states)),
            end=np.cumsum([len(state) for state in states]),
            state=np.concatenate(states),
            action=np.concatenate(actions),
            state_names=keys.names(keys.state),
            action_names=keys.names(keys.action),
            tasks=tuple(tasks),
            task=np.concatenate(task),
            embodiment=config.embodiment,
        )


class _Keys:
    """Which features of a step are read, all of them described in features.json."""

    def __init__(self, root: Path, info: Info, config: RldsConfig) -> None:
        self.features, self._file = info.features, str(root / "features.json")
        self.state = [f"observation/{key}" for key in config.state]
        self.action = list(config.action)
        self.views = {view: f"observation/{view}" for view in config.views}
        self.instruction = config.instruction
        self.flags = [flag for flag in FLAGS if flag in info.features]
        for field, keys in (("state", self.state), ("action", self.action), ("views", self.views.values())):
            for key in keys:
                self._check(field, key)
        if self.instruction and self.instruction not in info.features:
            raise lacking(self._file, self.instruction, list(info.features), "instruction")
        used = [*self.state, *self.action, *self.views.values(), *self.flags, self.instruction]
        self.wanted = frozenset(f"steps/{key}" for key in used if key)

    def names(self, keys: list[str]) -> tuple[str, ...]:
        """Name the dimensions of joined features."""
        return dimension_names({key.removeprefix("observation/"): math.prod(self.features[key].shape) for key in keys})

    def _check(self, field: str, key: str) -> None:
        if key not in self.features:
            prefix = "" if field == "action" else "observation/"
            there = [name.removeprefix(prefix) for name in self.features if name.startswith(prefix)]
            raise lacking(self._file, key.removeprefix(prefix), there, field)
        feature, where = self.features[key], f"{self._file}: {key}"
        expected = "image" if field == "views" else "tensor"
        if feature.kind != expected:
            raise DataError(where, f"a feature of kind {feature.kind}", f"one of kind {expected}", f"Change `{field}`.")
        if field == "views":
            return
        if feature.encoding not in ("none", "bytes") or min(feature.shape, default=1) < 1:
            found = f"shape {feature.shape}, encoding {feature.encoding!r}"
            raise DataError(where, found, "a fixed shape, encoding 'none' or 'bytes'", f"Change `{field}`.")
        check_numbers(where, _dtype(feature), (1, *feature.shape))


class _Episode:
    """One record: its features hold as many steps each."""

    def __init__(self, where: str, keys: _Keys, data: mmap.mmap | bytes, offset: int, length: int) -> None:
        self._where, self._keys, self._data = where, keys, data
        try:
            self._found: Mapping[str, Values] = read_example(data, offset, offset + length, keys.wanted)
        except RecordError as fault:
            raise self._bad(str(fault), "a whole tf.train.Example") from fault
        missing = sorted(keys.wanted - set(self._found))
        if missing:
            raise self._bad(f"no feature {missing[0]!r}", "every feature of features.json that is asked for")
        self.length = 0  # not known yet
        self.length = len(self._values(keys.action[0]))
        if not self.length:
            raise self._bad("no steps", "at least one")
        self._check_flags()

    def numbers(self, keys: list[str]) -> Float32[np.ndarray, "n d"]:
        """Return joined features, one row a step."""
        return join([self._values(key) for key in keys])

    def pictures(self) -> dict[str, Int[np.ndarray, "n 2"]]:
        """Return offset and length of every picture, by view."""
        return {view: self._texts(key) for view, key in self._keys.views.items()}

    def sentences(self, key: str) -> list[str]:
        """Return what is said at each step."""
        if not key:
            return [""] * self.length
        places = self._texts(key).tolist()
        try:
            return [self._data[at : at + size].decode() for at, size in places]
        except UnicodeDecodeError as error:
            raise self._bad(f"{key} that is no text ({error.reason})", "UTF-8") from error

    def _texts(self, key: str) -> Int[np.ndarray, "n 2"]:
        places = self._found[f"steps/{key}"]
        if places.ndim != 2:
            raise self._bad(f"numbers in {key}", "byte strings")
        if len(places) != self.length:
            raise self._bad(f"{len(places)} steps in {key}", f"{self.length}, as in {self._keys.action[0]}")
        return places

    def _values(self, key: str) -> np.ndarray:
        """Return one numeric feature, [n, d], in its recorded dtype."""
        feature, values = self._keys.features[key], self._found[f"steps/{key}"]
        size, dtype = math.prod(feature.shape), _dtype(feature)
        if values.ndim == 2 and feature.encoding == "bytes":
            wrong = np.flatnonzero(values[:, 1] != size * dtype.itemsize)
            if len(wrong):
                expected = f"{size * dtype.itemsize} bytes"
                raise self._bad(f"{values[wrong[0], 1]} bytes in {key}, frame {wrong[0]}", expected)
            values = np.frombuffer(b"".join(self._data[at : at + n] for at, n in values.tolist()), dtype)
        elif values.ndim == 2 or (values.dtype.kind == "f") != (dtype.kind == "f"):
            found = "text" if values.ndim == 2 else values.dtype
            raise self._bad(f"{found} in {key}", f"{dtype}, as features.json says")
        if len(values) % size or (self.length and len(values) != self.length * size):
            expected = f"{self.length} steps of {size}" if self.length else f"a multiple of {size}"
            raise self._bad(f"{len(values)} numbers in {key}", expected)
        return values.reshape(-1, size)

    def _check_flags(self) -> None:
        steps = np.arange(self.length)
        for flag in self._keys.flags:
            said = self._found[f"steps/{flag}"]
            if said.shape != (self.length,) or said.dtype.kind != "i":
                raise self._bad(f"{said.dtype} of shape {said.shape} in {flag}", f"{self.length} flags")
            right = steps == (0 if flag == "is_first" else self.length - 1)
            # Only a last step may be terminal, but an episode that was cut off has none.
            wrong = np.flatnonzero((said != 0) & ~right if flag == "is_terminal" else (said != 0) != right)
            if len(wrong):
                found = f"{flag} {bool(said[wrong[0]])} at frame {wrong[0]} of {self.length}"
                raise self._bad(found, "is_first at frame 0 alone, is_last at the last, is_terminal nowhere else")

    def _bad(self, found: str, expected: str) -> DataError:
        return DataError(self._where, found, expected, TODO)


def _dtype(feature: Feature) -> np.dtype:
    try:
        return np.dtype(feature.dtype)
    except TypeError:
        return np.dtype(object)


def _open(path: Path) -> tuple[list[tuple[int, int]], mmap.mmap | bytes]:
    """Return offset and length of every record, and the file as memory that is read when it is touched."""
    try:
        places = list(records(path))
        with path.open("rb") as file:
            return places, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if places else b""
    except (RecordError, OSError, ValueError) as fault:
        raise DataError(str(path), str(fault), "a whole TFRecord file", "Copy that file again.") from fault
