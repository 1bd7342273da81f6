"""Diffusion Policy's ReplayBuffer in Zarr: data/<key> has the frames of all episodes, meta/episode_ends their ends.

Format: https://github.com/real-stanford/diffusion_policy (common/replay_buffer.py). data/action[t] follows
data/<observation>[t], as here. Pictures are [n, h, w, 3] or [n, 3, h, w], bytes or, as in its Push-T set, floats that
hold grey levels from 0 to 255.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, UInt8

from trivium.core.errors import DataError
from trivium.data.source.episode import EpisodeSource, Trajectories
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
from trivium.data.source.zarr_array import ZarrArray, open_array
from trivium.data.source.zarr_store import Store, is_name

ENDS = "meta/episode_ends"


class ZarrConfig(RecordedConfig):
    """A ReplayBuffer of Diffusion Policy: a Zarr folder of version 2 or 3, or a .zip file of one."""

    kind: Literal["zarr"] = "zarr"
    task: str = ""
    """What is done, in a sentence: the format does not say it."""

    def build(self) -> "ZarrSet":
        """Open the store: numbers are read, pictures are not."""
        return ZarrSet(self)


class ZarrSet(EpisodeSource):
    """Episodes one after the other in the arrays of a Zarr store.

    Raises:
        DataError: an array or a chunk is missing or broken; the text names the array, and episode and frame if it can.
    """

    config: ZarrConfig

    def __init__(self, config: ZarrConfig) -> None:
        root = Path(config.path)
        self._store = Store(root)
        ends = self._episode_ends(config)
        self._ends, total = ends, int(ends[-1])  # as stored: corrections and other rates change `found`
        self._views = {view: self._array(view, total, "views") for view in config.views}
        sizes = {view: picture_size(array.where, array.dtype, array.shape) for view, array in self._views.items()}
        widths: dict[str, int] = {}
        state = [self._numbers(key, total, "state", widths) for key in config.state]
        action = [self._numbers(key, total, "action", widths) for key in config.action]
        stored = {view: array.check_chunks() for view, array in self._views.items()}
        found = Trajectories(
            fps=config.fps,
            number=np.arange(len(ends)),
            end=ends,
            state=join(state),
            action=join(action),
            state_names=dimension_names({key: widths[key] for key in config.state}),
            action_names=dimension_names({key: widths[key] for key in config.action}),
            tasks=(config.task,),
            task=np.zeros(total, np.int64),
            embodiment=config.embodiment,
        )
        self._frames = RecentFrames(int(config.cache_gb * 1e9))
        name = root.name.removesuffix(".zip").removesuffix(".zarr")
        super().__init__(config, name, config.license, found, sizes)
        about = {view: [array.shape, array.chunks, str(array.dtype)] for view, array in self._views.items()}
        parts = [about, stored, found.state, found.action, ends]
        self.fingerprint = digest(config.model_dump(exclude={"path", "cache_gb"}), *parts)

    def picture(self, view: str, place: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one picture; those of its chunk are unpacked with it and kept too."""
        row = int(self._ends[place - 1] if place else 0) + frame
        key = Path(view)
        pixels = self._frames.get(key, row)
        if pixels is None:
            array = self._views[view]
            begin = row // array.chunks[0] * array.chunks[0]
            try:
                stored = array.rows(begin, min(begin + array.chunks[0], array.shape[0]))
            except DataError as fault:
                where = f"{fault.where}: episode {place}, frame {frame}"
                raise DataError(where, fault.found, fault.expected, fault.todo) from fault
            for j in [*range(begin, row), *range(row + 1, begin + len(stored)), row]:
                e = int(np.searchsorted(self._ends, j, side="right"))
                where = f"{array.where}: episode {e}, frame {j - int(self._ends[e - 1] if e else 0)}"
                pixels = to_picture(where, stored[j - begin])
                self._frames.put(key, j, pixels)
        assert pixels is not None, "the wanted frame comes last"
        return pixels

    def _episode_ends(self, config: ZarrConfig) -> Int[np.ndarray, " e"]:
        array = open_array(self._store, ENDS)
        if array is None:
            there = ", ".join(self._store.children("data")) or "nothing"
            raise DataError(
                config.path,
                f"no {ENDS} (under data there is {there})",
                "a ReplayBuffer of Diffusion Policy",
                "Correct `path`.",
            )
        if array.dtype.kind not in "iu" or len(array.shape) != 1:
            raise DataError(
                array.where, f"{array.dtype} of shape {array.shape}", "a list of whole numbers", "Copy it again."
            )
        check_numbers(array.where, array.dtype, array.shape)
        array.check_chunks()
        ends = array.rows(0, array.shape[0]).astype(np.int64)
        wrong = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
        if len(wrong):
            e = int(wrong[0])
            expected = f"above {ends[e - 1] if e else 0}, where it begins"
            raise DataError(f"{array.where}: episode {e}", f"end {ends[e]}", expected, "Leave that episode out.")
        return ends

    def _array(self, key: str, total: int, field: str) -> ZarrArray:
        """Open data/<key> and check that it has a row for every frame."""
        array = open_array(self._store, f"data/{key}") if is_name(key) else None
        if array is None:
            raise lacking(str(self._store.root), key, self._store.children("data"), field)
        if array.shape[0] != total:
            raise DataError(
                array.where, f"{array.shape[0]} rows", f"{total}, where the last episode ends", "Write the set again."
            )
        return array

    def _numbers(self, key: str, total: int, field: str, widths: dict[str, int]) -> Float32[np.ndarray, "n d"]:
        array = self._array(key, total, field)
        widths[key] = check_numbers(array.where, array.dtype, array.shape)
        array.check_chunks()
        return join([array.rows(0, total)])
