"""`trivium data audit`: exit codes, files, and corrections that make a faulty set as good as the original."""

import json
from pathlib import Path

import numpy as np
import pytest
from point_robot import late, point_robot, write_points
from typer.testing import CliRunner, Result

from trivium.cli import app
from trivium.data.detect import open_episodes


def type_in(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", "audit", *map(str, words)])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set in step, and the same with two episodes out of step."""
    folder = tmp_path_factory.mktemp("audit")
    seen = point_robot(24, 60)
    faulty = late(late(seen, 4, "action", 2), 9, "pictures", -1)
    return write_points(folder / "good", seen), write_points(folder / "bad", faulty)


def test_a_clean_set_passes(sets: tuple[Path, Path], tmp_path: Path):
    result = type_in(sets[0], "--out", tmp_path / "out")
    assert result.exit_code == 0, (result.output, result.exception)
    said = json.loads((tmp_path / "out/audit.json").read_text())
    (one,) = said["sets"]
    assert said["audit"] == 1
    assert {"name", "episodes", "frames", "faults", "measures", "findings", "unknown"} <= set(one)
    assert (one["name"], one["episodes"], one["frames"], one["faults"]) == ("good", 24, 1440, 0)
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["episode-0-clean.png"]


def test_faults_are_found_corrected_beside_the_set_and_gone(sets: tuple[Path, Path], tmp_path: Path):
    good, bad = sets
    before = {path: path.read_bytes() for path in bad.rglob("*") if path.is_file()}
    file = tmp_path / "fix.json"
    result = type_in(bad, "--out", tmp_path / "out", "--fix", file)
    assert result.exit_code == 1, (result.output, result.exception)
    found = json.loads((tmp_path / "out/audit.json").read_text())["sets"][0]["findings"]
    told = {(it["kind"], it["episode"], it["stream"], it["measure"]) for it in found if it["fault"]}
    assert told == {("lag", 4, "action", 2), ("lag", 9, "pictures", -1)}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "episode-4-lag.png",
        "episode-9-lag.png",
        "episode-0-clean.png",
    }
    assert json.loads(file.read_text()) == {
        "corrections": 1,
        "episodes": [{"episode": 4, "action": 2, "pictures": 0}, {"episode": 9, "action": 0, "pictures": -1}],
    }
    assert before == {path: path.read_bytes() for path in bad.rglob("*") if path.is_file()}, "the set was touched"
    assert type_in(bad, "--corrections", file).exit_code == 0
    mended, original = open_episodes(bad, [f"corrections={file}"]), open_episodes(good)
    for number, skipped, left in ((4, 0, 58), (9, 1, 59), (3, 0, 60)):
        rows = np.flatnonzero(mended.groups() == number)
        same = np.flatnonzero(original.groups() == number)[skipped : skipped + left]
        assert len(rows) == left
        np.testing.assert_array_equal(mended.found.state[rows], original.found.state[same])
        np.testing.assert_array_equal(mended.chunks(rows)[0], original.chunks(same)[0])
    at, there = np.flatnonzero(mended.groups() == 9)[20], np.flatnonzero(original.groups() == 9)[21]
    seen, right = mended.read(int(at)).segments[0].pixels, original.read(int(there)).segments[0].pixels
    assert np.abs(seen.astype(int) - right.astype(int)).mean() < 2


def test_leakage_between_two_sets_without_pictures(sets: tuple[Path, Path], tmp_path: Path):
    result = type_in(*sets, "--no-pictures", "--fix", tmp_path)
    assert result.exit_code == 1
    left = json.loads((tmp_path / "1-bad.json").read_text())["episodes"]
    leaked = [row["episode"] for row in left if "leakage" in row.get("leave_out", "")]
    assert leaked == [n for n in range(24) if n != 4], "late actions make another recording"


def test_what_is_no_set_is_an_error(tmp_path: Path):
    result = type_in(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "DataError" in result.stderr
    assert "Traceback" not in result.output


def test_corrections_of_two_sets_at_once_are_refused(sets: tuple[Path, Path], tmp_path: Path):
    result = type_in(*sets, "--corrections", tmp_path / "fix.json")
    assert result.exit_code == 2
    assert "one set" in " ".join(result.stderr.split())
