"""Conversations about pictures: LLaVA's JSON, and InternVL's list of such files with repeat factors."""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Int64, UInt8
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.sample import Image, Role, Sample, Video
from trivium.core.schema import suggest
from trivium.data.blank import blank
from trivium.data.source.moment import MomentReader
from trivium.data.source.picture import Encoded, below, decode, outline, picture_below
from trivium.data.source.records import Records, text_of, whole_text
from trivium.data.source.source import Source, digest
from trivium.data.source.turns import FILM, PLACE, TODO, check_turns, lay_turns
from trivium.data.source.video import VideoError

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_REPEAT = 100.0
MAX_META_BYTES = 16 << 20
META_KEYS: dict[str, tuple[type, ...]] = {
    "root": (str,),
    "annotation": (str,),
    "data_augment": (bool,),
    "repeat_time": (int, float),
    "length": (int,),
    "max_dynamic_patch": (int,),
}


class ConversationConfig(Config):
    """Conversations about pictures, in LLaVA's or InternVL's files."""

    kind: Literal["conversation"] = "conversation"
    path: str
    """A LLaVA file (.json or .jsonl), or an InternVL meta file (.json with `root` and `annotation` of every set)."""
    root: str = ""
    """Folder that paths of pictures start from, and in a meta file those of `root` and `annotation`; "" is the folder
    of the file. Nothing outside it is ever read."""
    license: str = "unknown"
    """Licence of records that do not say ("license")."""
    frames: int = Field(default=8, ge=1, le=256)
    """Frames taken of a video, each from the middle of its share of the length; 8 to 32. Each costs a picture's tokens,
    and fewer miss what happens quickly."""

    def build(self) -> "Conversations":
        """Open the files and check every record."""
        return Conversations(self)


@dataclass(frozen=True)
class Part:
    """One file of records: alone, or an entry of a meta file."""

    name: str
    """"" for a file alone."""
    file: Path
    root: Path
    repeat: float = 1.0
    length: int = -1
    """Records that the meta file promises; -1 where it promises none."""


