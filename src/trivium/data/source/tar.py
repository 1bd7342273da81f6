"""Members of tar files, one header at a time: nothing is ever extracted."""

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from trivium.core.errors import DataError
from trivium.data.source.slices import Slices

BLOCK = 512
MAX_MEMBERS = 50_000_000
MAX_PADDING = 1 << 24
"""Zeros behind the end mark: writers fill blocks of 10 KB."""
MAX_EXTENSION_BYTES = 1 << 16
"""Longest extended header: it holds a name and a size, no more."""
WINDOW = 1 << 16
"""Bytes read at a time while members are small; behind a large one only its neighbour's header is."""
ZERO = bytes(BLOCK)
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"K": "a link with a long name",
    b"S": "a sparse file",
}
TODO = "Write the shard again with plain files only: tar --sort=name --hard-dereference -h -cf SHARD.tar FOLDER"


class Member(NamedTuple):
    """A regular file in a tar file, or the folder it lies in."""

    name: str
    header: int
    """Place of its first header."""
    start: int
    """Place of its first byte."""
    size: int
    time: str
    """When it was written, as the header spells it: all that tells of contents without reading them."""
    folder: bool = False

    @property
    def end(self) -> int:
        """Place of the next header."""
        return self.start + -(-self.size // BLOCK) * BLOCK


class TarFiles:
    """The members of tar files by place: ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU's long names.

    https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06
    Links, devices, sparse files, absolute names and names with '..' are refused: no image set needs them.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._names = [f"{file}: byte" for file in files]
        self._slices = Slices(files)
        self._window = (-1, 0, b"")

    def __getstate__(self) -> dict:
        """Leave the window behind."""
        return {**self.__dict__, "_window": (-1, 0, b"")}

    def members(self, file: int) -> Iterator[Member]:
        """Yield all members of a file in order; only headers are read.

        Raises:
            DataError: a header is broken, something else than a plain file is in it, or the end mark is missing.
        """
        at, size = 0, self._slices.size(file)
        for _ in range(MAX_MEMBERS):
            member = self.member(file, at)
            if member is None:
                self._check_end(file, at, size)
                return
            if member.end > size:
                found = f"{member.name!r} of {member.size:,} bytes in a file that ends after {size - member.start:,}"
                raise DataError(self._where(file, at), found, "a whole tar file", "Copy it again.")
            yield member
            at = member.end
        raise DataError(str(self.files[file]), f"more than {MAX_MEMBERS:,} members", "less", "Split the shard.")

    def member(self, file: int, header: int) -> Member | None:
        """Return the member whose (first) header is at a place; None at the end mark.

        Raises:
            DataError: it is no header, or one of something that is refused.
        """
        at, name, size = header, "", -1
        block, kind, length = ZERO, b"", 0
        for _ in range(4):  # one header of every extended sort, at most, before the member's own
            block = self._header(file, at)
            if block is None and at == header:
                return None
            if block is None:
                raise DataError(self._where(file, at), "no member after an extended header", "one", "Copy it again.")
            kind, length = block[156:157], _number(block[124:136], self._where(file, at))
            if kind not in (b"x", b"g", b"L"):
                break
            if length > MAX_EXTENSION_BYTES:
                found = f"an extended header of {length:,} bytes"
                raise DataError(self._where(file, at), found, f"at most {MAX_EXTENSION_BYTES:,}", TODO)
            body = self._slices.read(file, at + BLOCK, length)
            if kind == b"L":
                name = _text(body.split(b"\0")[0], self._where(file, at))
            else:
                name, size = _extended(body, kind == b"g", name, size, self._where(file, at))
            at += BLOCK + -(-length // BLOCK) * BLOCK
        else:
            raise DataError(self._where(file, at), "a fourth extended header in a row", "a member", TODO)
        where = self._where(file, header)
        name, size = name or _own_name(block, where), length if size < 0 else size
        folder = kind == b"5" or name.endswith("/")
        if kind in REFUSED or kind not in (b"0", b"\0", b"5"):
            raise DataError(where, f"{name!r}, {REFUSED.get(kind, f'of type {kind!r}')}", "a plain file", TODO)
        _check_name(name, where)
        return Member(name, header, at + BLOCK, 0 if folder else size, block[136:148].hex(), folder)

    def read(self, file: int, member: Member) -> bytes:
        """Return the bytes of a member."""
        return self._slices.read(file, member.start, member.size)

    def stream(self, file: int, member: Member) -> BufferedReader:
        """Return a member as a file of its own."""
        return self._slices.stream(file, member.start, member.size)

    def _header(self, file: int, at: int) -> bytes | None:
        """Return a checked header block, None for the end mark."""
        block = self._block(file, at)
        if block == ZERO:
            return None
        where = self._where(file, at)
        if len(block) < BLOCK:
            raise DataError(where, "the end of the file without an end mark", "a whole tar file", "Copy it again.")
        told = _number(block[148:156], where)
        if told != sum(block) - sum(block[148:156]) + 8 * 32:
            packed = block[:2] == b"\x1f\x8b" or block[:4] == b"\x28\xb5\x2f\xfd"
            found = "packed data" if packed else "a header with a wrong checksum"
            raise DataError(where, found, "a plain tar file", "Unpack it." if packed else "Copy it again.")
        return block

    def _block(self, file: int, at: int) -> bytes:
        known, start, data = self._window
        if known == file and start <= at and at + BLOCK <= start + len(data):
            return data[at - start : at - start + BLOCK]
        near = known == file and 0 <= at - start <= 2 * WINDOW
        data = self._slices.some(file, at, WINDOW if near or not at else BLOCK)
        self._window = file, at, data
        return data[:BLOCK]

    def _check_end(self, file: int, at: int, size: int) -> None:
        """Refuse what stands behind the end mark: joined tar files would lose all but the first."""
        rest = self._slices.some(file, at, min(size - at, MAX_PADDING))
        if rest.strip(b"\0") or len(rest) < size - at:
            todo = "Split it: shards were joined with `cat`, or the file is damaged."
            raise DataError(self._where(file, at), "data behind the end mark", "some zeros", todo)

    def _where(self, file: int, at: int) -> str:
        return f"{self._names[file]} {at}"


def _number(field: bytes, where: str) -> int:
    """Return an octal number, or GNU's binary one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not digits and field[0] != 0xFF:
        return 0
    if not digits.isdigit() or max(digits) > ord("7"):
        found = "a negative number" if field[0] == 0xFF else f"{field!r}"
        raise DataError(where, f"{found} in a header", "an octal number", "Copy it again.")
    return int(digits, 8)


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(where, f"a name that is not UTF-8 ({raw[:40]!r})", "UTF-8", TODO) from error


def _own_name(block: bytes, where: str) -> str:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    posix = block[257:263] == b"ustar\0"  # GNU's own format keeps times in the place of the prefix
    return _text(prefix + b"/" + name if posix and prefix else name, where)


def _extended(body: bytes, everywhere: bool, name: str, size: int, where: str) -> tuple[str, int]:
    """Return name and size as pax records give them; what changes neither is passed over."""
    while body.strip(b"\0"):
        count, _, _ = body.partition(b" ")
        length = int(count) if count.isdigit() and len(count) < 8 else 0
        key, equals, value = body[len(count) + 1 : length - 1].partition(b"=")
        if not length or length > len(body) or not equals or body[length - 1 : length] != b"\n":
            raise DataError(where, f"a broken extended header ({body[:40]!r})", "LENGTH KEY=VALUE", "Copy it again.")
        body = body[length:]
        if key.startswith(b"GNU.sparse") or key in (b"linkpath", b"hdrcharset"):
            raise DataError(where, f"{key.decode()!r} in an extended header", "a plain file", TODO)
        if key in (b"path", b"size") and everywhere:
            raise DataError(where, f"one {key.decode()!r} for all members", "one for each", TODO)
        if key == b"path":
            name = _text(value, where)
        if key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise DataError(where, f"size {value[:40]!r}", "a number", "Copy it again.")
            size = int(value)
    return name, size


def _check_name(name: str, where: str) -> None:
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise DataError(where, f"a member named {name[:80]!r}", "a relative name without '..'", TODO)
