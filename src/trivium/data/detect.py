"""Which format lies at a path: what the commands go by when they are given a path and no config."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trivium.core.config import override
from trivium.core.errors import DataError
from trivium.data.bucket import SourceConfig
from trivium.data.source.episode import EpisodeConfig, EpisodeSource
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.parquet import CaptionColumns, ImageTextConfig, QuestionColumns
from trivium.data.source.source import Source
from trivium.data.source.table import read_schema
from trivium.data.source.text import SUFFIXES, TextConfig

DEPTH = 4
"""How many folders deep `find` looks."""


def detect(path: Path, assignments: Sequence[str] = ()) -> SourceConfig:
    """Return a config that reads the set at `path`, without pictures of robots; `assignments` change its settings.

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
    if isinstance(config, EpisodeConfig) and isinstance(source, EpisodeSource) and source.cameras and not asked:
        return config.replace(views=tuple(source.cameras)).build()
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


DATA_SUFFIXES = (".parquet", *SUFFIXES)
"""A folder that holds files of two formats is no set; each of its files is one."""

RULES: dict[str, Callable[[Path], SourceConfig | None]] = {
    "LeRobot": _lerobot,
    "image-text Parquet": _image_text,
    "json lines": _text,
}
"""In order: the first that knows the path wins."""
