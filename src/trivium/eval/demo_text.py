"""Captions, spatial questions and texts of recorded episodes: staged with each episode, joined at the end."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from trivium.core.files import write_atomic
from trivium.core.rng import numpy_rng
from trivium.eval.demo_settings import EpisodeSettings
from trivium.eval.sim.metaworld import LICENSE
from trivium.eval.sim.task import TaskText
from trivium.synth.caption import caption
from trivium.synth.narration import manual, narration
from trivium.synth.scene import Scene
from trivium.synth.spatial_qa import questions

JPEG_QUALITY = 92
MANUAL_PAGES = 20
"""Pages of the manual a task; each draws three of six sentences and one paraphrase."""
ROWS_PER_FILE = 20_000
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what Hugging Face's Image feature stores
CAPTIONS = pa.schema(
    [("id", pa.string()), ("image", PICTURE), ("caption", pa.string()), ("episode", pa.int64()), ("task", pa.string())]
)
SPATIAL_QA = pa.schema(
    [
        ("id", pa.string()),
        ("image", PICTURE),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("kind", pa.string()),
        ("episode", pa.int64()),
        ("task", pa.string()),
    ]
)


def stage_texts(
    folder: Path,
    key: str,
    scenes: Sequence[Scene],
    frames: np.ndarray,
    settings: EpisodeSettings,
    rng: np.random.Generator,
) -> None:
    """Write captions, questions and the narration of one episode into its staging folder."""
    captions, asked = [], []
    start = int(rng.integers(min(settings.caption_every, len(scenes))))
    for number in range(start, len(scenes), settings.caption_every):
        scene = scenes[number]
        if not (scene.gripper.visible and scene.object.visible):
            continue
        picture = {"bytes": _jpeg(frames[number]), "path": None}
        row = {"image": picture, "task": scene.instruction}
        captions.append(row | {"id": f"{key}/{number}", "caption": caption(scene, rng)})
        for position, question in enumerate(questions(scene, settings.questions, rng)):
            asked.append(row | question.__dict__ | {"id": f"{key}/{number}/{position}"})
    pq.write_table(pa.Table.from_pylist(captions, schema=CAPTIONS), folder / "captions.parquet")
    pq.write_table(pa.Table.from_pylist(asked, schema=SPATIAL_QA), folder / "spatial_qa.parquet")
    (folder / "narration.txt").write_text(narration(scenes, len(scenes) / settings.control_hz, rng))


def write_texts(
    folder: Path, settings: EpisodeSettings, keys: Sequence[str], texts: Sequence[TaskText]
) -> dict[str, int]:
    """Join the texts of these episodes; return the number of captions, questions and documents."""
    counts = {}
    for name, schema in (("captions", CAPTIONS), ("spatial_qa", SPATIAL_QA)):
        tables = []
        for episode, key in enumerate(keys):
            table = pq.read_table(settings.folder / key / f"{name}.parquet", schema=schema)
            column = schema.get_field_index("episode")
            numbers = pa.array(np.full(len(table), episode))
            tables.append(table.set_column(column, schema.field("episode"), numbers))
        counts[name] = _write_rows(folder / name, pa.concat_tables(tables))
    documents = [
        {"id": f"narration/{key}", "text": (settings.folder / key / "narration.txt").read_text()} for key in keys
    ]
    for text in texts:
        rng = numpy_rng(settings.seed, "manual", text.instruction)
        pages = {manual(text.instruction, text.paraphrases, text.object, text.goal, rng) for _ in range(MANUAL_PAGES)}
        documents += [{"id": f"manual/{text.instruction}/{i}", "text": page} for i, page in enumerate(sorted(pages))]
    lines = [json.dumps(document | {"license": LICENSE}) for document in documents]
    write_atomic(folder / "text/corpus.jsonl", "\n".join(lines) + "\n")
    return {"captions": counts["captions"], "questions": counts["spatial_qa"], "documents": len(documents)}


def _write_rows(folder: Path, table: pa.Table) -> int:
    folder.mkdir(parents=True)
    schema = table.schema.with_metadata({"trivium": json.dumps({"license": LICENSE})})
    for number, start in enumerate(range(0, max(len(table), 1), ROWS_PER_FILE)):
        part = table.slice(start, ROWS_PER_FILE).cast(schema)
        pq.write_table(part, folder / f"part-{number:03d}.parquet", row_group_size=256)
    return len(table)


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()
