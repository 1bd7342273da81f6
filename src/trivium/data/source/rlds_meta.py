"""Opening a TFDS folder: what its two json files say is checked before any record is read.

Written by tensorflow_datasets (https://www.tensorflow.org/datasets/external_tfrecord): dataset_info.json lists the
shards of each split with their lengths, features.json the shape and dtype of every feature.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.core.errors import DataError

MAX_JSON = 1 << 26
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass(frozen=True)
class Feature:
    """One leaf of features.json."""

    kind: str
    """"tensor", "image", "text" and so on."""
    shape: tuple[int, ...]
    """Of one step; -1 where it varies."""
    dtype: str
    encoding: str
    """"none", "bytes" or "zlib"."""


@dataclass(frozen=True)
class Info:
    """Both json files, checked."""

    name: str
    license: str
    shards: Mapping[Path, int]
    """Number of episodes by file, in order."""
    features: Mapping[str, Feature]
    """Features of a step, by path: "observation/image"."""
    text: bytes


def read_info(root: Path, split: str) -> Info:
    """Read dataset_info.json and features.json, and check that the shards are there.

    Raises:
        DataError: this is no TFDS folder of RLDS episodes, or it lacks the split or some of its files.
    """
    path = root / "dataset_info.json"
    text, raw = _read_json(path)
    splits = {str(s.get("name")): s for s in raw.get("splits") or () if isinstance(s, Mapping)}
    if split not in splits:
        raise DataError(str(path), f"no split {split!r}", f"one of {', '.join(splits) or 'none'}", "Change `split`.")
    name = raw.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise DataError(str(path), f"name {name!r}", "the name of the set, as TFDS writes it", "Copy the set again.")
    if raw.get("fileFormat", "tfrecord") != "tfrecord":
        found = f"fileFormat {raw['fileFormat']!r}"
        raise DataError(str(path), found, "'tfrecord'", "Convert the set with tfds: convert_format.")
    files = _shards(path, name, splits[split])
    text_, raw_ = _read_json(root / "features.json")
    features = _flatten(_steps(root / "features.json", raw_), "")
    license_name = (raw.get("redistributionInfo") or {}).get("license") or ""
    return Info(name, str(license_name), files, features, text + text_)


def _read_json(path: Path) -> tuple[bytes, dict[str, Any]]:
    if not path.is_file():
        inside = ", ".join(sorted(p.name for p in path.parent.iterdir())[:8]) if path.parent.is_dir() else "no folder"
        raise DataError(
            str(path.parent),
            f"no {path.name} (there is: {inside or 'nothing'})",
            "the version folder of a TFDS set: dataset_info.json, features.json, *.tfrecord-00000-of-00008",
            "Correct `path`: it often ends in 1.0.0.",
        )
    if path.stat().st_size > MAX_JSON:
        raise DataError(str(path), f"{path.stat().st_size:,} bytes", f"at most {MAX_JSON:,}", "Copy the set again.")
    text = path.read_bytes()
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), f"broken JSON ({error})", "what TFDS writes", "Copy the set again.") from error
    if not isinstance(raw, dict):
        raise DataError(str(path), f"a {type(raw).__name__}", "a JSON object", "Copy the set again.")
    return text, raw


def _shards(path: Path, name: str, split: Mapping[str, Any]) -> dict[Path, int]:
    lengths = split.get("shardLengths")
    if not isinstance(lengths, list) or not lengths or not all(re.fullmatch(r"\d{1,12}", str(x)) for x in lengths):
        raise DataError(str(path), f"shardLengths {str(lengths)[:80]}", "a list of whole numbers", "Copy it again.")
    template = str(split.get("filepathTemplate") or TEMPLATE)
    words = {"DATASET": name, "SPLIT": str(split["name"]), "FILEFORMAT": "tfrecord"}
    files: dict[Path, int] = {}
    for j, length in enumerate(lengths):
        words["SHARD_X_OF_Y"] = f"{j:05d}-of-{len(lengths):05d}"
        file = re.sub(r"\{(\w+)\}", lambda found: words.get(found.group(1), found.group(0)), template)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", file):
            raise DataError(str(path), f"filepathTemplate {template!r}", f"plain names: {TEMPLATE}", "Copy it again.")
        if not (path.parent / file).is_file():
            found = f"no file {file}, shard {j} of {len(lengths)}"
            raise DataError(str(path.parent), found, "every shard that dataset_info.json lists", "Copy the set again.")
        files[path.parent / file] = int(length)
    return files


def _steps(path: Path, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the description of one step."""
    here: Any = raw
    for key in ("featuresDict", "features", "steps", "sequence", "feature"):
        here = here.get(key) if isinstance(here, Mapping) else None
    if not isinstance(here, Mapping) or "featuresDict" not in here:
        raise DataError(
            str(path), "no sequence of steps", "RLDS: a feature 'steps', a dataset of dictionaries", "Choose RLDS data."
        )
    return here


def _flatten(what: Any, prefix: str, depth: int = 0) -> dict[str, Feature]:
    what = what if isinstance(what, Mapping) else {}
    inner = what.get("featuresDict")
    if isinstance(inner, Mapping) and depth < 16:
        found: dict[str, Feature] = {}
        features = inner.get("features")
        for key, value in (features if isinstance(features, Mapping) else {}).items():
            found |= _flatten(value, f"{prefix}/{key}" if prefix else str(key), depth + 1)
        return found
    kind = next((key for key in ("tensor", "image", "text", "classLabel", "sequence") if key in what), "unknown")
    body = what.get(kind)
    body = body if isinstance(body, Mapping) else {}
    shape = body.get("shape")
    dimensions = shape.get("dimensions") if isinstance(shape, Mapping) else None
    sizes = dimensions if isinstance(dimensions, list) else []
    numbers = tuple(int(x) if re.fullmatch(r"\d{1,9}", str(x)) else -1 for x in sizes)
    encoding = str(body.get("encoding") or "none").lower()
    return {prefix: Feature(kind, numbers, str(body.get("dtype") or ""), encoding)}
