"""Code as The Stack v2 holds it: files told by repository, issues, pull requests, notebooks."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.rng import key
from trivium.core.sample import Sample, Text
from trivium.data.sentinel import Sentinels
from trivium.data.source.discussion import issue, pull_request
from trivium.data.source.notebook import script, structured
from trivium.data.source.repository import CodeFile, Drawing, cut_lines, pieces
from trivium.data.source.rows import read_rows, row_files
from trivium.data.source.source import Source, digest

COLUMNS = {
    "file": ("repo_name", "path", "content"),
    "issue": ("repo_name", "title", "events"),
    "pull_request": ("repo_name", "title", "author", "description", "base", "events"),
    "notebook": ("repo_name", "path", "content"),
    "script": ("repo_name", "path", "content"),
}
"""What the rows of each kind must have."""
LICENSE = "detected_licenses"
LANGUAGE = "language"


class FileRows(Config):
    """Source files, joined by repository in random order, some with their middle told last."""

    kind: Literal["file"] = "file"
    languages: tuple[str, ...] = ()
    """Keep the files whose `language` is one of these; () keeps all. StarCoder2 3B and 7B took 17."""
    metadata: float = Field(default=0.5, ge=0, le=1)
    """Share of repositories told with their name and paths; StarCoder2 0.5, so that the model can do without."""
    fim: float = Field(default=0.5, ge=0, le=1)
    """Share of repositories with fill-in-the-middle; of the files of such a one half are rearranged, half of these
    suffix first. StarCoder2 0.5; 0 for none."""
    seed: int = Field(default=0, ge=0)
    """Of the order of files and of all draws; the same seed gives the same texts on every machine."""


class DocumentRows(Config):
    """Rows that are documents by themselves: issues, pull requests, notebooks, or notebooks as scripts."""

    kind: Literal["issue", "pull_request", "notebook", "script"]


class CodeConfig(Config):
    """Code in Parquet or json lines, in the forms of StarCoder2."""

    kind: Literal["code"] = "code"
    path: str
    """A .parquet, .jsonl or .jsonl.gz file, or a folder of them, all with the same kind of rows."""
    rows: Annotated[FileRows | DocumentRows, Field(discriminator="kind")] = FileRows()
    """What a row is."""
    columns: Mapping[str, str] = {}
    """Columns that are called otherwise than here: {"content": "text"}. Files and notebooks have repo_name, path,
    content; issues repo_name, title, events; pull requests also author, description, base. detected_licenses (a text
    or a list) may be missing; language may too, unless `languages` asks for it."""
    sentinels: Mapping[str, str] = {}
    """Sentinels spelled otherwise than StarCoder2's, by its names: {"file_sep": "<|file_sep|>"}; what is not named
    keeps its spelling. Spell them as the language model does: those that it has are then one token each, others are
    spelled out, or get an id of their own by `language.sentinels`."""
    max_chars: int = Field(default=12_000, ge=512)
    """Longer documents are cut into pieces of at most so many characters, between files where it can be, else between
    lines. Code has about 3 characters a token: choose below 3 times the row length, or pieces are dropped as longer
    than a row."""
    license: str = "unknown"
    """Licence of rows that do not say."""

    def build(self) -> "CodeSource":
        """Read all rows, check them and tell them."""
        return CodeSource(self)


class CodeSource(Source):
    """One sample a piece of a document; the documents of a repository are one group, so no split cuts one.

    Every draw is keyed by seed, repository and file, so the texts do not depend on the order of rows or on workers.
    The texts are kept in memory as UTF-8. See https://arxiv.org/abs/2402.19173, section 5, for the forms.

    Raises:
        ConfigError: a column or sentinel that there is not.
        DataError: a file or row is broken; the text names it.
    """

    def __init__(self, config: CodeConfig) -> None:
        self.config = config
        root = Path(config.path)
        self.name = root.name.split(".")[0]
        self.license = config.license
        self._sentinels = Sentinels(config.sentinels)
        self._blocks: list[bytes] = []
        self._ids: list[tuple[str, str]] = []
        groups: list[int] = []
        for repo, name, text, license in self._documents(root):
            self._blocks.append(text.encode())
            self._ids.append((name, license))
            groups.append(key(0, "repository", repo))
        if not groups:
            expected = f"at least one row of {config.rows.kind!r}"
            raise DataError(str(root), "no rows", expected, "Check what wrote the files, and `languages`.")
        self._groups = np.asarray(groups, np.int64)
        self.fingerprint = digest(config.model_dump(mode="json", exclude={"path"}), self._ids, *self._blocks)

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._blocks)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return a number for the repository of every piece, made of its name alone."""
        return self._groups

    def peek(self, i: int) -> Sample:
        """Return piece `i`; a text needs no decoding."""
        return self.read(i)

    def read(self, i: int) -> Sample:
        """Return piece `i` as a document."""
        name, license = self._ids[i]
        return Sample(
            id=f"{self.name}/{name}",
            segments=(Text(text=self._blocks[i].decode(), role="document", sentinels=self._sentinels.words),),
            source=self.name,
            license=license,
        )

    def _documents(self, root: Path) -> Iterator[tuple[str, str, str, str]]:
        """Yield repository, name, text and licence of every piece."""
        rows = self.config.rows
        if isinstance(rows, DocumentRows):
            yield from self._single(root, rows)
            return
        drawing = Drawing(
            sentinels=self._sentinels,
            max_chars=self.config.max_chars,
            metadata=rows.metadata,
            fim=rows.fim,
            seed=rows.seed,
        )
        files: dict[str, list[CodeFile]] = defaultdict(list)
        for where, row in self._rows(root):
            if rows.languages and row[LANGUAGE] not in rows.languages:
                continue
            path, content = _words(where, row, "path"), _words(where, row, "content")
            files[_words(where, row, "repo_name")].append(
                CodeFile(path=path, content=content, licenses=self._licenses(where, row), where=where)
            )
        for repo, found in sorted(files.items()):
            for j, piece in enumerate(pieces(drawing, repo, found)):
                licenses = [name for file in piece.files for name in file.licenses]
                yield repo, f"{repo}/{j}", piece.text, _all_of(licenses)

    def _single(self, root: Path, rows: DocumentRows) -> Iterator[tuple[str, str, str, str]]:
        for number, (where, row) in enumerate(self._rows(root)):
            for column in ("repo_name", "path"):
                if column in row:
                    _words(where, row, column)
            if rows.kind == "issue":
                text = issue(self._sentinels, where, row)
            elif rows.kind == "pull_request":
                text = pull_request(self._sentinels, where, row)
            else:
                form = structured if rows.kind == "notebook" else script
                text = form(self._sentinels, where, _words(where, row, "content"))
            _check_characters(where, text)
            license = _all_of(self._licenses(where, row))
            for j, part in enumerate(cut_lines(text, self.config.max_chars)):
                yield row["repo_name"], f"{row['repo_name']}/{number}/{j}", part, license

    def _rows(self, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows of all files under our own names of the columns."""
        rows = self.config.rows
        wanted = COLUMNS[rows.kind] + ((LANGUAGE,) if isinstance(rows, FileRows) and rows.languages else ())
        known, renamed = (*wanted, LICENSE), self.config.columns
        strange = [name for name in renamed if name not in known]
        if strange:
            raise ConfigError("columns", f"a name {strange[0]!r}", f"one of {', '.join(known)}", "Correct it.")
        names = {renamed.get(name, name): name for name in known}
        required = [renamed.get(name, name) for name in wanted]
        for file in row_files(root):
            for where, row in read_rows(file, required, [renamed.get(LICENSE, LICENSE)]):
                yield where, {ours: row[theirs] for theirs, ours in names.items()}

    def _licenses(self, where: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the licences of a row; of a list all hold."""
        value = row[LICENSE]
        found = [value] if isinstance(value, str) else value or []
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise DataError(where, f"{value!r} as licence", "a text or a list of texts", "Correct `columns`.")
        _check_characters(where, "".join(found))
        return tuple(name for name in found if name) or (self.license,)


def _all_of(licenses: Iterable[str]) -> str:
    """Return one SPDX expression that says that all hold."""
    names = sorted(set(licenses))
    return " AND ".join(f"({name})" if " " in name and len(names) > 1 else name for name in names)


def _words(where: str, row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or (not value and column != "content"):
        raise DataError(where, f"{value!r} as {column}", "text", "Correct `columns`, or remove that row.")
    _check_characters(where, value)
    return value


def _check_characters(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(where, f"half a character ({error.reason})", "valid Unicode", "Mend that row.") from error
