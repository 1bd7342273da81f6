"""meta/info.json of a LeRobot folder: what the set is, checked, and where its files lie, safely."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from trivium.core.errors import DataError

VERSIONS = ("v2.0", "v2.1", "v3.0")
INDEX_COLUMNS = ("index", "episode_index", "frame_index", "task_index", "timestamp")
MAX_JSON_BYTES = 256 << 20
"""Largest JSON file that is read: 500,000 episodes are 60 MB."""
MAX_COUNT = 1 << 40
MAX_WIDTH = 1 << 28
"""Numbers in one value of a feature; a picture of 64 megapixels has 192 M."""
MENDED = "Copy the whole set again."


@dataclass(frozen=True, eq=False)
class Info:
    """meta/info.json, checked."""

    root: Path
    raw: Mapping[str, Any]
    text: bytes
    _real: dict[Path, str] = field(default_factory=dict, repr=False)
    """Where folders really lie, asked once each."""

    @property
    def path(self) -> str:
        """Name of the file, for errors."""
        return str(self.root / "meta" / "info.json")

    @property
    def v3(self) -> bool:
        """Whether many episodes share a file (v3.0) or each has its own (v2.0, v2.1)."""
        return self.raw["codebase_version"] == "v3.0"

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.raw["fps"])

    @property
    def features(self) -> Mapping[str, Any]:
        """Columns and videos by key."""
        return self.raw["features"]

    @property
    def extra(self) -> Mapping[str, Any]:
        """What Trivium's own writer adds: "paraphrases" by task and "license"."""
        return self.raw.get("trivium", {})

    def width(self, key: str) -> int:
        """Return how many numbers one value of a feature has."""
        return math.prod(self.features[key]["shape"])

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of a feature's dimensions; "state.0", "state.1" where the set gives none."""
        found = _flat(self.features[key].get("names"))
        if len(found) == self.width(key):
            return tuple(found)
        return tuple(f"{key.rsplit('.', 1)[-1]}.{j}" for j in range(self.width(key)))

    def picture_size(self, key: str) -> tuple[int, int]:
        """Return height and width of a camera's pictures; without names, three in front are channels."""
        shape, names = tuple(self.features[key]["shape"]), _flat(self.features[key].get("names"))
        first = names[0].startswith("c") if len(names) == len(shape) else shape[0] in (1, 3) and shape[-1] not in (1, 3)
        return (shape[1], shape[2]) if first else (shape[0], shape[1])

    def paths(self, key: str, *numbers: str) -> Callable[..., Path]:
        """Return what fills a path template of the set: `info.paths("data_path", "chunk_index")(chunk_index=0)`.

        Nothing is formatted: a template may hold these numbers (and video_key), as "{name}" or "{name:03d}", and no
        more, so that a stranger's file reaches no attribute and asks for no gigabyte of zeros.

        Raises:
            DataError: another thing stands in the template, or a path leads out of the folder.
        """
        template = self.raw.get(key)
        expected = f"a path inside the set, from {', '.join(f'{{{name}}}' for name in numbers)}"
        try:
            pieces = [] if not isinstance(template, str) else list(Formatter().parse(template))
        except ValueError:
            pieces = []
        if not pieces or not all(_plain(name, spec, conversion, numbers) for _, name, spec, conversion in pieces):
            raise DataError(self.path, f"{key} {template!r}", expected, "Use no set that asks for more.")

        def fill(**values: int | str) -> Path:
            text = ""
            for literal, name, spec, _ in pieces:
                value = "" if name is None else str(values[name])
                text += literal + (value.zfill(int(spec.strip("d") or 0)) if spec else value)
            return self.inside(text)

        return fill

    def inside(self, relative: str) -> Path:
        """Return a path of the set, and refuse what leads out of it.

        Raises:
            DataError: it is absolute, climbs with "..", or passes through a link to somewhere else.
        """
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\0" in relative or "\\" in relative or len(relative) > 1000:
            raise DataError(self.path, f"the path {relative[:200]!r}", "a path inside the set", "Use no such set.")
        path = self.root / relative
        parent = self._folder(path.parent)
        real = os.path.realpath(path) if path.is_symlink() else os.path.join(parent, path.name)
        if not Path(real).is_relative_to(self._folder(self.root)):
            raise DataError(
                str(path),
                f"a link to {real}",
                "a file inside the set",
                "Copy the set with its files in place of links (cp -L; huggingface-cli download --local-dir).",
            )
        return path

    def _folder(self, folder: Path) -> str:
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]


