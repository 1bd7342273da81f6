"""Where a run's weights come from and under which terms: every source by stage, and what was pretrained."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trivium.core.dialect import read_yaml
from trivium.core.errors import TriviumError
from trivium.data.bucket import SourceConfig
from trivium.data.source.source import Source
from trivium.policy.vla import ModelConfig
from trivium.run import Run
from trivium.weights import license_of

UNKNOWN = "unknown"
LOOKED_AT = 1000
"""Samples of a source whose own licences are counted; spread evenly."""


def lineage(config: Run, plans: Mapping[str, Any], open_source: Callable[[SourceConfig], Source]) -> dict[str, Any]:
    """Return the licence lineage: sources of every stage with their share of tokens, and pretrained weights.

    Args:
        config: the run.
        plans: what plan/<stage>.json holds, by stage, for those stages that were planned.
        open_source: opens a source, or returns it where it is open.
    """
    known: dict[str, dict[str, Any]] = {}
    stages = []
    for stage in config.stages:
        planned = {row["bucket"]: row for row in plans.get(stage.name, {}).get("buckets", ())}
        rows = []
        for bucket in stage.mixture.buckets:
            key = bucket.source.model_dump_json()
            known[key] = known.get(key) or _terms(bucket.source, open_source)
            row = planned.get(bucket.name)
            share = {"tokens": row["tokens"], "share": row["planned"]} if row else {"tokens": None, "share": None}
            rows.append({"bucket": bucket.name, **known[key], **share})
        stages.append({"stage": stage.name, "sources": rows})
    return {"weights": weights(config.model), "stages": stages}


def weights(model: ModelConfig) -> list[dict[str, str]]:
    """Return the pretrained parts of a model, their names and terms."""
    found = []
    for part, config in (("vision", model.vision), ("language", model.language)):
        path = getattr(config, "path", None)
        if path is not None:
            found.append({"part": part, "name": Path(path).name, "license": _license_of_folder(Path(path))})
    return found


def common(lines: dict[str, Any]) -> str:
    """Return the one licence of everything in lower case; "other" where there are several or one is unknown."""
    terms = {entry["license"] for entry in lines["weights"]}
    for stage in lines["stages"]:
        for source in stage["sources"]:
            terms |= {source["license"], *source["sample_licenses"]}
    if len(terms) == 1 and UNKNOWN not in terms:
        return terms.pop().lower()
    return "other"


def _terms(config: SourceConfig, open_source: Callable[[SourceConfig], Source]) -> dict[str, Any]:
    """Return a source's name and licence, and those of its samples where they have their own."""
    name = Path(str(getattr(config, "path", ""))).name or config.kind
    try:
        source = open_source(config)
        look = np.unique(np.linspace(0, len(source) - 1, min(len(source), LOOKED_AT)).astype(int)).tolist()
        counted = Counter(source.peek(i).license or UNKNOWN for i in look)
    except TriviumError as error:
        why = f"{type(error).__name__}: could not be opened when this was written"
        return {"source": name, "license": UNKNOWN, "sample_licenses": {}, "looked_at": 0, "problem": why}
    stated = source.license or UNKNOWN
    mixed = dict(counted.most_common()) if set(counted) != {stated} else {}
    if stated == UNKNOWN and len(mixed) == 1:  # the set says nothing, and all its samples the same
        stated, mixed = next(iter(mixed)), {}
    return {"source": name, "license": stated, "sample_licenses": mixed, "looked_at": len(look), "problem": ""}


def _license_of_folder(folder: Path) -> str:
    """Return what a folder of weights says: our own note, or the front matter of its model card."""
    if known := license_of(folder):
        return known
    card = folder / "README.md"
    if not card.is_file():
        return UNKNOWN
    text = card.read_text(errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return UNKNOWN
    try:
        front = read_yaml(text[4 : text.index("\n---", 4)], str(card))
    except TriviumError:
        return UNKNOWN
    said = front.get("license") if isinstance(front, dict) else None
    return said if isinstance(said, str) and said else UNKNOWN
