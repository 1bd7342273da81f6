"""The section on foreseen frames: what a unified stage made of the next picture, beside what needs no model."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image as Pillow
from pydantic import ValidationError

from trivium.policy.foresight import Foresight, Share
from trivium.report.run_folder import RunFolder

COLUMNS = ("now", "next", "next from its ids", "foreseen")
"""What stands side by side in the picture of every sample."""


def painted_section(folder: RunFolder) -> tuple[list[dict[str, Any]], list[str]]:
    """Gather what the template draws, a part a stage, and sentences about what is broken."""
    parts, problems = [], []
    for stage in folder.config.stages:
        path = folder.root / f"unified/{stage.name}.json"
        if not path.is_file():
            continue
        try:
            found = Foresight.model_validate_json(path.read_bytes())
            rows = _rows(path.with_suffix(".png"), len(found.shown))
        except (ValidationError, OSError, ValueError, Pillow.DecompressionBombError) as error:
            reason = " ".join(str(error).split())[:120]
            problems.append(f"unified/{stage.name} cannot be read ({reason}); its frames are left out.")
            continue
        cards = [{"sample": sample, "picture": row} for sample, row in zip(found.shown, rows, strict=True)]
        parts.append({"found": found, "lines": _lines(found), "cards": cards, "verdict": _verdict(found)})
    return parts, problems


def _lines(found: Foresight) -> list[tuple[str, Share]]:
    return [
        ("the model", found.bits),
        ("the model, of a present frame, which nothing precedes", found.alone_bits),
        ("its ids' own entropy (histogram of training frames)", found.histogram_bits),
        ("histogram at each place of the picture", found.place_bits),
        ("that, mixed with copying the present frame", found.copy_bits),
    ]


def _verdict(found: Foresight) -> str:
    """Say which references the model is below, interval and all."""
    below = [name for name, share in _lines(found)[2:] if found.bits.high < share.value]
    if not below:
        return "The model is not below the entropy that the ids have on their own: it foresees nothing yet."
    told = "A frame costs less behind another one and its actions than alone: it foresees."
    if found.bits.high >= found.alone_bits.value:
        told = "But a frame costs as much behind another one as alone: it knows frames, and foresees nothing yet."
    return f"The model is below {'; below '.join(below)}. {told}"


def _rows(path: Path, number: int) -> list[Markup]:
    """Cut the picture file into one picture a sample."""
    with Pillow.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    if not number or len(pixels) % number or pixels.shape[1] != len(COLUMNS) * (len(pixels) // number):
        raise ValueError(f"{pixels.shape[1]} x {len(pixels)} pixels for {number} samples")
    found = []
    for row in np.split(pixels, number):
        buffer = io.BytesIO()
        Pillow.fromarray(row).save(buffer, "PNG")
        found.append(Markup(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"))
    return found
