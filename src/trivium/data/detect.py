"""Which format lies at a path: what the commands go by when they are given a path and no config."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trivium.core.config import override
from trivium.core.errors import DataError
from trivium.data.bucket import SourceConfig
from trivium.data.guess import guess_hdf5, guess_rlds, guess_zarr
from trivium.data.source.code import CodeConfig
from trivium.data.source.conversation import ConversationConfig
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.interleaved import InterleavedConfig
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.source.source import Source
from trivium.data.source.table import read_schema
from trivium.data.source.text import SUFFIXES, TextConfig
from trivium.data.source.webdataset import WebDatasetConfig

DEPTH = 4
"""How many folders deep `find` looks."""


def detect(path: Path, assignments: Sequence[str] = ()) -> SourceConfig:
    """Return a config that reads the set at `path`; `assignments` change its settings.

    LeRobot sets are read without pictures; of formats that do not say what their arrays are, see data/guess.py.

    Raises:
        DataError: nothing at the path is a known format.
        ConfigError: an assignment does not fit the format.
    """
    config = _match(path)
    if config is None:
        raise DataError(
            str(path),
            _described(path),
            f"one of the formats: {', '.join(RULES)}",
            "Name the set itself; `trivium data ls FOLDER` lists the sets in a folder.",
        )
    return override(config, assignments)


def open_all(path: Path, assignments: Sequence[str] = ()) -> Source:
    """Open the set at `path`; a set of robot episodes with every camera it has, unless `views` is assigned.

    Raises:
        DataError: no known format, or a broken set.
    """
    config = detect(path, assignments)
    source = config.build()
    asked = any(assignment.startswith("views=") for assignment in assignments)
    if isinstance(config, LeRobotConfig) and isinstance(source, EpisodeSource) and source.cameras and not asked:
        return config.replace(views=tuple(source.cameras)).build()
    return source


def open_episodes(path: Path, assignments: Sequence[str] = ()) -> EpisodeSource:
    """Open a set of robot episodes with every camera it has.

    Raises:
        DataError: it is no such set, or a broken one.
    """
    source = open_all(path, assignments)
    if not isinstance(source, EpisodeSource):
        raise DataError(str(path), "a set without robot episodes", "robot episodes", "`trivium data ls` lists sets.")
    return source


def find(path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the path itself when it is a set, else the sets below it."""
    if _match(path) is not None:
        yield path
    elif path.is_dir() and depth:
        for item in sorted(path.iterdir()):
            if not item.name.startswith("."):
                yield from find(item, depth - 1)


def _described(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    if path.is_file():
        return "a file of no known format"
    return f"a folder with {', '.join(sorted(item.name for item in path.iterdir())[:8]) or 'nothing'}"


def _match(path: Path) -> SourceConfig | None:
    return next((config for rule in RULES.values() if (config := rule(path)) is not None), None)


def _lerobot(path: Path) -> SourceConfig | None:
    return LeRobotConfig(path=str(path), views=(), horizon=1) if (path / "meta/info.json").is_file() else None


def _image_text(path: Path) -> SourceConfig | None:
    """A folder of Parquet files, or one, whose columns hold pictures and words."""
    files = _files(path, (".parquet",))
    if not files:
        return None
    schema = read_schema(files[0])
    names = schema.names
    if "image" not in names:
        return None
    words = QuestionColumns() if {"question", "answer"} <= set(names) else CaptionColumns()
    group = next((name for name in ("episode", "group") if name in names), "")
    return ImageTextConfig(path=str(path), words=words, group_column=group)


def _rlds(path: Path) -> SourceConfig | None:
    return guess_rlds(path) if (path / "dataset_info.json").is_file() and (path / "features.json").is_file() else None


def _zarr(path: Path) -> SourceConfig | None:
    folder = any((path / "meta/episode_ends" / name).is_file() for name in (".zarray", "zarr.json"))
    return guess_zarr(path) if folder or (path.is_file() and path.name.endswith(".zarr.zip")) else None


def _hdf5(path: Path) -> SourceConfig | None:
    return guess_hdf5(path) if _files(path, HDF5) else None


def _webdataset(path: Path) -> SourceConfig | None:
    return WebDatasetConfig(path=str(path)) if _files(path, (".tar",)) else None


def _interleaved(path: Path) -> SourceConfig | None:
    return InterleavedConfig(path=str(path)) if path.is_dir() and any(path.glob("*.scenes.json")) else None


def _conversation(path: Path) -> SourceConfig | None:
    """A .json file whose entries hold conversations, or an InternVL meta file; json lines with conversations."""
    if not path.is_file() or not path.name.endswith((".json", ".jsonl")):
        return None
    with path.open("rb") as file:
        head = file.read(HEAD)
    known = b'"conversations"' in head or (b'"annotation"' in head and b'"root"' in head)
    return ConversationConfig(path=str(path)) if known else None


def _code(path: Path) -> SourceConfig | None:
    """Rows with a repository, a path and content."""
    files = _files(path, (".parquet",))
    known = files and {"repo_name", "path", "content"} <= set(read_schema(files[0]).names)
    return CodeConfig(path=str(path)) if known else None


def _text(path: Path) -> SourceConfig | None:
    return TextConfig(path=str(path)) if _files(path, SUFFIXES) else None


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a format: the path itself, or all of a folder that holds such files and no folders."""
    if path.is_file():
        return [path] if path.name.endswith(suffixes) else []
    items = sorted(item for item in path.iterdir() if not item.name.startswith(".")) if path.is_dir() else []
    found = [item for item in items if item.is_file() and item.name.endswith(suffixes)]
    others = [item for item in items if item not in found and item.name.endswith(DATA_SUFFIXES)]
    return [] if others or any(item.is_dir() for item in items) else found


HDF5 = (".hdf5", ".h5")
HEAD = 1 << 16
"""Bytes of a json file that are looked at."""
DATA_SUFFIXES = (".parquet", ".tar", *HDF5, *SUFFIXES)
"""A folder that holds files of two formats is no set; each of its files is one."""

RULES: dict[str, Callable[[Path], SourceConfig | None]] = {
    "LeRobot": _lerobot,
    "RLDS": _rlds,
    "Zarr": _zarr,
    "HDF5": _hdf5,
    "code": _code,
    "image-text Parquet": _image_text,
    "WebDataset": _webdataset,
    "video with transcripts": _interleaved,
    "conversations": _conversation,
    "json lines": _text,
}
"""In order: the first that knows the path wins."""
