"""Small LeRobot sets of the old layouts, and with pictures and words inside their Parquet files."""

import io
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as Pillow

FPS = 20
SIZE = 32
TASKS = ("push the block", "open the drawer")
WORD = [("role", pa.string()), ("content", pa.string()), ("style", pa.string())]
MORE = [("camera", pa.string()), ("tool_calls", pa.list_(pa.string()))]


def shade(episode: int, frame: int) -> np.ndarray:
    """One grey level a frame: 40 * episode + 4 * frame, which lossy coding moves by less than 2."""
    return np.full((SIZE, SIZE, 3), 40 * episode + 4 * frame, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def film(path: Path, pictures: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def frame_table(number: int, length: int, begin: int, camera: bool, listed: bool = False) -> pa.Table:
    """Columns of one episode; state = (frame, 0.5), action = 1000 * episode + frame."""
    frame = np.arange(length)
    rows = [[float(f), 0.5] for f in frame]
    state = pa.array(rows, pa.list_(pa.float32()) if listed else pa.list_(pa.float32(), 2))
    columns = {
        "observation.state": state,
        "action": pa.array([[1000.0 * number + f, 0.0] for f in frame], pa.list_(pa.float64())),
        "timestamp": pa.array(frame / FPS, pa.float32()),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(length, number)),
        "index": pa.array(frame + begin),
        "task_index": pa.array(np.full(length, number % 2)),
    }
    if camera:
        cells = [{"bytes": png(shade(number, f)), "path": None} for f in frame.tolist()]
        columns["observation.images.eye"] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.table(columns)


def about(version: str, lengths: dict[int, int], camera: str) -> dict:
    eye = {"dtype": camera, "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channel"]}
    v3 = version == "v3.0"
    folder, file = ("chunk_index", "file-{file_index:03d}") if v3 else ("episode_chunk", "episode_{episode_index:06d}")
    chunk = f"chunk-{{{folder}:03d}}"
    return {
        "codebase_version": version,
        "robot_type": "toy",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths.values()),
        "chunks_size": 1000 if v3 else 2,
        "data_path": f"data/{chunk}/{file}.parquet",
        "video_path": f"videos/{{video_key}}/{chunk}/{file}.mp4" if v3 else f"videos/{chunk}/{{video_key}}/{file}.mp4",
        "features": {
            "observation.images.eye": eye,
            "observation.state": {"dtype": "float32", "shape": [2], "names": None},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        },
    }


def write_v2(root: Path, version: str = "v2.1", lengths: tuple[int, ...] = (5, 7, 3), camera: str = "video") -> Path:
    """Write a set with a file an episode, two episodes a folder."""
    numbered = dict(enumerate(lengths))
    write_json(root / "meta/info.json", about(version, numbered, camera))
    lines = [{"episode_index": n, "tasks": [TASKS[n % 2]], "length": length} for n, length in numbered.items()]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"task_index": j, "task": task} for j, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    begin = 0
    for n, length in numbered.items():
        path = root / f"data/chunk-{n // 2:03d}/episode_{n:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(frame_table(n, length, begin, camera == "image", listed=n == 1), path, row_group_size=4)
        if camera == "video":
            video = root / f"videos/chunk-{n // 2:03d}/observation.images.eye/episode_{n:06d}.mp4"
            film(video, [shade(n, f) for f in range(length)])
        begin += length
    return root


def write_v3(root: Path, files: tuple[tuple[int, ...], ...] = ((5, 7), (3,)), first_file: int = 0) -> Path:
    """Write a set with pictures in Parquet: lengths of episodes by file."""
    lengths = dict(enumerate(length for file in files for length in file))
    write_json(root / "meta/info.json", about("v3.0", lengths, "image"))
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table({"task_index": [0, 1], "task": list(TASKS)}), root / "meta/tasks.parquet")
    rows, begin, n = [], 0, 0
    for number, file in enumerate(files, first_file):
        tables = []
        for length in file:
            tables.append(frame_table(n, length, begin, camera=True))
            row = {"episode_index": n, "length": length, "dataset_from_index": begin}
            row |= {"dataset_to_index": begin + length, "data/chunk_index": 0, "data/file_index": number}
            rows.append(row)
            begin, n = begin + length, n + 1
        pq.write_table(pa.concat_tables(tables), root / f"data/chunk-000/file-{number:03d}.parquet", row_group_size=4)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_column(path: Path, name: str, cells: pa.Array) -> None:
    """Replace or add one column of a Parquet file, its row groups kept small."""
    table = pq.read_table(path)
    at = table.column_names.index(name) if name in table.column_names else None
    table = table.append_column(name, cells) if at is None else table.set_column(at, name, cells)
    pq.write_table(table, path, row_group_size=4)


def set_cell(path: Path, name: str, row: int, value: object) -> None:
    column = pq.read_table(path, columns=[name])[name]
    cells = column.to_pylist()
    cells[row] = value
    set_column(path, name, pa.array(cells, column.type))


def word(text: str | None, style: str | None, role: str = "assistant", **more: object) -> dict:
    return {"role": role, "content": text, "style": style, "camera": None, "tool_calls": None} | more


def add_words(path: Path, lasting: list[list[dict]], events: list[list[dict]]) -> None:
    """Add the two language columns, as lerobot writes them in 2026."""
    times = [("timestamp", pa.float32())]
    set_column(path, "language_persistent", pa.array(lasting, pa.list_(pa.struct([*WORD, *times, *MORE]))))
    set_column(path, "language_events", pa.array(events, pa.list_(pa.struct([*WORD, *MORE]))))


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
