import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fuzz import survive

from trivium.action import autoencoder
from trivium.action.bins import BinsConfig
from trivium.action.choice import CLASSES, TokenizerConfig, open_tokenizer
from trivium.action.fast import FastConfig
from trivium.action.fast_reader import PublishedFastConfig
from trivium.action.mulaw import MulawConfig
from trivium.action.tokenizer import ActionTokenizer, Robot
from trivium.action.vqvae import VqVaeConfig
from trivium.core.config import Config
from trivium.core.errors import CheckpointError
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig

HORIZON = 5
CHUNKS = np.random.default_rng(0).uniform(-1, 1, (60, HORIZON, 3)).cumsum(1).clip(-1.2, 1.2)
ARM = Robot("arm", ("x", "y", "z"), np.array([-0.5, 0.0, 1.0]), np.array([0.5, 2.0, 3.0]))
CONFIGS = (
    FastConfig(vocab_size=120),
    BinsConfig(),
    BinsConfig(convention="rt1", num_bins=16),
    MulawConfig(limit=1.5),
    PublishedFastConfig(path=str(Path(__file__).parent / "published_fast")),
    VqVaeConfig(quantizer=VqConfig(size=16, num_levels=2), num_vectors=3),
    VqVaeConfig(quantizer=FsqConfig(levels=(5, 3))),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of learned codes: a guarantee does not hang on how well they were learned."""
    monkeypatch.setattr(autoencoder, "STEPS", 30)


def saved(config: Any, path: Path) -> ActionTokenizer:
    tokenizer = config.fit(CHUNKS)
    tokenizer.save(path, ARM)
    return tokenizer


def open_again(path: Path, config: Config, robot: Robot = ARM, horizon: int = HORIZON) -> ActionTokenizer:
    return open_tokenizer(path, config, robot, horizon)


def test_every_member_of_the_union_can_be_opened() -> None:
    configs = get_args(get_args(TokenizerConfig)[0])
    kinds = [config.model_fields["kind"].default for config in configs]
    assert [cls.FORMAT for cls in CLASSES] == [f"trivium-{kind}" for kind in kinds]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_saved_tokenizer_is_the_same(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    made = saved(config, path)
    again = open_again(path, config)
    ids = made.encode_all(CHUNKS)
    assert again.encode_all(CHUNKS) == ids
    wild = [*ids, *np.random.default_rng(1).integers(0, made.vocab_size, (50, 30)).tolist()]
    assert np.array_equal(again.decode_all(wild), made.decode_all(wild))
    assert again.limit == made.limit
    again.save(tmp_path / "twice.json", ARM)
    assert (tmp_path / "twice.json").read_text() == path.read_text()


def test_a_file_of_another_robot_is_refused(tmp_path: Path) -> None:
    config, path = CONFIGS[0], tmp_path / "tokenizer.json"
    saved(config, path)
    others = {
        "robot: found 'arm'; expected 'hand': the file belongs to another": Robot("hand", ARM.names, ARM.low, ARM.high),
        "dimensions: found x, y, z; expected x, y, gripper": Robot("arm", ("x", "y", "gripper"), ARM.low, ARM.high),
        "normalisation: found -0.5 to 0.5; 0 to 2; 1 to 3; expected -0.5 to 0.5; 0 to 2; 1 to 4": Robot(
            "arm", ARM.names, ARM.low, np.array([0.5, 2.0, 4.0])
        ),
    }
    for text, robot in others.items():
        with pytest.raises(CheckpointError, match=text):
            open_again(path, config, robot)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: horizon: found 5; expected 8.*Delete it: it is fitted"):
        open_again(path, config, horizon=8)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_broken_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    config, path = CONFIGS[0], tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"FileNotFoundError.*Delete it"):
        open_again(path, config)
    saved(config, path)
    with pytest.raises(CheckpointError, match=r"found ValueError: format 'trivium-fast' version 2; .*trivium-bins"):
        open_again(path, BinsConfig())
    text = path.read_text()
    for change, found in (
        (lambda data: data.update(version=1), "version 1"),
        (lambda data: data.pop("merges"), "KeyError: 'merges'"),
        (lambda data: data["merges"].append([0, 500]), "a merge of ids 0 and 500, where there are 120"),
        (lambda data: data["merges"].append([0, -1]), "a merge of ids 0 and -1"),
        (lambda data: data["merges"].append([0, 1.5]), "merges that are no pairs of ids"),
        (lambda data: data["merges"].append([0, 1, 2]), "too many values"),
        (
            lambda data: data["merges"].extend([119 + i] * 2 for i in range(50)),
            "a word of .* coefficients in chunks of 15",
        ),
        (lambda data: data.update(num_first=99), "the first 99 of them"),
        (lambda data: data["reach"].update(horizon=10**9), "horizon 1000000000"),
        (lambda data: data["reach"].update(low=[0.0, float("nan"), 0.0]), "a reach that is not finite"),
        (lambda data: data["reach"].update(high=[-2.0, 1.0, 1.0]), "upside down"),
        (lambda data: data.update(scale=1e308), "cannot convert float infinity"),
        (lambda data: data["robot"].update(low=[1.0]), "a normalisation of another number of dimensions"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=found):
            open_again(changed(path, change), config)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=r"JSONDecodeError.*expected an action tokenizer, trivium-fast version 2"):
        open_again(path, config)
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="RecursionError"):
        open_again(path, config)
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CheckpointError, match="67,108,865 bytes"):
        open_again(path, config)


@pytest.mark.parametrize("config", [*CONFIGS[:2], *CONFIGS[4:]], ids=lambda config: config.kind)
def test_damaged_files_are_refused_or_still_decode(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    saved(config, path)

    def use() -> None:
        tokenizer = open_again(path, config)
        wild = np.random.default_rng(0).integers(0, tokenizer.vocab_size, (5, 12))
        chunks = tokenizer.decode_all(wild.tolist())
        assert chunks.shape == (5, HORIZON, 3)
        assert np.isfinite(chunks).all()
        tokenizer.encode_all(CHUNKS[:3])

    assert survive(path, use, 600)["refused"] > 300
