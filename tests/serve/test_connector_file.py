"""A connector that began with weights from a file stands in an export by its trained weights alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trivium.cli.handover import export_run
from trivium.connect.gate import GateConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.serve.policy import load_policy

SIZES = {"latents": 3, "depth": 1, "heads": 2, "groups": 1}
KINDS = {"mlp": MlpConnectorConfig(), "perceiver": PerceiverConfig(**SIZES), "gate": GateConfig(**SIZES, every=1)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_needs_no_file_outside(kind: str, train: Callable[..., Path], tmp_path: Path) -> None:
    file, connect = tmp_path / "start.safetensors", KINDS[kind]
    weights = {f"connect.{name}": value for name, value in connect.build(32, (4, 4), 32, 2).state_dict().items()}
    save_file(weights, file)

    def change(config):
        model = config.model.replace(connect=connect.replace(path=str(file)))
        return config.replace(model=model, stages=(config.stages[1].replace(steps=2),))

    folder = export_run(train(change))
    file.unlink()
    policy = load_policy(folder)
    found = policy.policy.model.connect.state_dict()
    assert found.keys() == {name.removeprefix("connect.") for name in weights}
    assert any(not torch.equal(found[name.removeprefix("connect.")], value) for name, value in weights.items())
    assert str(tmp_path) not in (folder / "policy.json").read_text()
