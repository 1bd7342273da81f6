"""Text documents from json lines, plain or gzip: {"text": ...}, with Dolma's "id" and "source" where given."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Sample, Text
from trivium.data.source.source import Source, digest

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz")
MAX_FILE_BYTES = 4 << 30
"""Largest unpacked file: gzip packs zeros 1,000 to 1, so a small file may be a bomb."""


class TextConfig(Config):
    """Documents in json lines."""

    kind: Literal["text"] = "text"
    path: str
    """A .jsonl or .jsonl.gz file, or a folder of them."""
    text_field: str = "text"
    """Key of the text in each line."""
    max_chars: int = Field(default=2000, ge=32)
    """Longer documents are cut into pieces of at most so many characters, at a blank where there is one. English has
    about 4 characters a token: choose about 3 times the row length, or pieces are dropped as longer than a row."""
    license: str = "unknown"
    """Licence of documents whose line does not say ("license")."""

    def build(self) -> "TextSource":
        """Open the files and check every line."""
        return TextSource(self)


class TextSource(Source):
    """One sample a piece of a document; the pieces of a document are one group.

    The texts are kept in memory as UTF-8; larger corpora than memory come with shards on disk.

    Raises:
        DataError: a file is not json lines; the text names file and line.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        root = Path(config.path)
        self.name = root.name.split(".")[0]
        self.license = config.license
        self._blocks: list[bytes] = []
        self._labels: list[tuple[str, str, str]] = []
        documents: list[int] = []
        pieces: list[int] = []
        for file in _files(root):
            for number, line in enumerate(_lines(file), start=1):
                if line.strip():
                    self._add(f"{file}: line {number}", line, documents, pieces)
        if not documents:
            raise DataError(str(root), "no documents", "at least one line with text", "Check what wrote the file.")
        self._document, self._piece = np.asarray(documents, np.int64), np.asarray(pieces, np.int64)
        self.fingerprint = digest(config.model_dump(exclude={"path"}), self._labels, *self._blocks)

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._document)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return the document of every piece."""
        return self._document

    def peek(self, i: int) -> Sample:
        """Return piece `i`; a text needs no decoding."""
        return self.read(i)

    def read(self, i: int) -> Sample:
        """Return piece `i` as a document."""
        name, origin, license_name = self._labels[self._document[i]]
        return Sample(
            id=f"{self.name}/{name}/{self._piece[i]}",
            segments=(Text(text=self._blocks[i].decode(), role="document"),),
            source=origin,
            license=license_name,
        )

    def _add(self, where: str, line: bytes, documents: list[int], pieces: list[int]) -> None:
        """Check a line and keep its pieces."""
        field = self.config.text_field
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                where, f"broken JSON ({error})", "one JSON object a line", "Mend or delete that line."
            ) from error
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            found = f"keys {', '.join(map(str, record))}" if isinstance(record, dict) else type(record).__name__
            raise DataError(
                where, f"no text under {field!r} ({found})", f"an object with {field!r}", "Correct `text_field`."
            )
        try:
            blocks = [piece.encode() for piece in _cut(text, self.config.max_chars)]
        except UnicodeEncodeError as error:
            raise DataError(where, f"half a character ({error.reason})", "valid Unicode", "Mend that line.") from error
        document = len(self._labels)
        label = str(record.get("id", document)), str(record.get("source", self.name))
        self._labels.append((*label, str(record.get("license", self.license))))
        self._blocks += blocks
        documents += [document] * len(blocks)
        pieces += range(len(blocks))


def _files(root: Path) -> list[Path]:
    if root.is_file() and root.name.endswith(SUFFIXES):
        return [root]
    files = sorted(file for file in root.rglob("*") if file.name.endswith(SUFFIXES)) if root.is_dir() else []
    if not files:
        found = "no such file or folder" if not root.exists() else f"no {' or '.join(SUFFIXES)} in it"
        raise DataError(str(root), found, "a .jsonl or .jsonl.gz file, or a folder of them", "Correct `path`.")
    return files


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked, and never more than the limit."""
    read = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            while line := stream.readline(MAX_FILE_BYTES - read + 1):
                read += len(line)
                if read > MAX_FILE_BYTES:
                    raise DataError(
                        str(file),
                        f"more than {MAX_FILE_BYTES:,} bytes unpacked",
                        "less",
                        "Split it into several files.",
                    )
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(str(file), f"broken gzip ({error})", "a whole file", "Copy it again.") from error


def _cut(text: str, size: int) -> list[str]:
    """Cut a text at blanks into pieces of at most `size` characters; empty ones vanish."""
    pieces = []
    while len(text) > size:
        end = text.rfind(" ", size // 2, size)
        end = size if end < 0 else end
        pieces.append(text[:end].strip())
        text = text[end:]
    pieces.append(text.strip())
    return [piece for piece in pieces if piece]
