"""Demonstrations in HDF5 as robomimic and LIBERO write them: data/demo_i/{obs/<key>, actions}, one file or a folder.

Formats: https://robomimic.github.io/docs/datasets/overview.html, LIBERO's scripts/create_dataset.py. actions[t] follows
obs[t]; next_obs, rewards, dones and states are not read. LIBERO records an observation AFTER the step of its action, so
there obs[t] already shows what actions[t] did; it is read as recorded, which is what everybody trains on.
"""

import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from trivium.core.errors import DataError
from trivium.data.source.episode import EpisodeSource, Trajectories
from trivium.data.source.hdf5_read import attribute, check_dataset, child, members, open_file, read_rows, rehearse
from trivium.data.source.recorded import (
    RecordedConfig,
    check_numbers,
    dimension_names,
    join,
    lacking,
    picture_size,
    to_picture,
)
from trivium.data.source.source import digest
from trivium.data.source.video import RecentFrames

OPEN_FILES = 8
SUFFIXES = (".hdf5", ".h5")
MAX_FRAMES = 1 << 24
TODO = "Copy that file again, or leave the episode out of the set."


class Hdf5Config(RecordedConfig):
    """Demonstrations as robomimic or LIBERO writes them: a .hdf5 file, or a folder with a file a task."""

    kind: Literal["hdf5"] = "hdf5"
    mask: str = ""
    """Filter key of robomimic, a list of demonstrations under mask/ in the file ("train", "valid"); "" reads all."""
    task: str = ""
    """What is done, in a sentence, in files that do not say it; LIBERO's do, robomimic's do not."""
    flip: Literal["none", "rows", "half_turn"] = "none"
    """How stored pictures are turned: "rows" puts the last row first, which LIBERO's files need (they say
    macros_image_convention "opengl"; robomimic's are upright). "half_turn" reverses rows and columns, as OpenVLA's
    copies of LIBERO are: upright, but left and right are swapped."""

    def build(self) -> "Hdf5":
        """Open the files: numbers are read, pictures are not."""
        return Hdf5(self)