def read_info(root: Path) -> Info:
    """Read and check meta/info.json.

    Raises:
        DataError: this is not a LeRobot folder of a version that is known.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        record = root.parent if root.name == "robot" else "FOLDER"  # demo-data calls its LeRobot set robot/
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else ""
        raise DataError(
            str(root),
            f"no meta/info.json (the folder holds: {inside or 'nothing'})" if root.is_dir() else "no such folder",
            "a LeRobot data set (v2.0, v2.1 or v3.0): meta/info.json, meta/tasks.*, meta/episodes*, data/, videos/",
            f"Correct `path`, or record demonstrations: trivium demo-data {record}",
        )
    Info(root, {}, b"").inside("meta/info.json")
    text = read_bytes(path)
    raw = parse(text, str(path))
    if raw.get("codebase_version") not in VERSIONS:
        raise DataError(
            str(path),
            f"codebase_version {raw.get('codebase_version')!r}",
            f"one of {', '.join(VERSIONS)}",
            "Convert it with the lerobot package, or write the set again.",
        )
    _check(str(path), raw)
    return Info(root, raw, text)


def read_bytes(path: Path) -> bytes:
    """Return a JSON file of at most 256 MB.

    Raises:
        DataError: it is missing or larger.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(str(path), f"{size:,} bytes", f"at most {MAX_JSON_BYTES:,}", "Use another set.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"no such file ({error.strerror})", "a part of the set", MENDED) from error


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"broken JSON ({error})", "the JSON that LeRobot writes", MENDED) from error
    if not isinstance(raw, dict):
        raise DataError(where, f"JSON of type {type(raw).__name__}", "an object, as LeRobot writes it", MENDED)
    return raw


def feature(info: Info, key: str, field: str) -> Mapping[str, Any]:
    """Return the description of a feature that the config asks for.

    Raises:
        DataError: the set has no such feature.
    """
    if key not in info.features:
        raise missing(info, key, [k for k in info.features if k not in INDEX_COLUMNS], field, "feature")
    return info.features[key]


def missing(info: Info, name: str, known: list[str], field: str, what: str) -> DataError:
    """Return the error for a name that the set does not know, with the nearest one that it does."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    todo = f"Did you mean {close[0]!r}? Change `{field}`." if close else f"Change `{field}`."
    return DataError(info.path, f"no {what} {name!r}", f"one of {', '.join(known) or 'none'}", todo)


def whole(value: object, low: int, high: int) -> bool:
    """Tell whether a value from JSON is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _plain(name: str | None, spec: str | None, conversion: str | None, known: tuple[str, ...]) -> bool:
    if name is None:
        return True
    width = "" if name == "video_key" else r"(0?[1-9]d?)?"
    return name in known and conversion is None and re.fullmatch(width, spec or "") is not None


def _flat(names: object) -> list[str]:
    """Return the words in a list, or in the lists of an object ({"motors": [...]}); none where it is anything else."""
    if isinstance(names, Mapping):
        return [
            name for inner in names.values() for name in (_flat(inner) if isinstance(inner, list) else [str(inner)])
        ]
    if isinstance(names, list):
        return [word for name in names for word in (_flat(name) if isinstance(name, list | dict) else [str(name)])]
    return []


def _check(where: str, raw: dict[str, Any]) -> None:
    def need(good: bool, key: str, expected: str) -> None:
        if not good:
            found = f"{key} {str(raw[key])[:80]!r}" if key in raw else f"no {key!r}"
            raise DataError(where, found, expected, "Write the set again.")

    fps = raw.get("fps")
    real = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps <= 100_000  # a NaN fails too
    need(real, "fps", "frames a second, above 0")
    for key in ("total_frames", "total_episodes"):
        need(whole(raw.get(key), 0, MAX_COUNT), key, "a count")
    if raw["codebase_version"] != "v3.0":
        need(whole(raw.get("chunks_size"), 1, MAX_COUNT), "chunks_size", "episodes in a folder, 1000 as a rule")
    need(isinstance(raw.get("features"), dict), "features", "an object of columns and cameras")
    for key, what in raw["features"].items():
        shape = what.get("shape") if isinstance(what, dict) else None
        good = isinstance(shape, list) and len(shape) < 8 and all(whole(n, 0, MAX_WIDTH) for n in shape)
        if not good or math.prod(shape or []) > MAX_WIDTH or not isinstance(what.get("dtype"), str):
            raise DataError(
                where, f"feature {key!r}: {str(what)[:80]}", "an object with dtype and shape", "Write the set again."
            )
    extra = raw.get("trivium", {})
    said = extra.get("paraphrases", {}) if isinstance(extra, dict) else None
    lists = list(said.values()) if isinstance(said, dict) else [None]
    good = all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists)
    need(good, "trivium", "paraphrases by task")
