import pytest
import torch
import transformers
from vision_families import FAMILIES, pictures, saved

from trivium.vision.encoder import normalise
from trivium.vision.hub_folder import write_vision
from trivium.vision.pretrained import PretrainedVisionConfig

WRITTEN = ("dinov2", "registers", "vit", "siglip", "clip", "dinov3", "internvit")


def trained(tmp_path, family: str, size: int = 48):
    """Load an encoder of another size than its folder's, shortened, and move every weight as training would."""
    _, path = saved(tmp_path / "from", family)
    config = PretrainedVisionConfig(path=path, num_layers=2, image_size=size)
    encoder = config.build()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if family != "clip" or name != "patch.bias":
                parameter += 0.05 * torch.randn_like(parameter)
    return encoder.eval(), config


@pytest.mark.parametrize("family", WRITTEN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transformers_sees_what_we_see(tmp_path, family: str) -> None:
    encoder, config = trained(tmp_path, family)
    out = tmp_path / "out"
    assert write_vision(encoder, config, out) == ""
    model = transformers.AutoModel.from_pretrained(out).eval()
    images = pictures(48)
    with torch.no_grad():
        found = model(normalise(images, encoder.mean, encoder.std)).last_hidden_state[:, -36:]
        found = model.post_layernorm(found) if family == "clip" else found
        expected = encoder(images)
    assert (found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert str(tmp_path) not in (out / "config.json").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_alone_builds_the_encoder_that_takes_the_weights(tmp_path, family: str) -> None:
    encoder, config = trained(tmp_path, family)
    out = tmp_path / "out"
    why = write_vision(encoder, config, out)
    assert bool(why) == (family not in WRITTEN)
    assert (out / "model.safetensors").exists() == (family in WRITTEN)
    again = config.replace(path=str(out)).skeleton().eval()
    assert again.state_dict().keys() == encoder.state_dict().keys()
    again.load_state_dict(encoder.state_dict())
    images = pictures(48)
    with torch.no_grad():
        assert torch.equal(again(images), encoder(images))


def test_a_resnet_keeps_its_weights_in_our_file(tmp_path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "from")
    config = PretrainedVisionConfig(path=str(tmp_path / "from"), num_layers=2, image_size=32)
    encoder = config.build().eval()
    assert write_vision(encoder, config, tmp_path / "out") == "its blocks keep running statistics"
    again = config.replace(path=str(tmp_path / "out")).skeleton().eval()
    again.load_state_dict(encoder.state_dict())
    images = pictures()
    assert torch.equal(again(images), encoder(images))


def test_what_transformers_has_no_place_for_is_said(tmp_path) -> None:
    encoder, config = trained(tmp_path, "clip")
    torch.nn.init.constant_(encoder.patch.bias, 0.1)
    assert "learned a bias" in write_vision(encoder, config, tmp_path / "out")
    assert not (tmp_path / "out/model.safetensors").exists()
