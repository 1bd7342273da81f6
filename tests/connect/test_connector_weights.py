import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.models.internvl.configuration_internvl import InternVLConfig
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

from trivium.connect.gate import GateConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.errors import ConfigError, SetupError

WIDE, GRID, OUT = 6, (4, 6), 10
CONVERTED = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}


@pytest.fixture
def projector() -> InternVLMultiModalProjector:
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={"hidden_size": WIDE}, text_config={"model_type": "qwen2", "hidden_size": OUT}
    )
    module = InternVLMultiModalProjector(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def named(projector: InternVLMultiModalProjector, naming: str) -> dict[str, torch.Tensor]:
    """Give the weights the names of a checkpoint, beside other weights of it."""
    state = projector.state_dict()
    if naming == "original":
        found = {f"{CONVERTED[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in state.items()}
    else:
        found = {f"{naming}multi_modal_projector.{name}": value for name, value in state.items()}
    return {**found, "vision_model.embeddings.class_embedding": torch.zeros(3), "mlp2.0.weight": torch.zeros(2)}


def build(path: Path | str, width_in: int = WIDE, width_out: int = OUT):
    return MlpConnectorConfig(path=str(path)).build(width_in, GRID, width_out, 1)


@pytest.mark.parametrize("naming", ["original", "model.", ""])
def test_parity_with_internvl_to_the_bit(tmp_path: Path, projector, naming: str):
    save_file(named(projector, naming), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"ps_version": "v2", "downsample_ratio": 0.5}))
    patches = torch.randn(2, GRID[0] * GRID[1], WIDE)
    shuffled = InternVLModel.pixel_shuffle(None, patches.view(2, *GRID, WIDE), 0.5)
    with torch.no_grad():
        expected = projector(shuffled.reshape(2, -1, 4 * WIDE))
        assert torch.equal(build(tmp_path)(patches), expected)
        assert torch.equal(build(tmp_path / "model.safetensors")(patches), expected)
    assert expected.std() > 0.05


@pytest.mark.parametrize("prefix", ["connect.", "model.connect."])
def test_ours_come_back_whatever_the_kind(tmp_path: Path, prefix: str):
    sizes = {"latents": 2, "depth": 1, "heads": 2, "groups": 1}
    for config in (MlpConnectorConfig(), PerceiverConfig(**sizes), GateConfig(**sizes, every=2)):
        first = config.build(WIDE, GRID, OUT, 4)
        weights = {prefix + name: value.bfloat16() for name, value in first.state_dict().items()}
        save_file(weights | {"vision.norm.weight": torch.ones(2)}, tmp_path / "weights.safetensors")
        again = config.replace(path=str(tmp_path / "weights.safetensors")).build(WIDE, GRID, OUT, 4)
        assert all(torch.equal(v, weights[prefix + n].float()) for n, v in again.state_dict().items())


def test_shards_are_read_together_and_a_missing_one_is_named(tmp_path: Path, projector):
    weights = list(named(projector, "").items())
    save_file(dict(weights[:3]), tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ConfigError, match=r"connect\.path: found .* without 3 of the connector's 6 weights, such as"):
        build(tmp_path)
    save_file(dict(weights[3:]), tmp_path / "model-00002-of-00002.safetensors")
    assert torch.equal(build(tmp_path).rise.weight, projector.linear_1.weight)


def test_weights_for_other_widths_are_refused(tmp_path: Path, projector):
    save_file(named(projector, ""), tmp_path / "a.safetensors")
    said = r"connect\.path: found .*a\.safetensors with norm\.bias of shape \(24,\); expected \(32,\)\."
    with pytest.raises(ConfigError, match=said):
        build(tmp_path, width_in=8)
    with pytest.raises(
        ConfigError, match=r"with rise\.bias of shape \(10,\); expected \(12,\)\. It was made for other wi"
    ):
        build(tmp_path, width_out=12)


def test_a_connector_of_another_kind_is_refused(tmp_path: Path):
    save_file({"connect.latent_tokens": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ConfigError, match=r"with a weight latent_tokens; expected .*norm\.weight.*another kind or depth"
    ):
        build(tmp_path)
    save_file({"language.embedding.weight": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ConfigError, match=r"without 6 of the .* begin with one of connect\., model\.connect\., mlp1\.0"
    ):
        build(tmp_path)


def test_the_older_order_is_refused_and_an_unknown_one_said_aloud(tmp_path: Path, projector, capsys):
    save_file(named(projector, "original"), tmp_path / "model.safetensors")
    build(tmp_path)
    assert "does not say in which order it folds patches; taken as ps_version v2" in " ".join(
        capsys.readouterr().out.split()
    )
    (tmp_path / "config.json").write_text(json.dumps({"ps_version": "v1"}))
    with pytest.raises(ConfigError, match=r"connect\.path: found .*config\.json with ps_version 'v1'; expected 'v2'"):
        build(tmp_path / "model.safetensors")


def test_files_that_are_not_there_not_whole_or_pickled_are_refused(tmp_path: Path, projector):
    with pytest.raises(SetupError, match=r"connect\.path: found no file .*nowhere"):
        build(tmp_path / "nowhere.safetensors")
    with pytest.raises(SetupError, match=r"connect\.path: found no safetensors file in"):
        build(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(
        ConfigError, match=r"connect\.path: .*expected a file that ends in \.safetensors.*Pickled weights"
    ):
        build(tmp_path / "pytorch_model.bin")
    file = tmp_path / "a.safetensors"
    save_file(named(projector, ""), file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"a\.safetensors, which cannot be read .*expected a whole safetensors file"):
        build(file)
    weights = {f"connect.{n}": v for n, v in MlpConnectorConfig().build(WIDE, GRID, OUT, 1).state_dict().items()}
    save_file(weights | {"connect.rise.bias": torch.full((OUT,), torch.nan)}, file)
    with pytest.raises(ConfigError, match=r"whose rise\.bias is not of finite numbers"):
        build(file)
