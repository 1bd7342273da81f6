"""WebDataset: pictures and their words as neighbours in tar files, read at random places."""

import hashlib
import io
import os
import re
import struct
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample, Segment, Text
from trivium.data.source.picture import MAX_BYTES, Encoded, decode, outline
from trivium.data.source.records import parse_object, text_of
from trivium.data.source.source import Source, digest
from trivium.data.source.tar import Member, TarFiles
from trivium.data.source.turns import check_turns, lay_turns

PICTURES = ("jpg", "jpeg", "png", "webp")
CODE = ("pyd", "pkl", "pickle", "pth", "pt", "ckpt", "joblib", "dill")
"""Endings of pickles: loading one runs whatever its writer wished, so a shard with one is not to be trusted."""
UNPACK = {
    ".gz": "gunzip",
    ".tgz": "gunzip",
    ".zst": "zstd -d --rm",
    ".tzst": "zstd -d --rm",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".lz4": "lz4 -d --rm",
}
SUFFIXES = (".tar", ".tgz", ".tzst", *(f".tar{ending}" for ending in UNPACK))
MAX_WORDS_BYTES = 1 << 24
MAX_SHARDS = 1_000_000
BRACES = re.compile(r"\{([^{}]*)\}")


class PlainMember(Config):
    """The words of a picture are the text of a member."""

    kind: Literal["plain"] = "plain"
    extension: str = "txt"
    """Ending of the member that holds the caption: "txt" or "caption"."""


class JsonMember(Config):
    """The words of a picture stand in a JSON member (`.json`)."""

    kind: Literal["json"] = "json"
    key: str = "caption"
    """Key of a caption (text), or of a conversation (LLaVA's list of turns)."""


class WebDatasetConfig(Config):
    """Pictures with words in tar shards."""

    kind: Literal["webdataset"] = "webdataset"
    path: str
    """A .tar file, a folder of them, or a pattern such as "cc12m/{00000..01242}.tar". Packed shards are refused: they
    have no random access."""
    words: Annotated[PlainMember | JsonMember, Field(discriminator="kind")] = PlainMember()
    """Which member holds words."""
    group: Literal["sample", "shard"] = "sample"
    """What stays together on one side of a split; "shard" where a shard holds one scene or one film."""
    license: str = "unknown"
    """Licence of the whole set."""

    def build(self) -> "WebDataset":
        """Open the shards and walk over their headers."""
        return WebDataset(self)