class Conversations(Source):
    """One sample a record: its turns in order, pictures where `<image>` stands in a human turn.

    LLaVA: [{id, image, conversations: [{from, value}]}] (docs/Finetune_Custom_Data.md of
    https://github.com/haotian-liu/LLaVA); `image` is a path, a list of paths, or missing; `video` is one path, and
    `<video>` (LLaVA-Video: `<image>`) stands for it. InternVL's meta file:
    {name: {root, annotation, data_augment, repeat_time, length, max_dynamic_patch}} (https://internvl.readthedocs.io,
    "Chat Data Format"). We differ: a `repeat_time` of 2.3 is every record twice and 30 % of them once more, chosen by
    a hash of what they say; InternVL drops the fraction, and below 1 takes the head of the file. `data_augment` and
    `max_dynamic_patch` are checked and not used: here a recipe's transforms say what happens to pictures.

    Records that share a picture are one group, so that no picture is on both sides of a split. 30 bytes in memory a
    record. Opening checks the words, not the picture files: those are looked at by `peek`, which counts tokens and
    decodes one frame of a video to know which way up it is; the fingerprint holds their names, not their pixels.

    Raises:
        DataError: a file or a record is broken; the text names file and record.
    """

    def __init__(self, config: ConversationConfig) -> None:
        self.config = config
        path = Path(config.path)
        self.name = path.name.split(".")[0]
        self.license = config.license
        self._reader = MomentReader()
        if not path.is_file() or not path.name.endswith(SUFFIXES):
            found = "a file of another type" if path.is_file() else "no such file"
            raise DataError(str(path), found, f"a {' or '.join(SUFFIXES)} file", "Correct `path`.")
        root = Path(config.root) if config.root else path.parent
        self._parts = _meta(path, root) or [Part("", path, root)]
        self._records = Records([part.file for part in self._parts])
        keys, texts, pairs = array("q"), array("q"), array("q")
        places = [os.path.relpath(part.root.resolve(), root.resolve()) for part in self._parts]
        for i, line in self._records.scan():
            place = places[self._records.file(i)]
            paths, _, _ = self._check(i, self._records.parse(i, line))
            texts.append(_hash(line.strip()))
            pictures = [_hash(os.path.normpath(os.path.join(place, path))) for path in paths]
            keys.append(pictures[0] if paths else texts[-1])
            for picture in pictures[1:]:
                pairs.extend((pictures[0], picture))
        if not len(self._records):
            raise DataError(str(path), "no records", "at least one conversation", "Check what wrote the file.")
        self._record, self._copy = _repeat(self._parts, self._records, np.frombuffer(texts, np.int64))
        self._groups = _joined(np.frombuffer(keys, np.int64), np.frombuffer(pairs, np.int64).reshape(-1, 2))
        parts = [(part.name, place, part.repeat) for part, place in zip(self._parts, places, strict=True)]
        self.fingerprint = digest(config.model_dump(exclude={"path", "root"}), parts, self._records.hash)

    def __len__(self) -> int:
        """Return the number of samples, copies too."""
        return len(self._record)

    def groups(self) -> Int[np.ndarray, " n"]:
        """Return one id for all records that share pictures, and for all that say the same."""
        return self._groups[self._record]

    def peek(self, i: int) -> Sample:
        """Return sample `i` with blank pictures: only headers are read.

        Raises:
            DataError: a picture is missing, no picture, or too large.
        """
        return self._sample(i, outline)

    def read(self, i: int) -> Sample:
        """Return sample `i`.

        Raises:
            DataError: a picture is missing, broken or too large.
        """
        return self._sample(i, decode)

    def _sample(self, i: int, open_picture: Callable[[Encoded, str], UInt8[np.ndarray, "_ _ 3"]]) -> Sample:
        r, copy = int(self._record[i]), int(self._copy[i])
        record = self._records.parse(r)
        paths, turns, place = self._check(r, record)
        where, part = self._where(r, record), self._parts[self._records.file(r)]
        if "video" in record:
            images = [self._film(part.root, paths[0], where, blank_ones=open_picture is outline)]
        else:
            images = [Image(pixels=open_picture(picture_below(part.root, path, where), where)) for path in paths]
        name = "/".join(filter(None, (self.name, part.name, str(r - self._records.first(r)))))
        return Sample(
            id=name + (f":{record['id']}" if "id" in record else "") + (f"#{copy}" if copy else ""),
            segments=lay_turns(turns, images, place),
            source="/".join(filter(None, (self.name, part.name))),
            license=record.get("license") or self.license,
        )

    def _film(self, root: Path, path: str, where: str, blank_ones: bool) -> Video:
        """Return a video's frames, each from the middle of its share of the length."""
        file = below(root, path)
        if file is None or not file.is_file():
            raise DataError(where, f"a path {path!r} that is no file in {root}", "a video", TODO)
        try:
            share_s = self._reader.length_s(file) / self.config.frames
            times_s = (np.arange(self.config.frames) + 0.5) * share_s
            shown = self._reader.frames(file, [0.0] if blank_ones else times_s.tolist())
        except VideoError as error:
            raise DataError(where, f"{path}: {error}", "a whole video", TODO) from error
        height, width = shown[0].shape[:2]
        still = np.broadcast_to(blank(height, width), (len(times_s), height, width, 3))
        return Video(frames=still if blank_ones else np.stack(shown), times_s=times_s)

    def _check(self, i: int, record: dict[str, Any]) -> tuple[list[str], list[tuple[Role, str]], str]:
        """Return the paths of the pictures and the turns of a record, and what stands for a picture."""
        where = self._where(i, record)
        kind = "video" if "video" in record else "image"
        pictures = record.get(kind)
        paths = [] if pictures is None else pictures if isinstance(pictures, list) else [pictures]
        if not all(text_of(path) for path in paths):
            raise DataError(where, f"{kind} {str(pictures)[:60]!r}", "a path, a list of paths, or no `image`", TODO)
        if kind == "video" and (len(paths) != 1 or "image" in record):
            raise DataError(
                where, f"{len(paths)} videos and image {str(record.get('image'))[:60]!r}", "one video", TODO
            )
        if not isinstance(record.get("id", ""), str | int) or text_of(str(record.get("id", ""))) is None:
            raise DataError(where, "an id that is neither text nor a number", "text or a whole number", TODO)
        if "license" in record and not text_of(record["license"]):
            raise DataError(where, f"license {str(record['license'])[:60]!r}", "words", TODO)
        turns = record.get("conversations")
        place = FILM if kind == "video" and FILM in str(turns) else PLACE
        return paths, check_turns(turns, len(paths), where, place), place

    def _where(self, i: int, record: dict[str, Any]) -> str:
        return f"{self._records.where(i)} (id {str(record['id'])[:60]!r})" if "id" in record else self._records.where(i)


