"""The section on held-out text: a curve along the run, and a table with paired changes."""

from typing import Any

import numpy as np

from trivium.language.heldout import TextScore, change
from trivium.report import plots
from trivium.report.run_folder import UNTRAINED, RunFolder, TextFile

FEW = 6
"""Documents below which resampling them says little: of two there are only three ways to draw two."""


def text_section(folder: RunFolder) -> dict[str, Any]:
    """Gather what the template draws; no rows where nothing was measured."""
    columns = [file for _, file in folder.texts if file.step is None]
    names = list(dict.fromkeys(score.name for _, file in folder.texts for score in file.texts))
    first = {name: next((_of(file, name) for _, file in folder.texts if _of(file, name)), None) for name in names}
    rows = []
    for name in names:
        scores = [_of(file, name) for file in columns]
        start = first[name]
        assert start is not None, "a name comes from a score"
        cells = [score and {"score": score, "change": _change(start, score)} for score in scores]
        number = len(start.bytes)
        rows.append({"name": name, "documents": number, "few": number < FEW, "tokens": start.tokens, "cells": cells})
    labels = ["before" if file.stage == UNTRAINED else f"after {file.stage}" for file in columns]
    return {"rows": rows, "labels": labels, "drawing": _draw(folder, names) if names else ""}


def _draw(folder: RunFolder, names: list[str]) -> str:
    lines = {}
    for name in names:
        points = [(at, score) for at, file in folder.texts if (score := _of(file, name))]
        values = [[score.bits_per_byte, score.low, score.high] for _, score in points]
        lines[name] = np.array([at for at, _ in points], float), np.array(values)
    ends = np.cumsum([stage.steps for stage in folder.config.stages]).tolist()
    return plots.bits_per_byte(lines, {stage.name: end for stage, end in zip(folder.config.stages, ends, strict=True)})


def _of(file: TextFile, name: str) -> TextScore | None:
    return next((score for score in file.texts if score.name == name), None)


def _change(before: TextScore, after: TextScore) -> tuple[float, float, float] | None:
    """Return the paired change; None for the first itself, and where other documents were measured."""
    return None if before is after or before.bytes != after.bytes else change(before, after)