class WebDataset(Source):
    """One sample a key: neighbours in a shard whose names are equal up to the first dot of the last part.

    Format: https://github.com/webdataset/webdataset. We differ: nothing is ever unpickled, and a shard that holds
    pickles (.pyd, .pkl, .pth, or .npy of objects), links or a member twice is refused. Members that are neither the
    picture nor its words (.cls, .npy) are left where they are and counted in `ignored`.
    Opening reads headers only; 24 bytes in memory a sample, names are read again from the shard. The fingerprint holds
    names, sizes and times of the members, not what they say.

    Raises:
        DataError: a shard is packed, damaged or not to be trusted; the text names shard and place.
    """

    def __init__(self, config: WebDatasetConfig) -> None:
        self.config = config
        self.license = config.license
        self.ignored: Counter[str] = Counter()
        shards = find_shards(config.path)
        top = Path(os.path.commonpath([shard.parent for shard in shards]))
        self._labels = [shard.relative_to(top).with_suffix("").as_posix() for shard in shards]
        self.name = Path(config.path).name.split(".")[0].split("{")[0].rstrip("-_") or top.name
        self._tars = TarFiles(shards)
        self._picture, self._words, self._key = array("q"), array("q"), array("q")
        self._ends: list[int] = []
        state = hashlib.blake2b(digest_size=8)
        for f in range(len(shards)):
            self._index(f, state.update)
            self._ends.append(len(self._picture))
        if not len(self._picture):
            found = f"no samples in {len(shards)} shards"
            raise DataError(config.path, found, "members such as 000.jpg and 000.txt", "Look at `tar -tf SHARD`.")
        self._groups = np.frombuffer(self._key, np.int64)
        self.fingerprint = digest(config.model_dump(exclude={"path"}), self._labels, state.hexdigest())

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._picture)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return one id a key or one a shard, as the config says: hashes, so that new shards never move old ones."""
        return self._groups

    def peek(self, i: int) -> Sample:
        """Return sample `i` with a blank picture: its words and the header of the picture are read.

        Raises:
            DataError: no picture, one that is too large, or no words.
        """
        return self._sample(i, outline)

    def read(self, i: int) -> Sample:
        """Return sample `i`.

        Raises:
            DataError: a broken picture, one that is too large, or no words.
        """
        return self._sample(i, decode)

    def _sample(self, i: int, open_picture: Callable[[Encoded, str], UInt8[np.ndarray, "_ _ 3"]]) -> Sample:
        f = bisect_right(self._ends, i)
        picture, words = self._again(f, self._picture[i]), self._again(f, self._words[i])
        where = f"{self._tars.files[f]}: {picture.name}"
        image = Image(pixels=open_picture(self._tars.stream(f, picture), where))
        return Sample(
            id=f"{self.name}/{self._labels[f]}/{_split(picture.name)[0]}",
            segments=self._talk(self._tars.read(f, words), image, f"{self._tars.files[f]}: {words.name}"),
            source=self.name,
            license=self.license,
        )

    def _talk(self, raw: bytes, image: Image, where: str) -> tuple[Segment, ...]:
        words = self.config.words
        if isinstance(words, PlainMember):
            try:
                value: object = raw.decode()
            except UnicodeDecodeError as error:
                raise DataError(where, f"words that are not UTF-8 ({error.reason})", "UTF-8", "Mend it.") from error
        else:
            record = parse_object(raw, where)
            if words.key not in record:
                found = f"no {words.key!r} (keys {', '.join(map(str, record))[:200]})"
                raise DataError(where, found, "a caption or a conversation", "Correct `words.key`.")
            value = record[words.key]
            if isinstance(value, list):
                return lay_turns(check_turns(value, 1, where), [image])
        text = text_of(value)
        if text is None or not text.strip():
            raise DataError(where, f"the caption {str(value)[:60]!r}", "words", "Remove that sample from the shard.")
        return image, Text(text=text.strip(), role="caption")

    def _again(self, f: int, header: int) -> Member:
        member = self._tars.member(f, header)
        if member is None:
            todo = "Do not change shards while they are in use; start again."
            raise DataError(f"{self._tars.files[f]}: byte {header}", "no member", "the one found on opening", todo)
        return member

    def _index(self, f: int, update: Callable[[bytes], None]) -> None:
        """Find the samples of a shard, and hand what identifies it to `update`."""
        ending = self.config.words.extension if isinstance(self.config.words, PlainMember) else "json"
        keys: set[int] = set()
        key, found = "", dict[str, Member]()
        for member in self._tars.members(f):
            update(f"{member.name}\0{member.size}\0{member.time}\0".encode())
            if member.folder:
                continue
            where = f"{self._tars.files[f]}: {member.name}"
            mine, kind = _split(member.name)
            self._refuse_code(f, member, where)
            if kind not in PICTURES and kind != ending:
                self.ignored[kind] += 1
                continue
            if mine != key:
                self._close(f, key, found, ending, keys)
                key, found = mine, {}
            part = "picture" if kind in PICTURES else "words"
            if part in found:
                found_text = f"a second {'picture' if part == 'picture' else kind} of sample {mine!r}"
                raise DataError(where, found_text, "one of each", "Give every sample a name of its own.")
            if member.size > (most := MAX_BYTES if part == "picture" else MAX_WORDS_BYTES):
                raise DataError(where, f"{member.size:,} bytes", f"at most {most:,}", "Remove that sample.")
            found[part] = member
        self._close(f, key, found, ending, keys)

    def _close(self, f: int, key: str, found: dict[str, Member], ending: str, keys: set[int]) -> None:
        """Keep a sample whose members have all been seen."""
        if not found:
            return
        where = f"{self._tars.files[f]}: sample {key!r}"
        if len(found) < 2:
            lacks = f"no {' or '.join('.' + name for name in PICTURES)}" if "words" in found else f"no .{ending}"
            todo = "Correct `words`, or write the members of a sample one behind the other (tar --sort=name)."
            raise DataError(where, lacks, "a picture and its words side by side", todo)
        mark = _hash(f"{self._labels[f]}/{key}")
        if mark in keys:
            todo = "Write the members of a sample one behind the other, and none twice."
            raise DataError(where, "the same name again further on", "every sample once", todo)
        keys.add(mark)
        self._picture.append(found["picture"].header)
        self._words.append(found["words"].header)
        self._key.append(mark if self.config.group == "sample" else _hash(self._labels[f]))

    def _refuse_code(self, f: int, member: Member, where: str) -> None:
        ending = member.name.rsplit(".", 1)[-1].lower()
        todo = "Do not load it anywhere; write the shard again without it."
        if ending in CODE:
            raise DataError(where, "a pickle, which is a program", "pictures and words", todo)
        if ending == "npy" and _holds_objects(self._tars.stream(f, member).read(1 << 12)):
            raise DataError(where, "an .npy of objects (a pickle), or no .npy at all", "an array of numbers", todo)


def find_shards(path: str) -> list[Path]:
    """Return the tar files that a path or pattern names.

    Raises:
        DataError: there are none, one is missing, or one is packed.
    """
    root = Path(path)
    if root.is_dir():
        shards = sorted(file for file in root.rglob("*") if file.name.endswith(SUFFIXES))
    else:
        shards = [root] if root.is_file() else _expand(path)
    for shard in shards:
        if shard.suffix in UNPACK:
            command = f"Unpack it: `{UNPACK[shard.suffix]} {shard.name}`."
            raise DataError(str(shard), "a packed shard, which has no random access", "a plain .tar", command)
        if not shard.is_file() or shard.suffix != ".tar":
            found = "no such file" if not shard.is_file() else "a file of another type"
            raise DataError(str(shard), found, "a .tar file, a folder of them, or a pattern", "Correct `path`.")
    if not shards:
        raise DataError(path, "no .tar file in it", "at least one", "Correct `path`.")
    return shards


def _expand(pattern: str) -> list[Path]:
    """Expand {a,b} and {00..99} as a shell does; nothing else is special, and nothing is run."""
    pieces = BRACES.split(pattern)
    choices: list[list[str]] = [[piece] for piece in pieces]
    for place in range(1, len(pieces), 2):
        first, dots, last = pieces[place].partition("..")
        if dots and first.isdecimal() and last.isdecimal() and len(last) < 12 and len(first) < 12:
            width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
            low, high = int(first), int(last)
            if high < low or high - low >= MAX_SHARDS:
                raise DataError(pattern, f"the range {pieces[place]}", f"1 to {MAX_SHARDS:,} upwards", "Correct it.")
            choices[place] = [f"{number:0{width}d}" for number in range(low, high + 1)]
        else:
            choices[place] = pieces[place].split(",")
    if np.prod([len(choice) for choice in choices], dtype=float) > MAX_SHARDS:
        raise DataError(pattern, "too many shards", f"at most {MAX_SHARDS:,}", "Correct `path`.")
    return [Path("".join(parts)) for parts in product(*choices)]


def _split(name: str) -> tuple[str, str]:
    """Return key and ending: the last part of the name is cut at its first dot, and case does not matter behind it."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _holds_objects(head: bytes) -> bool:
    """Tell whether an .npy file holds objects, from its header; what has no readable header is not to be trusted."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return bool(readers[version](stream, max_header_size=4000)[2].hasobject)
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error):
        return True


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
