"""What a set holds, in a few words: the line of `trivium data ls`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivium.core.sample import Image, Text
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.source import Source


@dataclass(frozen=True)
class Survey:
    """Facts of one set; nothing of it was decoded."""

    path: str
    format: str
    samples: int
    groups: int
    """Episodes, documents or scenes: what never falls on both sides of a split."""
    license: str
    size_bytes: int
    what: str
    """In one line: cameras and dimensions of a robot, or what a sample is made of."""

    def line(self) -> str:
        """Say it all in one line, for a terminal."""
        size = f"{self.size_bytes / 1e6:,.1f} MB"
        return (
            f"    {self.format}: {self.samples:,} samples in {self.groups:,} groups, {size}, "
            f"licence {self.license}\n    {self.what}"
        )


def survey(path: Path, kind: str, source: Source) -> Survey:
    """Sum a set up."""
    return Survey(
        path=str(path),
        format=kind,
        samples=len(source),
        groups=len(np.unique(source.groups())),
        license=source.license,
        size_bytes=_size(path),
        what=_robot(source) if isinstance(source, EpisodeSource) else _segments(source),
    )


def _robot(source: EpisodeSource) -> str:
    views = ", ".join(f"{view} {height}x{width}" for view, (height, width) in source.cameras.items())
    tasks = len(set(source.found.tasks))
    return (
        f"{source.embodiment or 'unnamed robot'}, {source.fps:g} Hz, state {source.found.state.shape[1]}, "
        f"action {source.found.action.shape[1]}, {tasks} task{'s' * (tasks != 1)}, {views or 'no camera'}"
    )


def _segments(source: Source) -> str:
    """Name what the first sample is made of."""
    sample = source.peek(0)
    words: list[str] = []
    for segment in sample.segments:
        if isinstance(segment, Image):
            words.append(f"picture {segment.pixels.shape[0]}x{segment.pixels.shape[1]}")
        else:
            words.append(segment.role if isinstance(segment, Text) else type(segment).__name__.lower())
    return " + ".join(words[:4]) + (f" + {len(words) - 4} more" if len(words) > 4 else "")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
