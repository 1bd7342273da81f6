"""Pretrained encoders from whole models, without halves (DINOv3, ResNet), in training, and what is wrong with files."""

import json

import pytest
import torch
import transformers
from small_vision import CONFIG, VIT, model
from torch import nn

from trivium.core.errors import ConfigError, SetupError
from trivium.vision.encoder import PatchEncoder, leave_out, normalise
from trivium.vision.pretrained import PretrainedVisionConfig

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VISION = TINY | {"image_size": 32, "patch_size": 8}
TEXT = TINY | {"vocab_size": 64, "max_position_embeddings": 16}
WHOLE = {
    "clip": (transformers.CLIPModel, transformers.CLIPConfig, "vision_model"),
    "siglip": (transformers.SiglipModel, transformers.SiglipConfig, "vision_model"),
    "siglip2": (transformers.Siglip2Model, transformers.Siglip2Config, "vision_model"),
}


def saved(tmp_path, original):
    original.eval().save_pretrained(tmp_path)
    return str(tmp_path)


def pictures(size=32):
    return torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def encoder_of(path, layers=3, size=32, **changes):
    return PretrainedVisionConfig(path=path, num_layers=layers, image_size=size, **changes).build()


def patch_weight(vision):
    return next(value for name, value in vision.state_dict().items() if "patch_embedding" in name and "weight" in name)


@pytest.mark.parametrize("family", WHOLE)
def test_the_encoder_is_found_inside_a_model_of_pictures_and_words(tmp_path, family):
    torch.manual_seed(0)
    make, config, inside = WHOLE[family]
    vision = VISION | ({"num_patches": 16} if family == "siglip2" else {})
    vision = {name: size for name, size in vision.items() if family != "siglip2" or name != "image_size"}
    original = make(config(vision_config=vision, text_config=TEXT))
    encoder = encoder_of(saved(tmp_path, original))
    weight = patch_weight(getattr(original, inside)).flatten(1)
    assert sorted(encoder.patch.weight.flatten().tolist()) == sorted(weight.flatten().tolist())
    assert encoder.grid == PretrainedVisionConfig(path=str(tmp_path), num_layers=3, image_size=32).grid() == (4, 4)


def test_internvit_is_found_inside_internvl(tmp_path):
    torch.manual_seed(0)
    words = transformers.Qwen2Config(**TEXT, num_key_value_heads=2).to_dict()
    config = transformers.InternVLConfig(vision_config=VISION, text_config=words, downsample_ratio=0.5)
    original = transformers.InternVLForConditionalGeneration(config)
    encoder = encoder_of(saved(tmp_path, original)).eval()
    images = pictures()
    with torch.no_grad():
        tower = original.eval().model.vision_tower
        expected = tower(normalise(images)).last_hidden_state[:, 1:]
        assert (encoder(images) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert encoder.grid == PretrainedVisionConfig(path=str(tmp_path), num_layers=3, image_size=32).grid()


def dinov3(**changes):
    torch.manual_seed(0)
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VISION, num_register_tokens=2, **changes))


@pytest.mark.parametrize(("size", "gated"), [(32, False), (48, True)])
def test_dinov3_equals_transformers_at_any_size(tmp_path, size, gated):
    original = dinov3(use_gated_mlp=gated)
    encoder = encoder_of(saved(tmp_path, original), size=size).eval()
    images = pictures(size)
    with torch.no_grad():
        expected = original(normalise(images)).last_hidden_state[:, 3:]
        assert (encoder(images) - expected).abs().max() <= 1e-5
        # Its places are not shifted at random while it learns, as those of DINOv3's own training are.
        assert torch.equal(encoder.train()(images), encoder.eval()(images))


def test_dinov3_cannot_leave_patches_out(tmp_path):
    encoder = encoder_of(saved(tmp_path, dinov3()))
    assert not isinstance(encoder, PatchEncoder)
    with pytest.raises(ConfigError, match=r"objective\.mae: .*RotaryEncoder, which needs whole pictures"):
        CONFIG.build(model(encoder))
    learner = CONFIG.replace(mae=0.0).build(model(encoder))
    losses = learner(learner.fake_batch())
    losses.total(losses.counts()).backward()
    assert all(p.grad is not None for p in encoder.blocks.parameters())