def _meta(path: Path, base: Path) -> list[Part]:
    """Return the entries of a meta file; none for a file of records."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(4096)
    except OSError as error:
        raise DataError(str(path), error.strerror or str(error), "a readable file", "Correct `path`.") from error
    if path.suffix != ".json" or not begin.lstrip().startswith(b"{"):
        return []
    if path.stat().st_size > MAX_META_BYTES:
        raise DataError(str(path), "a meta file above 16 MiB", "a few entries", "Records belong into a list.")
    try:
        entries = json.loads(whole_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), f"broken JSON ({error})", "a meta file", "Mend it.") from error
    return [_part(f"{path}: {name}", name, entry, base) for name, entry in entries.items()]


def _part(where: str, name: str, entry: Any, base: Path) -> Part:
    """Check one entry of a meta file."""
    if not isinstance(entry, dict) or text_of(name) is None or not {"root", "annotation"} <= entry.keys():
        expected = "an object with `root` and `annotation`"
        raise DataError(where, str(entry)[:60], expected, "A file of records is a list: [{...}, {...}].")
    for key, value in entry.items():
        if key not in META_KEYS:
            todo = suggest(key, list(META_KEYS), "Remove it.")
            raise DataError(where, f"unknown key {key!r}", f"one of {', '.join(META_KEYS)}", todo)
        kinds = META_KEYS[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise DataError(where, f"{key} {value!r}", " or ".join(kind.__name__ for kind in kinds), "Correct it.")
    repeat = float(entry.get("repeat_time", 1))
    if not 0 < repeat <= MAX_REPEAT:
        raise DataError(where, f"repeat_time {repeat}", f"above 0, at most {MAX_REPEAT:g}", "Delete the entry for 0.")
    root, file = below(base, entry["root"]), below(base, entry["annotation"])
    todo = "Correct it, or set `root` to a folder that holds all sets."
    if root is None or not root.is_dir():
        raise DataError(where, f"root {entry['root']!r}", f"a folder in {base}", todo)
    if file is None or not file.is_file() or not file.name.endswith(SUFFIXES):
        raise DataError(where, f"annotation {entry['annotation']!r}", f"a {' or '.join(SUFFIXES)} file in {base}", todo)
    return Part(name, file, root, repeat, entry.get("length", -1))


def _repeat(
    parts: list[Part], records: Records, texts: Int64[np.ndarray, " r"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return record and copy of every sample, and check that every part has as many records as it promises."""
    chosen: list[np.ndarray] = []
    copies: list[np.ndarray] = []
    for part, (begin, end) in zip(parts, records.spans(), strict=True):
        if part.length not in (-1, end - begin):
            todo = "Correct `length`, or look for what the file lacks."
            raise DataError(f"{part.file} ({part.name})", f"{end - begin} records", f"`length`, {part.length}", todo)
        whole = math.floor(part.repeat)
        extra = round((part.repeat - whole) * (end - begin))
        if not whole and end > begin:
            extra = max(extra, 1)
        # The least hashes: as good as chance, the same everywhere, and new records hardly move old ones.
        last = begin + np.sort(np.argsort(texts[begin:end], kind="stable")[:extra])
        chosen += [np.arange(begin, end)] * whole + [last]
        copies += [np.full(end - begin, copy) for copy in range(whole)] + [np.full(extra, whole)]
    return np.concatenate(chosen).astype(np.int32), np.concatenate(copies).astype(np.int16)


def _joined(keys: Int64[np.ndarray, " r"], pairs: Int64[np.ndarray, "p 2"]) -> Int64[np.ndarray, " r"]:
    """Return, for every key, the least of all that pairs join to it, over any number of steps."""
    if not len(pairs):
        return keys
    known, places = np.unique(pairs, return_inverse=True)
    left, right = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(known), len(known)))
    number, label = connected_components(graph, directed=False)
    least = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(least, label, known)
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[at] == keys, least[label[at]], keys)


def _hash(data: bytes | str) -> int:
    raw = data.encode() if isinstance(data, str) else data
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)
