"""Words that a LeRobot folder keeps beside its frames: subtasks and plans that hold for a while, events of one frame.

Format: https://github.com/huggingface/lerobot/blob/main/docs/source/language_and_recipes.mdx. A persistent row holds
from its own time until the next of its style; all rows stand in every frame of the episode. An event stands in the
frame that it belongs to. We differ: styles are not a closed list, and tool calls are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from trivium.core.errors import DataError
from trivium.core.sample import Role, Text
from trivium.data.source.lerobot_episodes import Episodes
from trivium.data.source.table import BROKEN, broken_table, open_table

COLUMNS = ("language_persistent", "language_events")
ROWS_AT_ONCE = 1024
MAX_WORDS = 1 << 20
"""Characters of one text."""
LATE_S = 1e-4
"""By this much a row may be later than the frame and still hold: times are float32."""


@dataclass(frozen=True)
class Word:
    """One row of a language column."""

    time_s: float
    """From the start of the episode; 0 for events, which stand in their frame."""
    style: str
    role: str
    camera: str
    text: str


@dataclass(frozen=True, eq=False)
class Language:
    """The words of a set that were asked for."""

    lasting: dict[int, tuple[Word, ...]] = field(default_factory=dict)
    """Of each episode, by its place in the table of episodes, in order of time."""
    events: dict[int, tuple[Word, ...]] = field(default_factory=dict)
    """Of each frame of the set that has some."""

    def at(self, styles: Sequence[str], place: int, row: int, time_s: float, cameras: Sequence[str]) -> list[Word]:
        """Return what holds at one frame: for each style the rows that came last, then the events of that frame.

        Words about a camera that is not among `cameras` are left out: who sees no picture of it cannot understand them.
        """
        found: list[Word] = []
        for style in styles:
            begun = [w for w in self.lasting.get(place, ()) if w.style == style and w.time_s <= time_s + LATE_S]
            found += [word for word in begun if word.time_s == begun[-1].time_s]
            found += [word for word in self.events.get(row, ()) if word.style == style]
        return [word for word in found if not word.camera or word.camera in cameras]


def segment(word: Word, time_s: float) -> Text:
    """Return a row as a segment: what the assistant says is learned as an answer, what the user says is not."""
    role: Role = "answer" if word.role == "assistant" else "question"
    return Text(text=word.text, role=role, time_s=time_s)


def read_language(
    files: Sequence[Path], first: Int[np.ndarray, " f"], episodes: Episodes, styles: Sequence[str]
) -> Language:
    """Read the words of some styles from all data files, a thousand frames at a time.

    Raises:
        DataError: the set has no language columns, broken ones, or no word of a style that was asked for; or the
            lasting words of one frame are not those of its episode.
    """
    language = Language()
    for path, row in zip(files, first.tolist(), strict=True):
        file = open_table(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        if not columns:
            raise DataError(
                str(path), "no language columns", f"one of {', '.join(COLUMNS)}", "Set `language` to () for this set."
            )
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
                _take(path, batch, row, episodes, styles, language)
                row += len(batch)
        except BROKEN as error:
            raise broken_table(path, error) from error
    found = {word.style for words in (*language.lasting.values(), *language.events.values()) for word in words}
    for style in styles:
        if style not in found:
            raise DataError(
                str(files[0].parent),
                f"no words of style {style!r}",
                "that style",
                "Correct `language`, or leave it out.",
            )
    return language


def _take(
    path: Path, batch: pa.RecordBatch, row: int, episodes: Episodes, styles: Sequence[str], into: Language
) -> None:
    place = np.searchsorted(episodes.end, np.arange(row, row + len(batch)), side="right")
    last: tuple[object, list[Word]] = (None, [])
    for name in batch.schema.names:
        cells = batch.column(name)
        if not pa.types.is_list(cells.type) and not pa.types.is_large_list(cells.type):
            raise DataError(f"{path}: column {name}", f"type {cells.type}", "lists of rows with style and content", "")
        for j in range(len(batch)):
            e, frame = int(place[j]), row + j - int(episodes.begin[place[j]])
            cell = cells[j]
            if not cell.is_valid or not len(cell):
                words = []
            elif last[0] is not None and cell.values.equals(last[0]):
                words = last[1]
            else:
                where = f"{path}: episode {episodes.number[e]}, frame {frame}, {name}"
                words = [_word(where, item, name == COLUMNS[0]) for item in cell.as_py()]
                last = cell.values, words
            wanted = tuple(sorted((word for word in words if word.style in styles), key=lambda word: word.time_s))
            if name == COLUMNS[1]:
                into.events.update({row + j: wanted} if wanted else {})
            elif into.lasting.setdefault(e, wanted) != wanted:
                raise DataError(
                    f"{path}: episode {episodes.number[e]}, frame {frame}",
                    f"{name} that differs from the frames before",
                    "the same rows in every frame of an episode",
                    "Write the language columns again.",
                )


def _word(where: str, item: object, lasting: bool) -> Word:
    row = item if isinstance(item, dict) else {}
    style, text, time_s = row.get("style"), row.get("content"), row.get("timestamp") if lasting else 0.0
    texts = [row.get(name) or "" for name in ("style", "role", "camera", "content")]
    good = all(isinstance(value, str) and len(value) <= MAX_WORDS for value in texts)
    if not good or not isinstance(time_s, float) or not np.isfinite(time_s) or (style and text and not row.get("role")):
        raise DataError(where, str(item)[:100], "style, role, content and a time", "Write the language columns again.")
    style, role, camera, text = texts
    return Word(time_s, style if text else "", role, camera, text)  # a tool call has no content: no style finds it
