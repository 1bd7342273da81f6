"""Samples for the Rerun viewer (https://rerun.io), where its package is installed."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trivium.core.errors import SetupError
from trivium.core.sample import Action, Image, Sample, State, Text, Video


def log_samples(samples: Sequence[Sample], path: Path) -> None:
    """Write samples to a recording, one step of its timeline each: pictures by view, words, state, actions.

    Raises:
        SetupError: the package is not installed.
    """
    if find_spec("rerun") is None:
        raise SetupError("--rerun", "no package rerun", "rerun-sdk installed", "Type: pip install rerun-sdk")
    rerun: Any = import_module("rerun")
    recording = rerun.RecordingStream("trivium")
    recording.save(str(path))
    for number, sample in enumerate(samples):
        recording.set_time("sample", sequence=number)
        recording.log("id", rerun.TextDocument(sample.id))
        for j, segment in enumerate(sample.segments):
            _log(rerun, recording, segment, j)
    recording.flush()


def _log(rerun: Any, recording: Any, segment: object, j: int) -> None:
    match segment:
        case Image():
            recording.log(f"view/{segment.view}", rerun.Image(segment.pixels))
        case Video():
            for frame in segment.frames:
                recording.log(f"view/{segment.view}", rerun.Image(frame))
        case Text():
            recording.log(f"text/{j}-{segment.role}", rerun.TextDocument(segment.text))
        case State():
            for name, value in zip(segment.names, segment.values, strict=True):
                recording.log(f"state/{name}", rerun.Scalars([float(value)]))
        case Action():
            for name, values in zip(segment.names, segment.values.T, strict=True):
                recording.log(f"action/{name}", rerun.BarChart(values))