class Hdf5(EpisodeSource):
    """Demonstrations in HDF5 files, in the order of file names and of the numbers in "demo_12".

    Raises:
        DataError: a file, a demonstration or an array is missing or broken; the text names file and demonstration.
    """

    config: Hdf5Config

    def __init__(self, config: Hdf5Config) -> None:
        self.config = config  # the base sets it too, but the walk needs it first
        root = Path(config.path)
        self._handles: OrderedDict[Path, Any] = OrderedDict()
        self._process = os.getpid()
        self._demo: list[tuple[Path, str]] = []
        """File and name of each episode."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._widths: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        files = _files(root)
        rehearse(files, self._read_file)
        parts = [part for path in files for part in self._read_file(path)]
        if not parts:
            raise DataError(config.path, "no demonstrations", "at least one data/demo_0", "Change `path` or `mask`.")
        lengths = [len(state) for state, _, _ in parts]
        found = Trajectories(
            fps=config.fps,
            number=np.arange(len(parts)),
            end=np.cumsum(lengths),
            state=np.concatenate([state for state, _, _ in parts]),
            action=np.concatenate([action for _, action, _ in parts]),
            state_names=dimension_names({key: self._widths[f"obs/{key}"] for key in config.state}),
            action_names=dimension_names({key: self._widths[key] for key in config.action}),
            tasks=tuple(self._tasks),
            task=np.repeat([task for _, _, task in parts], lengths),
            embodiment=config.embodiment,
        )
        self._frames = RecentFrames(int(config.cache_gb * 1e9))
        name = root.name.removesuffix(root.suffix) if root.suffix in SUFFIXES else root.name
        super().__init__(config, name, config.license, found, self._sizes)
        demos = [(path.name, demo) for path, demo in self._demo]
        sizes = sorted((path.name, path.stat().st_size) for path in {path for path, _ in self._demo})
        numbers = [found.state, found.action, found.end, found.task, list(found.tasks)]
        self.fingerprint = digest(config.model_dump(exclude={"path", "cache_gb"}), demos, sizes, *numbers)

    def __getstate__(self) -> dict:
        """Leave open files behind: another process opens its own."""
        return {**self.__dict__, "_handles": OrderedDict()}

    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture; those of its chunk are kept too."""
        path, demo = self._demo[place]
        key = path / demo / view
        pixels = self._frames.get(key, frame)
        if pixels is None:
            where = f"{path}: {demo}, frame {frame}, obs/{view}"
            dataset = check_dataset(where, child(where, self._file(path), f"data/{demo}/obs/{view}"))
            length = len(dataset)
            if frame >= length or picture_size(where, dataset.dtype, dataset.shape) != self.cameras[view]:
                raise DataError(where, f"shape {dataset.shape}", "what was there on opening", "Leave the file alone.")
            size = dataset.chunks[0] if dataset.chunks else 1
            begin = frame // size * size
            stored = read_rows(where, dataset, begin, min(begin + size, length))
            for j in [*range(begin, frame), *range(frame + 1, begin + len(stored)), frame]:
                pixels = self._turn(to_picture(f"{path}: {demo}, frame {j}, obs/{view}", stored[j - begin]))
                self._frames.put(key, j, pixels)
        assert pixels is not None, "the wanted frame comes last"
        return pixels

    def _turn(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        turned = {"none": pixels, "rows": pixels[::-1], "half_turn": pixels[::-1, ::-1]}[self.config.flip]
        turned = np.ascontiguousarray(turned)
        turned.flags.writeable = False
        return turned

    def _file(self, path: Path) -> Any:
        if self._process != os.getpid():
            # Inherited through a fork: HDF5 shares its caches and file positions with the parent, so leave these alone.
            self._handles, self._process = OrderedDict(), os.getpid()
        if path not in self._handles:
            self._handles[path] = open_file(path)
            if len(self._handles) > OPEN_FILES:
                self._handles.popitem(last=False)[1].close()
        self._handles.move_to_end(path)
        return self._handles[path]

    def _read_file(self, path: Path) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """Return state, action and task number of every demonstration of a file."""
        with open_file(path) as file:
            data = child(f"{path}", file, "data")
            if data is None or not hasattr(data, "attrs"):
                raise DataError(str(path), "no group data", "data/demo_0, data/demo_1, ...", "Correct `path`.")
            sentence = self._check_file(path, data)
            task = self._tasks.setdefault(sentence, len(self._tasks))
            found = []
            for demo in self._names(path, file, data):
                found.append((*self._read_demo(f"{path}: {demo}", child(f"{path}", data, demo)), task))
                self._demo.append((path, demo))
        return found

    def _check_file(self, path: Path, data: Any) -> str:
        """Compare the file's own words with what was asked; return what is done in it."""
        arguments, problem = (_words(path, data, name) for name in ("env_args", "problem_info"))
        kwargs = arguments.get("env_kwargs")
        rate = kwargs.get("control_freq") if isinstance(kwargs, Mapping) else None
        if rate is not None and rate != self.config.fps:
            found = f"control_freq {rate} in env_args"
            raise DataError(str(path), found, f"{self.config.fps:g} frames a second, as `fps` says", "Change `fps`.")
        sentence = problem.get("language_instruction", self.config.task)
        if not isinstance(sentence, str):
            raise DataError(str(path), f"language_instruction {sentence!r}", "a sentence", "Copy that file again.")
        return sentence

    def _names(self, path: Path, file: Any, data: Any) -> list[str]:
        """Return the demonstrations to read, in the order of their numbers."""
        where = str(path)
        there = members(where, data)
        if odd := [name for name in there if not re.fullmatch(r"demo_\d{1,9}", name)]:
            raise DataError(where, f"data/{odd[0]!r}", "data/demo_0, data/demo_1, ...", "Rename that group.")
        lengths = [attribute(f"{path}: {name}", child(where, data, name), "num_samples") for name in there]
        total = attribute(where, data, "total")
        if total is not None and total != sum(n for n in lengths if isinstance(n, int)):
            raise DataError(where, f"total {total}", f"the sum of num_samples, {lengths}"[:120], TODO)
        names = there
        if self.config.mask:
            masks = child(where, file, "mask")
            listed = child(where, file, f"mask/{self.config.mask}")
            if listed is None:
                raise lacking(where, f"mask/{self.config.mask}", members(where, masks), "mask")
            values = check_dataset(f"{path}: mask/{self.config.mask}", listed)
            if values.dtype.kind != "S" or values.ndim != 1 or len(values) > len(there):
                raise DataError(where, f"mask of {values.dtype}, {values.shape}", "names of demonstrations", TODO)
            names = [name.decode(errors="replace") for name in read_rows(where, values, 0, len(values)).tolist()]
            if lost := sorted(set(names) - set(there)):
                raise DataError(where, f"{lost[0]!r} in mask/{self.config.mask}", "demonstrations of the file", TODO)
        return sorted(set(names), key=lambda name: (int(name[5:]), name))

    def _read_demo(self, where: str, demo: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return state and action of a demonstration, once the shapes of its pictures are checked too."""
        length = attribute(where, demo, "num_samples")
        if not isinstance(length, int) or not 0 < length <= MAX_FRAMES:
            raise DataError(where, f"num_samples {length!r}", f"1 to {MAX_FRAMES:,}", TODO)
        for view in self.config.views:
            dataset = self._dataset(where, demo, f"obs/{view}", length, "views")
            size = picture_size(f"{where}, obs/{view}", dataset.dtype, dataset.shape)
            if self._sizes.setdefault(view, size) != size:
                expected = f"{self._sizes[view]}, as in the demonstrations before"
                raise DataError(f"{where}, obs/{view}", f"pictures of {size}", expected, "Write that file again.")
        state = [self._numbers(where, demo, f"obs/{key}", length, "state") for key in self.config.state]
        action = [self._numbers(where, demo, key, length, "action") for key in self.config.action]
        return join(state), join(action)

    def _dataset(self, where: str, demo: Any, key: str, length: int, field: str) -> Any:
        found = child(where, demo, key)
        if found is None:
            folder = child(where, demo, "obs") if key.startswith("obs/") else demo
            raise lacking(where, key.removeprefix("obs/"), members(where, folder), field)
        dataset = check_dataset(f"{where}, {key}", found)
        if len(dataset) != length:
            raise DataError(f"{where}, {key}", f"{len(dataset)} rows", f"{length}, as num_samples says", TODO)
        return dataset

    def _numbers(self, where: str, demo: Any, key: str, length: int, field: str) -> np.ndarray:
        dataset = self._dataset(where, demo, key, length, field)
        size = check_numbers(f"{where}, {key}", dataset.dtype, dataset.shape)
        if self._widths.setdefault(key, size) != size:
            expected = f"{self._widths[key]}, as in the demonstrations before"
            raise DataError(f"{where}, {key}", f"{size} numbers a frame", expected, "Write that file again.")
        return read_rows(f"{where}, {key}", dataset, 0, length)


def _words(path: Path, data: Any, name: str) -> Mapping[str, Any]:
    """Return a JSON object that is kept as a text."""
    text = attribute(str(path), data, name)
    if text is None:
        return {}
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: {name}", f"{str(text)[:60]!r}", "a JSON object", "Copy that file again.")
    return found


def _files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not files:
        found = "a folder without .hdf5 files" if root.is_dir() else "no such file or folder"
        raise DataError(str(root), found, "a .hdf5 file, or a folder of them", "Correct `path`.")
    return files
