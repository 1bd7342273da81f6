"""`trivium action compare`: numbers that can be worked out by hand, and sets that cannot be compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run
from PIL import Image as Pillow
from typer.testing import CliRunner

from trivium import compare as comparing
from trivium.action import autoencoder
from trivium.action.bins import BinsConfig
from trivium.action.fast import FastConfig
from trivium.cli import app
from trivium.core.errors import DataError
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.trajectory import Trajectories

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of learned codes; their errors are no matter here."""
    monkeypatch.setattr(autoencoder, "STEPS", 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("compared") / "set")


def say(*words: object, columns: int = 80) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["action", "compare", *map(str, words)], env={"COLUMNS": str(columns)})
    return result.exit_code, result.output


def test_the_command_prints_both_tables_and_writes_three_files(folder: Path, tmp_path: Path) -> None:
    code, text = say(folder, "--horizon", 4, "--out", tmp_path)
    assert code == 0
    for words in (*comparing.TOKENIZERS, "VAE", "chunks of 4 steps", "error by dimension"):
        assert words.split()[0] in text
    assert "…" not in text, "nothing is cut at 80 columns"
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["name"] for row in data["tokenizers"]] == list(comparing.TOKENIZERS)
    assert data["policies"] == []
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    for names in ([*comparing.TOKENIZERS, "VAE"], data["dimensions"]):
        assert all(any(name in line for line in lines) for name in names)
    tables = "\n".join(lines).split("\n\n")
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables), "ragged rows"
    with Pillow.open(tmp_path / "comparison.png") as picture:
        assert picture.width > 1000


def test_a_horizon_among_the_settings_is_not_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "TOKENIZERS", {"bins": BinsConfig()})
    found = comparing.compare(folder, ["horizon=3"], 4)
    assert (found.horizon, found.tokenizers[0].tokens_per_chunk) == (3, 6)


def test_the_numbers_are_those_of_the_definitions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "TOKENIZERS", {"bins": BinsConfig(), "FAST": FastConfig(vocab_size=128)})
    found = comparing.compare(folder, [], 4)
    bins, fast = found.tokenizers
    source = LeRobotConfig(path=str(folder), views=(), horizon=4).build()
    assert (bins.tokens_per_chunk, bins.tokens_per_s) == (8, 8 / 4 * source.fps)
    assert bins.repaired_share == 0 < fast.repaired_share
    assert 1 < bins.perplexity <= bins.used_share * 256
    low, high = np.array([-1.0, 1.0])
    assert 0 < bins.rmse_share < 1 / 255 / (high - low)
    assert fast.rmse_share > bins.rmse_share
    assert found.num_fitted > found.num_measured > 0
    assert all(worst > 0 for worst in (*bins.worst, *fast.worst))
    assert all(rmse <= worst for row in found.tokenizers for rmse, worst in zip(row.rmse, row.worst, strict=True))


def test_a_vae_is_measured_in_numbers_as_many_as_a_short_chunk_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "TOKENIZERS", {"bins": BinsConfig()})
    found = comparing.compare(folder, [], 4)
    (vae,) = found.continuous
    assert (vae.name, vae.latent_dim, vae.numbers_per_s) == ("VAE", 4 * 2, 8 / 4 * found.fps)
    assert 0 < vae.num_active <= 8
    assert 0 < vae.rmse_share < 0.2
    assert all(rmse <= worst for rmse, worst in zip(vae.rmse, vae.worst, strict=True))
    monkeypatch.setattr(comparing, "LATENTS", 2)
    (fewer,) = comparing.compare(folder, [], 4).continuous
    assert fewer.latent_dim == 2
    assert fewer.rmse_share > vae.rmse_share


def test_errors_are_measured_on_episodes_that_were_not_fitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    class Spy(BinsConfig):
        def fit(self, chunks: Any) -> Any:
            seen.append(np.asarray(chunks))
            return super().fit(chunks)

    monkeypatch.setattr(comparing, "TOKENIZERS", {"bins": Spy()})
    found = comparing.compare(folder, [], 4)
    assert len(seen[0]) == found.num_fitted
    source = LeRobotConfig(path=str(folder), views=(), horizon=4).build()
    assert found.num_fitted + found.num_measured == source.motion(np.arange(len(source))).valid.all(1).sum()


def altered(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let every opened set have other numbers."""
    build = LeRobotConfig.build

    def other(config: LeRobotConfig) -> LeRobot:
        source = build(config)
        found = {**source.found.__dict__, **{name: change(source.found) for name, change in changes.items()}}
        source.found = Trajectories(**{name: found[name] for name in Trajectories.__dataclass_fields__})
        source._episode_of = np.repeat(
            np.arange(len(source.found.end), dtype=np.int32), source.found.end - source.found.begin
        )
        return source

    monkeypatch.setattr(LeRobotConfig, "build", other)


def test_a_dimension_that_never_moves_is_named_and_has_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, action=lambda found: found.action * np.array([1, 0], np.float32) + np.float32(0.25))
    found = comparing.compare(folder, [], 4)
    assert found.constant == found.dimensions[1:]
    assert all(row.rmse[1] == row.worst[1] == 0 < row.rmse[0] for row in found.tokenizers)
    code, text = say(folder, "--horizon", 4, "--out", tmp_path)
    assert code == 0
    assert "never moves, and is decoded to its constant" in text


def test_a_robot_that_stands_still_has_no_error_and_one_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, action=lambda found: np.full_like(found.action, 0.25))
    found = comparing.compare(folder, [], 4)
    assert all(row.rmse_share == 0 and row.perplexity == pytest.approx(1) for row in found.tokenizers)


def test_what_cannot_be_compared_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"episodes: found none longer than \d+ steps; expected at least one of 900.*Type"
    ):
        comparing.compare(folder, [], 900)
    (tmp_path / "text.jsonl").write_text('{"text": "one"}\n')
    code, text = say(tmp_path / "text.jsonl")
    assert code == 2
    assert "found a set of kind 'text'; expected robot episodes, with actions" in " ".join(text.split())
    with pytest.raises(DataError, match="no such file or folder"):
        comparing.compare(tmp_path / "gone", [], 4)
    (tmp_path / "empty").mkdir()
    code, text = say(tmp_path / "empty")
    assert (code, "Traceback" in text) == (2, False)
    assert text.startswith(f"DataError: {tmp_path / 'empty'}: found")
    with monkeypatch.context() as patch:
        altered(patch, end=lambda found: np.arange(1, len(found.action) + 1), number=lambda f: np.arange(len(f.action)))
        with pytest.raises(DataError, match=r"none longer than 1 step; .* one step have no motion to compare"):
            comparing.compare(folder, [], 4)
    altered(monkeypatch, end=lambda found: found.end[-1:], number=lambda found: found.number[:1])
    with pytest.raises(DataError, match="at least two episodes"):
        comparing.compare(folder, [], 4)
