"""Whatever a model says, the robot gets a finite command that it has been given before."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run
from wild import wild

from trivium.action import autoencoder
from trivium.action.bins import BinsConfig
from trivium.action.fast import FastConfig
from trivium.action.fast_reader import PublishedFastConfig
from trivium.action.mulaw import MulawConfig
from trivium.action.vqvae import VqVaeConfig
from trivium.core.sample import Sample
from trivium.data.column import ColumnStats
from trivium.data.source.lerobot import LeRobot, LeRobotConfig
from trivium.data.stats import measure
from trivium.data.transform import Normalize
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig

CONFIGS = (
    FastConfig(vocab_size=256),
    BinsConfig(),
    BinsConfig(convention="rt1"),
    MulawConfig(),
    PublishedFastConfig(path=str(Path(__file__).parent / "published_fast")),
    VqVaeConfig(quantizer=VqConfig(size=64)),
    VqVaeConfig(quantizer=VqConfig(size=64, num_levels=3)),
    VqVaeConfig(quantizer=FsqConfig(levels=(8, 5, 5)), num_vectors=6),
)
NAMES = ["fast", "bins", "bins-rt1", "mulaw", "published_fast", "vq", "residual-vq", "fsq"]
DEMO = Path(os.environ.get("TRIVIUM_DEMO", "data/quickstart")) / "robot"
BLOCK = 5000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of learned codes: a guarantee does not hang on how well they were learned."""
    monkeypatch.setattr(autoencoder, "STEPS", 30)


class Setting:
    """A robot's chunks as a run sees them, and the way back to physical units."""

    def __init__(self, path: Path, horizon: int) -> None:
        source = LeRobotConfig(path=str(path), views=(), horizon=horizon).build()
        assert isinstance(source, LeRobot)
        self.source, every = source, np.arange(len(source))
        stats = measure([(source, every)])
        self.column: ColumnStats = stats[source.embodiment]["action"]
        self.normal = Normalize(stats)
        self.whole = every[source.motion(every).valid.all(1)]
        self.chunks = self.normal.motion(source.motion(self.whole)).action
        self.seen = Sample(id="seen", segments=(), source="", license="", embodiment=source.embodiment)

    def faults(self, decoded: np.ndarray) -> int:
        """Count chunks that are not finite, or command beyond what the robot was ever commanded."""
        physical = self.normal.inverse(decoded.reshape(-1, decoded.shape[2]), self.seen).reshape(decoded.shape)
        # float32 rounds the way to the normalised range and back.
        slack = 1e-6 * np.maximum(1, np.maximum(np.abs(self.column.min), np.abs(self.column.max)))
        good = (physical >= self.column.min - slack) & (physical <= self.column.max + slack)
        return int((~(np.isfinite(physical) & good).all((1, 2))).sum())


def blocks(sequences: Iterator[list[int]]) -> Iterator[list[list[int]]]:
    while found := list(islice(sequences, BLOCK)):
        yield found


def decode_wild(config: Any, setting: Setting, count: int, seed: int = 0) -> tuple[int, int, int]:
    """Return sequences decoded, faults, and repairs."""
    tokenizer = config.fit(setting.chunks)
    usual = tokenizer.encode_all(setting.chunks[:2000])
    seen = faults = 0
    for block in blocks(wild(tokenizer.vocab_size, usual, count, seed)):
        decoded = tokenizer.decode_all(block)
        assert decoded.dtype == np.float32
        assert np.abs(decoded).max() <= tokenizer.limit + 1e-6
        faults += setting.faults(decoded)
        seen += len(decoded)
    return seen, faults, tokenizer.num_repaired


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(small_run.write_set(tmp_path_factory.mktemp("guarantee") / "set"), 4)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_20_000_wild_sequences_decode_to_commands_within_the_robots_limits(config: Any, setting: Setting) -> None:
    seen, faults, repaired = decode_wild(config, setting, 20_000)
    assert (seen, faults) == (20_000, 0)
    assert 5000 < repaired < 20_000


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_real_chunks_need_no_repair(config: Any, setting: Setting) -> None:
    tokenizer = config.fit(setting.chunks)
    assert not setting.faults(tokenizer.decode_all(tokenizer.encode_all(setting.chunks)))
    assert tokenizer.num_repaired == 0


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_every_dimension_has_limits_of_its_own(config: Any) -> None:
    low, high = np.array([-0.1, 0.2, -1.0]), np.array([0.9, 0.3, 0.0])
    chunks = np.random.default_rng(0).uniform(low, high, (300, 6, 3))
    tokenizer = config.fit(chunks)
    decoded = tokenizer.decode_all(wild(tokenizer.vocab_size, tokenizer.encode_all(chunks), 900))
    below, above = decoded.min((0, 1)) - chunks.min((0, 1)), decoded.max((0, 1)) - chunks.max((0, 1))
    assert (below >= -1e-6).all()
    assert (above <= 1e-6).all()
    assert np.abs([below, above]).max() < 0.01, "limits that nothing reaches prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_million_wild_sequences(config: Any) -> None:
    if not DEMO.is_dir():
        pytest.skip("no demonstrations: `trivium demo-data data/quickstart`, or set TRIVIUM_DEMO")
    seen, faults, repaired = decode_wild(config, Setting(DEMO, 8), 1_000_000)
    print(f"{config.kind}: {seen:,} sequences, {faults} faults, {repaired:,} repaired")
    assert (seen, faults) == (1_000_000, 0)


@pytest.mark.slow
@pytest.mark.parametrize("config", [*CONFIGS[:4], *CONFIGS[5:]], ids=[*NAMES[:4], *NAMES[5:]])
def test_100_000_real_chunks(config: Any) -> None:
    if not DEMO.is_dir():
        pytest.skip("no demonstrations: `trivium demo-data data/quickstart`, or set TRIVIUM_DEMO")
    rng, seen, faults, repaired = np.random.default_rng(0), 0, 0, 0
    for horizon in (2, 4, 8, 12, 16, 20, 24, 30):
        setting = Setting(DEMO, horizon)
        config = config.replace(vocab_size=512) if isinstance(config, FastConfig) else config
        tokenizer = config.fit(setting.chunks)
        noisy = setting.chunks + rng.normal(0, 0.3, setting.chunks.shape).astype(np.float32)
        for chunks in (setting.chunks, noisy):
            decoded = tokenizer.decode_all(tokenizer.encode_all(chunks))
            faults += setting.faults(decoded)
            seen += len(chunks)
        repaired += tokenizer.num_repaired
    print(f"{config.kind}: {seen:,} chunks, {faults} faults, {repaired} repaired")
    assert seen >= 100_000
    assert (faults, repaired) == (0, 0)
