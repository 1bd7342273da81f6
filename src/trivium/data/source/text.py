"""Text documents from json lines, plain, gzip or zstd, as Dolma writes them."""

from array import array
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Sample, Text
from trivium.data.source.records import Records, text_of
from trivium.data.source.source import Source, digest

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")

Document = tuple[list[str], str, str, str]
"""Pieces of a text, its id, where it comes from, and its licence."""


class TextConfig(Config):
    """Documents in json lines."""

    kind: Literal["text"] = "text"
    path: str
    """A .jsonl file, plain or packed (.gz, .zst), or a folder of them. Packed files are held in memory, up to 4 GiB a
    source: unpack larger ones, plain files stay on the disk."""
    text_field: str = "text"
    """Key of the text in each line."""
    max_chars: int = Field(default=2000, ge=32)
    """Longer documents are cut into pieces of at most so many characters, at a blank where there is one. English has
    about 4 characters a token: choose about 3 times the row length, or pieces are dropped as longer than a row."""
    license: str = "unknown"
    """Licence of documents whose line says none ("license", there or in "metadata")."""

    def build(self) -> "TextSource":
        """Open the files and check every line."""
        return TextSource(self)


class TextSource(Source):
    """One sample a piece of a document; the pieces of a document are one group.

    Every line is read once on opening. Then plain files stay on the disk (28 bytes in memory for a short document, 12
    for each further piece), while .gz and .zst have no random access and are held in memory.
    Format of the lines: Dolma's {id, text, source, added, created, metadata}
    (https://github.com/allenai/dolma/blob/main/docs/data-format.md); all but the text may be missing.

    Raises:
        DataError: a file is not json lines; the text names file and line.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        root = Path(config.path)
        self.name = root.name.split(".")[0]
        self.license = config.license
        self._records = Records(_files(root))
        documents, pieces = array("q"), array("i")
        for i, line in self._records.scan():
            num_pieces = len(self._open(i, line)[0])
            documents.extend([i] * num_pieces)
            pieces.extend(range(num_pieces))
        if not documents:
            raise DataError(str(root), "no documents", "at least one line with text", "Check what wrote the file.")
        self._document, self._piece = np.frombuffer(documents, np.int64), np.frombuffer(pieces, np.int32)
        self._recent: tuple[int, Document] | None = None
        self.fingerprint = digest(config.model_dump(exclude={"path"}), self._records.hash)

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
        """Return piece `i` as a document.

        Raises:
            DataError: the file has changed since it was opened.
        """
        document, piece = int(self._document[i]), int(self._piece[i])
        recent = self._recent  # the pieces of a long document are often read one after the other
        if recent is None or recent[0] != document:
            recent = self._recent = document, self._open(document)
        pieces, name, origin, license_name = recent[1]
        if piece >= len(pieces):
            todo = "Do not change files while they are in use; start again."
            raise DataError(self._records.where(document), f"{len(pieces)} pieces", f"more than {piece}", todo)
        return Sample(
            id=f"{self.name}/{name}/{piece}",
            segments=(Text(text=pieces[piece], role="document"),),
            source=origin,
            license=license_name,
        )

    def _open(self, i: int, line: bytes | None = None) -> Document:
        """Check a line and cut its text."""
        field, where = self.config.text_field, self._records.where
        record = self._records.parse(i, line)
        text = record.get(field)
        if not isinstance(text, str):
            found = f"no text under {field!r} (keys {', '.join(map(str, record))})"
            raise DataError(where(i), found, f"an object with {field!r}", "Correct `text_field`.")
        metadata = record.get("metadata")
        inner = metadata.get("license") if isinstance(metadata, dict) else None
        values = (
            (record.get("id"), i),
            (record.get("source"), self.name),
            (record.get("license"), self.license if inner is None else inner),
        )
        labels = [str(default if value is None else value) for value, default in values]
        if any(text_of(words) is None for words in (text, *labels)):
            raise DataError(where(i), "half a character (a lone surrogate)", "valid Unicode", "Mend that line.")
        return _cut(text, self.config.max_chars), labels[0], labels[1], labels[2]


def _files(root: Path) -> list[Path]:
    if root.is_file() and root.name.endswith(SUFFIXES):
        return [root]
    files = sorted(file for file in root.rglob("*") if file.name.endswith(SUFFIXES)) if root.is_dir() else []
    if not files:
        found = "no such file or folder" if not root.exists() else f"no {' or '.join(SUFFIXES)} in it"
        raise DataError(str(root), found, f"a {' or '.join(SUFFIXES)} file, or a folder of them", "Correct `path`.")
    return files


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