def resnet(layer_type, first=False):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32, 64],
        depths=[1, 2, 1],
        layer_type=layer_type,
        downsample_in_first_stage=first,
    )
    original = transformers.ResNetModel(config)
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    return original


@pytest.mark.parametrize(("layer_type", "first"), [("basic", False), ("bottleneck", False), ("basic", True)])
@pytest.mark.parametrize(("layers", "stage"), [(4, 3), (3, 2), (1, 1)])
def test_resnet_equals_transformers(tmp_path, layer_type, first, layers, stage):
    original = resnet(layer_type, first)
    encoder = encoder_of(saved(tmp_path, original), layers, size=70).eval()
    images = pictures(70)
    with torch.no_grad():
        expected = original(normalise(images), output_hidden_states=True).hidden_states[stage]
        assert (encoder(images) - expected.flatten(2).transpose(1, 2)).abs().max() <= 1e-5
    assert encoder.grid == tuple(expected.shape[2:])
    assert encoder.width == expected.shape[1]
    assert PretrainedVisionConfig(path=str(tmp_path), num_layers=layers, image_size=70).grid() == encoder.grid


def test_leaving_out_keeps_the_mean():
    torch.manual_seed(0)
    before, added = torch.randn(4000, 1, 3), torch.randn(4000, 1, 3)
    found = leave_out(before, before + added, 0.25)
    skipped = (found == before).all(-1).squeeze(1)
    assert abs(skipped.float().mean().item() - 0.25) < 0.03
    torch.testing.assert_close(found[~skipped], (before + added / 0.75)[~skipped])
    ones = leave_out(torch.zeros(4000, 1, 3), torch.ones(4000, 1, 3), 0.25)
    assert abs(ones.mean().item() - 1) < 0.03


def test_later_blocks_are_left_out_more_often():
    class Count(nn.Module):
        def forward(self, x):
            return x + 1

    encoder = VIT.replace(depth=5, drop_path=0.4).build()
    encoder.blocks = nn.ModuleList(Count() for _ in range(5))
    tokens = torch.zeros(20000, 1, 1)
    torch.manual_seed(0)
    found = encoder.through(tokens)
    # 1 / (1 - rate) with chance 1 - rate: the mean is 1 a block, the variance rate / (1 - rate).
    rates = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert abs(found.mean().item() - 5) < 0.03
    assert abs(found.var().item() - sum(rate / (1 - rate) for rate in rates)) < 0.05
    assert torch.equal(encoder.eval().through(tokens), tokens + 5)


def test_drop_path_reaches_pretrained_blocks_and_no_resnet(tmp_path):
    path = saved(tmp_path / "v3", dinov3())
    encoder, images = encoder_of(path, drop_path=0.5), pictures().repeat(8, 1, 1, 1)
    torch.manual_seed(0)
    assert not torch.equal(encoder(images), encoder.eval()(images))
    with pytest.raises(ConfigError, match=r"vision\.drop_path: found 0\.5 for a ResNet; expected 0\.0"):
        encoder_of(saved(tmp_path / "conv", resnet("basic")), 4, drop_path=0.5)


def test_a_missing_shard_is_named(tmp_path):
    dinov3().save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    lost = sorted(set(index["weight_map"].values()))[1]
    (tmp_path / lost).unlink()
    with pytest.raises((SetupError, ConfigError), match=rf"vision\.path: found .*{lost}"):
        encoder_of(str(tmp_path))


def test_a_cut_file_is_named(tmp_path):
    path = saved(tmp_path, dinov3())
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises((SetupError, ConfigError), match=r"vision\.path: found .*Check that the folder holds"):
        encoder_of(path)


def test_weights_of_another_shape_are_named(tmp_path):
    path = saved(tmp_path, dinov3())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises((SetupError, ConfigError), match=r"vision\.path"):
        encoder_of(path)


@pytest.mark.parametrize("layers", [0, 5])
def test_more_blocks_than_a_resnet_has_are_refused(tmp_path, layers):
    path = saved(tmp_path, resnet("basic"))
    for act in (
        lambda: encoder_of(path, layers),
        PretrainedVisionConfig(path=path, num_layers=layers, image_size=64).grid,
    ):
        with pytest.raises(ConfigError, match=rf"vision\.num_layers: found {layers}; expected 1\.\.4"):
            act()
