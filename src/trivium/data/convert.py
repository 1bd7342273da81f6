"""Writing any set in a plain format: episodes as LeRobot v3.0, captions and questions as Parquet, text as jsonl."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.files import lock_folder, publish_folder
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.data.source.episode import EpisodeSource
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_write import Episode, LeRobotWriter
from trivium.data.source.source import Source

ROWS_PER_GROUP = 256
"""Pictures in one row group of Parquet: what a reader loads at a time."""

Progress = Callable[[int], None]


def convert(source: Source, out: Path, progress: Progress = lambda done: None) -> str:
    """Write a set anew at `out` and return the name of the format; an interrupted conversion of episodes goes on.

    Robot episodes lose what LeRobot has no place for: nothing else. Pictures become JPEG-like video (H.264), so
    pixels change a little; numbers do not.

    Args:
        source: what to write; an episode source must have been opened with every view that shall be kept.
        out: a new folder.
        progress: called with the number of samples done.

    Raises:
        DataError: `out` is not new, or samples are of a sort that none of the three formats holds.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise DataError(str(out), "something there already", "a new folder", "Give another folder, or remove it.")
    if isinstance(source, EpisodeSource):
        _episodes(source, out, progress)
        return "LeRobot v3.0"
    first = source.peek(0)
    if not first.of(Image) and len(first.of(Text)) == 1:
        publish_folder(out, lambda folder: _lines(source, folder, progress))
        return "json lines"
    _roles(first)
    publish_folder(out, lambda folder: _pictures(source, folder, progress))
    return "image-text Parquet"


def _episodes(source: EpisodeSource, out: Path, progress: Progress) -> None:
    if source.fps != int(source.fps):
        raise DataError(f"set {source.name}", f"{source.fps:g} frames a second", "a whole number", "Set rate_hz=...")
    found = source.found
    columns = {"observation.state": found.state_names, "action": found.action_names}
    columns |= {
        f"truth.{name}": tuple(f"{name}.{j}" for j in range(values.reshape(len(values), -1).shape[1]))
        for name, values in found.truth.items()
    }
    spec = SetSpec(
        fps=int(source.fps),
        robot_type=source.embodiment,
        views={view: source.cameras[view] for view in source.config.views},
        columns=columns,
        license=source.license,
    )
    staging = out.with_name(f".{out.name}.converting")
    staging.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(staging):
        writer = LeRobotWriter(staging / source.fingerprint, spec)
        done = set(writer.keys())
        keys = [f"{e:08d}" for e in range(len(found.end))]
        for e, key in enumerate(keys):
            if key not in done:
                writer.add(key, _episode(source, e))
            progress(int(found.end[e]))
        publish_folder(out, lambda folder: writer.fill(folder, keys))
    shutil.rmtree(staging)


def _episode(source: EpisodeSource, e: int) -> Episode:
    begin, end = int(source.found.begin[e]), int(source.found.end[e])
    tasks = {source.task(i) for i in range(begin, end)}
    if len(tasks) > 1:
        raise DataError(
            f"set {source.name}: episode {source.found.number[e]}",
            f"{len(tasks)} task sentences",
            "one sentence an episode",
            "Cut the episode where its task changes.",
        )
    samples = [source.read(i) for i in range(begin, end)]
    columns = {
        "observation.state": np.stack([sample.of(State)[0].values for sample in samples]),
        "action": np.stack([sample.of(Action)[0].values[0] for sample in samples]),
    }
    columns |= {
        f"truth.{name}": values[begin:end].reshape(end - begin, -1).astype(np.float32)
        for name, values in source.found.truth.items()
    }
    views = source.config.views
    frames = {
        view: np.stack([next(image for image in sample.of(Image) if image.view == view).pixels for sample in samples])
        for view in views
    }
    return Episode(task=tasks.pop(), columns=columns, frames=frames)


def _lines(source: Source, folder: Path, progress: Progress) -> None:
    with (folder / "documents.jsonl").open("w") as file:
        for i in range(len(source)):
            sample = source.read(i)
            record = {
                "id": sample.id,
                "text": "\n".join(text.text for text in sample.of(Text)),
                "source": sample.source,
                "license": sample.license,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            progress(i + 1)


def _pictures(source: Source, folder: Path, progress: Progress) -> None:
    roles = _roles(source.peek(0))
    names = ["image", *roles, "group"]
    schema = pa.schema([("image", pa.binary()), *((role, pa.string()) for role in roles), ("group", pa.int64())])
    groups = source.groups()
    with pq.ParquetWriter(folder / "part-000.parquet", schema) as writer:
        rows: list[tuple] = []
        for i in range(len(source)):
            sample = source.read(i)
            if _roles(sample) != roles:
                raise DataError(f"sample {sample.id}", f"words {_roles(sample)}", f"{roles}", "Convert those apart.")
            words = [text.text for text in sample.of(Text)]
            rows.append((_encode(sample.of(Image)[0].pixels), *words, int(groups[i])))
            if len(rows) == ROWS_PER_GROUP or i + 1 == len(source):
                columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
                writer.write_table(pa.table(columns, schema=schema))
                rows = []
            progress(i + 1)


def _roles(sample: Sample) -> tuple[str, ...]:
    """Return the roles of the words beside the one picture of a sample."""
    roles = tuple(text.role for text in sample.of(Text))
    others = [s for s in sample.segments if not isinstance(s, Text)]
    if roles not in (("caption",), ("question", "answer")) or len(others) != 1 or not isinstance(others[0], Image):
        parts = [s.role if isinstance(s, Text) else type(s).__name__.lower() for s in sample.segments]
        raise DataError(
            f"sample {sample.id}",
            " + ".join(parts),
            "one picture with a caption or with a question and its answer, one text, or robot episodes",
            "This format has no plainer one to be converted to; train on it as it is.",
        )
    return roles


def _encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
