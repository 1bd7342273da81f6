"""Zarr stores of strangers, versions 2 and 3, in folders and .zip files; no chunk may unpack to more than it declares.

Formats: https://zarr-specs.readthedocs.io. Read here and not with the zarr package, which decodes with whatever codec a
store names, trusts its sizes, and runs a thread that a fork would lose. A chunk that is not there is an error: the
format means its fill value, but so looks a copy that lost files.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from trivium.core.errors import DataError

MAX_FILE = 1 << 28
TODO = "Copy the set again."


class Store:
    """Files by key ("data/action/0.0"), from a folder or a .zip file.

    Raises:
        DataError: there is no such thing, or a name in the .zip file leads out of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, str] = {}
        """In a .zip file: its own name of each key."""
        self._zip: zipfile.ZipFile | None = None
        self._process = os.getpid()
        if root.is_dir():
            return
        if not root.is_file():
            raise DataError(
                str(root), "no such file or folder", "a Zarr folder or a .zip file of one", "Correct `path`."
            )
        self._names = self._list()

    def __getstate__(self) -> dict:
        """Leave the open file behind: another process opens its own."""
        return {**self.__dict__, "_zip": None}

    def size(self, key: str) -> int | None:
        """Return the number of bytes under a key, or None where there is nothing.

        Raises:
            DataError: a link, or something larger than any chunk should be.
        """
        if self._names:
            found = self._archive().getinfo(self._names[key]).file_size if key in self._names else None
        else:
            found = self._in_folder(key)
        if found is not None and found > MAX_FILE:
            raise DataError(f"{self.root}: {key}", f"{found:,} bytes", f"at most {MAX_FILE:,}", "Write smaller chunks.")
        return found

    def get(self, key: str, limit: int = MAX_FILE) -> bytes | None:
        """Return what is under a key, or None where there is nothing.

        Raises:
            DataError: it cannot be read, or has more bytes than `limit`.
        """
        size = self.size(key)
        if size is None:
            return None
        if size > limit:
            raise DataError(f"{self.root}: {key}", f"{size:,} bytes", f"at most {limit:,}", TODO)
        try:
            if not self._names:
                with (self.root / key).open("rb") as file:
                    return file.read(limit)
            with self._archive().open(self._names[key]) as member:
                return member.read(size)  # zipfile stops at the declared size and compares the checksum there
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, struct.error) as error:
            raise DataError(
                f"{self.root}: {key}", f"a file that cannot be read ({error})", "a whole one", TODO
            ) from error

    def children(self, key: str) -> list[str]:
        """Return the names of the arrays and groups in a group."""
        if self._names:
            inside = {name[len(key) + 1 :].split("/", 1)[0] for name in self._names if name.startswith(f"{key}/")}
        else:
            folder = self.root / key
            inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        return sorted(name for name in inside if not name.startswith(".") and name != "zarr.json")

    def _in_folder(self, key: str) -> int | None:
        path = self.root
        try:
            for part in key.split("/"):
                path = path / part
                about = path.lstat()
                if stat.S_ISLNK(about.st_mode):
                    raise DataError(f"{self.root}: {key}", f"a link at {path.name}", "files of this set", TODO)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.root}: {key}", f"a file that cannot be read ({error})", "a whole one", TODO
            ) from error
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._process != os.getpid():
            # One that came through a fork shares its file position with the parent: leave it alone.
            try:
                self._zip, self._process = zipfile.ZipFile(self.root), os.getpid()
            except (OSError, zipfile.BadZipFile, ValueError, EOFError, struct.error, NotImplementedError) as error:
                raise DataError(
                    str(self.root), f"no whole .zip file ({error})", "one of a Zarr folder", TODO
                ) from error
        return self._zip

    def _list(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for info in self._archive().infolist():
            name = info.filename
            if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name or "\0" in name:
                raise DataError(str(self.root), f"a member named {name!r}", "names inside the set", TODO)
            if info.flag_bits & 1 or stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{self.root}: {name}", "an encrypted member or a link", "plain files", TODO)
            if name in found:
                raise DataError(f"{self.root}: {name}", "that name twice", "every name once", TODO)
            if not name.endswith("/"):
                found[name] = name
        return _without_folder(found)


def _without_folder(names: dict[str, str]) -> dict[str, str]:
    """Leave out the folder around everything that `zip -r set.zip set.zarr` adds."""
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) == 1:
        top = tops.pop()
        if names.keys() & {f"{top}/{marker}" for marker in (".zgroup", ".zattrs", ".zmetadata", "zarr.json")}:
            return {key.split("/", 1)[1]: name for key, name in names.items() if "/" in key}
    return names


def is_name(name: str) -> bool:
    """Tell whether a name is that of one array: nothing that leads elsewhere."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*", name) is not None
