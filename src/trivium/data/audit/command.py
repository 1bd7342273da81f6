"""The engine behind `trivium data audit`."""

import json
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trivium.core.errors import DataError
from trivium.core.files import write_json
from trivium.core.log import console, note
from trivium.data.audit.audit import audit
from trivium.data.audit.finding import Audit
from trivium.data.audit.fix import corrections
from trivium.data.audit.recording import Recording, watch
from trivium.data.audit.show import details, draw, summary
from trivium.data.detect import open_episodes
from trivium.data.source.corrections import write_corrections
from trivium.data.source.episode import EpisodeSource


def run_audit(
    paths: list[Path], out: Path | None, fix: Path | None, pictures: bool, delay: int, corrected: Path | None
) -> list[Audit]:
    """Audit sets, print what was found, and write what was asked for.

    Args:
        paths: the sets.
        out: folder for audit.json and pictures.
        fix: file (of one set) or folder for corrections.
        pictures: look at pictures too.
        delay: frames after which an action moves the state.
        corrected: corrections to apply first, of one set.

    Raises:
        DataError: a set cannot be read, or options do not fit the number of sets.
        CheckpointError: something cannot be written.
    """
    if corrected is not None and len(paths) > 1:
        raise DataError(
            "--corrections", f"{len(paths)} sets", "one set, whose corrections they are", "Audit them one by one."
        )
    corrections_of = [] if corrected is None else [f"corrections={json.dumps(str(corrected))}"]
    sources = [open_episodes(path, corrections_of) for path in paths]
    seen = [_watch(source, pictures) for source in sources]
    found = audit(seen, delay)
    for audited in found:
        console.print(summary(audited))
        if audited.findings:
            console.print(details(audited))
    if out is not None:
        write_json(out / "audit.json", {"audit": 1, "sets": [audited.plain() for audited in found]})
        for place, (audited, recording, source) in enumerate(zip(found, seen, sources, strict=True)):
            folder = out if len(found) == 1 else out / f"{place}-{audited.name}"
            draw(audited, recording, source, folder)
        note(f"{out}: audit.json and pictures")
    if fix is not None:
        _fix(fix, seen, found)
    return found


def _watch(source: EpisodeSource, pictures: bool) -> Recording:
    views = tuple(source.cameras) if pictures else ()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(f"looking at {source.name}", total=max(1, len(source) * len(views)))
        return watch(source, views, lambda frames: bar.advance(line, frames))


def _fix(fix: Path, seen: list[Recording], found: list[Audit]) -> None:
    for place, (recording, audited) in enumerate(zip(seen, found, strict=True)):
        alone = len(found) == 1
        file = (
            fix
            if alone and fix.suffix == ".json"
            else fix / ("corrections.json" if alone else f"{place}-{audited.name}.json")
        )
        fixes = corrections(recording, audited)
        write_json(file, write_corrections(fixes))
        left = sum(bool(it.leave_out) for it in fixes.values())
        note(
            f"{file}: {left} episodes to leave out, {len(fixes) - left} to shift; use it as `corrections` of the source"
        )
