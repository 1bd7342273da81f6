"""The files of a repository as documents of bounded length, and the way back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trivium.core.errors import DataError
from trivium.core.rng import numpy_rng
from trivium.data.sentinel import Sentinels
from trivium.data.source.fim import fill, overhead, unfill

MIN_ROOM = 64
"""Characters of code that must fit beside names and sentinels."""


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """One file of a repository."""

    path: str
    content: str
    licenses: tuple[str, ...] = ()
    where: str = ""
    """The row it came from, for errors."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A document, or a part of one: its text and which of the repository's files are in it."""

    text: str
    files: tuple[CodeFile, ...]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How repositories are told; every draw is keyed by the seed and by what is drawn for."""

    sentinels: Sentinels
    max_chars: int
    metadata: float
    fim: float
    seed: int


def pieces(drawing: Drawing, repo: str, files: Sequence[CodeFile]) -> Iterator[Piece]:
    r"""Tell a repository as StarCoder2 does (section 5.1): files in random order, cut into pieces.

    `<repo_name>NAME<file_sep>PATH\nCODE<file_sep>PATH\nCODE<|endoftext|>`, or without name and paths
    `<file_sep>CODE<file_sep>CODE<|endoftext|>`. A piece is cut between files; a file longer than a piece is cut
    between lines, and only a line longer than a piece within. Every piece begins with the name of the repository and
    every part of a file with its path; only the last piece ends the text.

    Args:
        drawing: words, shares and seed.
        repo: name of the repository.
        files: all its files, in any order.

    Raises:
        DataError: a name or a path leaves no room for code, or has a line break in it.
    """
    s = drawing.sentinels
    coins = numpy_rng(drawing.seed, "repository", repo)
    named, chosen = coins.random(2) < (drawing.metadata, drawing.fim)
    start = s["repo_name"] + s.escape(repo) if named else ""
    size = drawing.max_chars - len(start) - len(s["endoftext"])
    text, inside = start, []
    ordered = sorted(files, key=lambda file: (file.path, file.content))
    for place in coins.permutation(len(ordered)):
        file = ordered[place]
        path = _head(s, file)
        head = path if named else ""
        room = size - len(head) - len(s["file_sep"]) - (overhead(s) if chosen else 0)
        if room < MIN_ROOM:
            raise DataError(
                file.where or f"repository {repo}",
                f"names and sentinels that leave {max(room, 0)} of {drawing.max_chars} characters for code",
                f"at least {MIN_ROOM}",
                "Raise `max_chars`, or shorten that name.",
            )
        for j, part in enumerate(_parts(s, file.content, room)):
            code = s.escape(part)
            told = fill(s, head, code, numpy_rng(drawing.seed, "fim", repo, file.path, j)) if chosen else head + code
            code = s["file_sep"] + told
            if inside and len(text) + len(code) > drawing.max_chars - len(s["endoftext"]):
                yield Piece(text=text, files=tuple(inside))
                text, inside = start, []
            text += code
            inside.append(file)
    yield Piece(text=text + s["endoftext"], files=tuple(inside))


def unpack(sentinels: Sentinels, text: str) -> tuple[str | None, list[tuple[str | None, str]]]:
    """Undo `pieces` for one text: the repository and its (path, code), None where metadata was left out."""
    s = sentinels
    opening, *chunks = text.removesuffix(s["endoftext"]).split(s["file_sep"])
    if not opening:
        return None, [(None, s.unescape(unfill(s, chunk))) for chunk in chunks]
    told = [unfill(s, chunk).partition("\n") for chunk in chunks]
    files: list[tuple[str | None, str]] = [(s.unescape(path), s.unescape(code)) for path, _, code in told]
    return s.unescape(opening.removeprefix(s["repo_name"])), files


def cut_lines(text: str, size: int) -> Iterator[str]:
    """Cut a text behind line breaks into parts of at most `size` characters; longer lines are cut within.

    The parts laid end to end are the text; an empty text is one empty part.
    """
    begin = 0
    while len(text) - begin > size:
        end = text.rfind("\n", begin, begin + size) + 1
        end = end if end > begin else begin + size
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _parts(sentinels: Sentinels, code: str, room: int) -> Iterator[str]:
    """Cut a file so that every part fits once it is escaped. The raw file is cut: half an escape is none."""
    for part in cut_lines(code, room):
        excess = len(sentinels.escape(part)) - room
        # Each escape adds one character to at least three, so this ends.
        yield from [part] if excess <= 0 else _parts(sentinels, part, max(len(part) - max(excess, len(part) // 4), 1))


def _head(sentinels: Sentinels, file: CodeFile) -> str:
    if "\n" in file.path:
        raise DataError(file.where, f"a line break in the path {file.path!r}", "a path", "Correct or remove that row.")
    return sentinels.escape(file.path) + "\n"
