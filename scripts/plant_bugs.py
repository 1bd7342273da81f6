"""See every parity test fail: plant one bug at a time in a copy of the repository and run the test that should see it.

Command     python scripts/plant_bugs.py [WORD...]     all bugs, or those whose line of the catalogue or file has a WORD
Table       scripts/planted_bugs.toml
Output      a line a bug: seen (by which assertion, or which named refusal of ours), NOT SEEN, CRASHED (a test that
            does not reach its assertion proves nothing), or not tried (its test is skipped on this machine)
Exit        0 when every bug that was tried is seen; a test that fails without a bug, or a text that is not found
            exactly once, ends it with 1 before the first is planted

About 5 s a bug on one core. OPEN_CLIP_PYTHON as in tests/vision/test_vision_peer.py tries those of that test, too.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("planted_bugs.toml")
COPIED = ("src", "tests", "recipes", "bench", "pyproject.toml")
ASSERTIONS = ("assert", "AssertionError", "Failed", "trivium.core.errors.")
"""How pytest begins the message of a failed assertion, of `pytest.raises`, and of a named refusal of ours."""
SECONDS = 900
"""For one run of pytest; a bug that makes a test wait for ever is CRASHED."""
PRELOADED = (
    "torch",
    "scipy.fft",
    "transformers.models.clip.modeling_clip",
    "transformers.models.vit_mae.modeling_vit_mae",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.schedulers.scheduling_ddim",
    "vector_quantize_pytorch",
)
"""What half of the tests spend most of their time on importing."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Read once, by what is preloaded; else tests/conftest.py would set it."""
console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Bug:
    """One mistake that a person could make, and the test that must see it."""

    line: str
    """Of the catalogue of tests, which it belongs to."""
    file: str
    old: str
    """Text that is there exactly once."""
    new: str
    test: str
    """Node id without parameters; one failing case of it will do."""


def table() -> list[Bug]:
    """Read the table."""
    return [Bug(**entry) for entry in tomllib.loads(TABLE.read_text())["bug"]]


def misfits(root: Path, bugs: Sequence[Bug]) -> list[str]:
    """Say which entries of the table do not fit the repository at `root`."""
    found = []
    for bug in bugs:
        file, (test, _, name) = root / bug.file, bug.test.partition("::")
        times = file.read_text().count(bug.old) if file.is_file() else 0
        if times != 1 or bug.old == bug.new:
            found.append(f"{bug.file}: {bug.old!r} is there {times} times, or is its own replacement")
        if not (root / test).is_file() or f"def {name}(" not in (root / test).read_text():
            found.append(f"{bug.test} is not there")
    return found


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """Lend a copy of the repository, without what was compiled: a planted file may be as old and as long as its own."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).is_file():
                shutil.copy(root / name, folder)
        yield Path(folder)


@contextmanager
def planted(copy: Path, bug: Bug) -> Iterator[None]:
    """Put one bug into the copy and take it out again."""
    file = copy / bug.file
    text = file.read_text()
    file.write_text(text.replace(bug.old, bug.new))
    try:
        yield
    finally:
        file.write_text(text)


def run(copy: Path, tests: Sequence[str], *options: str) -> dict[str, list[tuple[str, str]]]:
    """Run tests in the copy; return for each the outcomes of its cases, with the first line of what they said."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    # Every run is a process of its own, forked from one that has imported what is slow to import and none of the copy.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(PRELOADED))
    process = forks.Process(target=_pytest, args=(copy, [f"--junitxml={report}", *options, *tests]))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    cases = ElementTree.parse(report).iter("testcase") if report.is_file() else ()
    found: dict[str, list[tuple[str, str]]] = {test: [] for test in tests}
    for case in cases:
        place, name = case.get("classname", "").replace(".", "/"), case.get("name", "").partition("[")[0]
        kind = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        said = "" if kind is None else (kind.get("message") or "").strip().partition("\n")[0]
        found.setdefault(f"{place}.py::{name}", []).append(("passed" if kind is None else kind.tag, said))
    return found


def _pytest(copy: Path, words: list[str]) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy / "src")}  # for the processes that tests start
    sys.dont_write_bytecode = True  # see `copied`
    import pytest

    # A plugin of pytest that was preloaded (transformers imports anyio) has no tests of ours.
    quiet = "ignore::pytest.PytestAssertRewriteWarning"
    pytest.main(["-q", "-p", "no:cacheprovider", "-W", quiet, *words])


def verdict(outcomes: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return what came of a planted bug, and the words of the case that decided it."""
    if seen := [said for kind, said in outcomes if kind == "failure" and said.startswith(ASSERTIONS)]:
        return "seen", seen[0]
    if crashed := [said for kind, said in outcomes if kind in ("failure", "error")]:
        return "CRASHED", crashed[0]
    return ("NOT SEEN", "") if outcomes else ("CRASHED", "pytest did not come to its end")


def main(root: Path, bugs: Sequence[Bug]) -> int:
    """Plant all bugs, one after the other, and return the exit code."""
    for problem in (found := misfits(root, bugs)):
        console.print(problem, markup=False)
    if found or not bugs:
        console.print(f"{len(bugs)} bugs, {len(found)} entries do not fit")
        return 1
    os.environ |= ENVIRONMENT
    with copied(root) as copy:
        sound = run(copy, list(dict.fromkeys(bug.test for bug in bugs)))
        ill = [name for name, outcomes in sound.items() if {kind for kind, _ in outcomes} - {"passed", "skipped"}]
        ill += [name for name, outcomes in sound.items() if not outcomes]
        if ill:
            console.print(f"without any bug, these fail: {', '.join(ill)}", markup=False)
            return 1
        console.print(f"without any bug, {len(sound)} tests pass")
        verdicts = []
        for bug in bugs:
            began, said = time.monotonic(), sound[bug.test][0][1]
            if all(kind == "skipped" for kind, _ in sound[bug.test]):
                verdicts.append("not tried")
            else:
                with planted(copy, bug):
                    word, said = verdict(run(copy, [bug.test], "-x")[bug.test])
                verdicts.append(word)
            line = f"{verdicts[-1]:9} {bug.line:22} {Path(bug.file).name:15} {bug.new.strip()[:60]!r}"
            console.print(f"{line} | {bug.test} | {said[:90]} | {time.monotonic() - began:.0f} s", markup=False)
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    console.print(f"{len(bugs)} bugs: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    return int(not set(verdicts) <= {"seen", "not tried"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only bugs whose line or file contains one of these")
    words = parser.parse_args().words
    chosen = [bug for bug in table() if not words or any(word in bug.line or word in bug.file for word in words)]
    sys.exit(main(ROOT, chosen))
