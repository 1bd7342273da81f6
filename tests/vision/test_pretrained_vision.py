import pytest
import torch
import transformers
from vision_families import FAMILIES, pictures, saved

from trivium.core.errors import ConfigError, SetupError
from trivium.vision.encoder import cut, normalise
from trivium.vision.pretrained import PretrainedVisionConfig, interpolate


@torch.no_grad()
def reference(family, original, encoder, images):
    pixels = normalise(images, encoder.mean, encoder.std)
    if family == "vit_mae":  # its forward pass always shuffles; hidden nothing, in order
        original.config.mask_ratio = 0.0
        return original(pixels, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state[:, 1:]
    if family == "siglip2":  # it takes patches that were cut outside, row by row, the channel last
        patches = cut(pixels, 8).permute(0, 1, 3, 4, 2).flatten(2)
        everything, side = torch.ones(patches.shape[:2], dtype=torch.int64), images.shape[-1] // 8
        return original(patches, everything, torch.tensor([[side, side]] * 2)).last_hidden_state
    hidden = original(pixels).last_hidden_state[:, -16:]
    return original.post_layernorm(hidden) if family == "clip" else hidden


@pytest.mark.parametrize("family", FAMILIES)
def test_full_depth_equals_transformers(tmp_path, family):
    original, path = saved(tmp_path, family)
    encoder = PretrainedVisionConfig(path=path, num_layers=3, image_size=32).build().eval()
    images = pictures()
    with torch.no_grad():
        expected = reference(family, original, encoder, images)
        error = (encoder(images) - expected).abs().max()
    assert error <= 1e-5 * max(1, expected.abs().max())  # InternViT has no norm at its end
    assert (encoder.width, encoder.grid, encoder.num_patches) == (24, (4, 4), 16)


@pytest.mark.parametrize("family", ["dinov2", "internvit", "siglip2"])
def test_another_size_equals_the_interpolation_of_transformers(tmp_path, family):
    original, path = saved(tmp_path, family)
    encoder = PretrainedVisionConfig(path=path, num_layers=3, image_size=48).build().eval()
    images = pictures(48)
    with torch.no_grad():
        if family == "siglip2":
            expected = reference(family, original, encoder, images)
        else:
            expected = original(normalise(images)).last_hidden_state[:, 1:]
        assert (encoder(images) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert encoder.grid == (6, 6)


def test_fewer_layers_keep_the_last_norm(tmp_path):
    original, path = saved(tmp_path, "dinov2")
    encoder = PretrainedVisionConfig(path=path, num_layers=2, image_size=32).build()
    assert all(module.training for module in encoder.modules()), "transformers loads in eval mode"
    encoder.eval()
    images = pictures()
    with torch.no_grad():
        hidden = original(normalise(images), output_hidden_states=True).hidden_states[2]
        assert (encoder(images) - original.layernorm(hidden)[:, 1:]).abs().max() <= 1e-5
    assert len(encoder.blocks) == 2

    assert "blocks.1.norm1.weight" in dict(encoder.named_parameters())


def test_a_subset_of_patches_can_be_encoded(tmp_path):
    _, path = saved(tmp_path, "registers")
    encoder = PretrainedVisionConfig(path=path, num_layers=3, image_size=32).build()
    assert encoder.encode(encoder.embed(pictures())[:, 3:7]).shape == (2, 4, 24)


def test_bfloat16_runs_close_to_float32(tmp_path):
    _, path = saved(tmp_path, "dinov2")
    encoder = PretrainedVisionConfig(path=path, num_layers=3, image_size=32).build().eval()
    images = pictures()
    with torch.no_grad():
        expected = encoder(images)
        assert (encoder.to(torch.bfloat16)(images) - expected).abs().max() < 0.1


def test_interpolation_to_the_same_grid_is_a_copy():
    positions = torch.randn(9, 4)
    assert torch.equal(interpolate(positions, (3, 3), {"mode": "bicubic"}), positions)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_layers": 4}, r"vision\.num_layers: found 4; expected 1\.\.3"),
        ({"num_layers": 0}, r"vision\.num_layers: found 0"),
        ({"image_size": 36}, r"vision\.image_size: found 36; expected a multiple of the patch, 8 pixels. Use 32 or 40"),
    ],
)
def test_wrong_numbers_are_named(tmp_path, change, text):
    _, path = saved(tmp_path, "dinov2")
    config = PretrainedVisionConfig(path=path, num_layers=3, image_size=32).replace(**change)
    with pytest.raises(ConfigError, match=text):
        config.build()


def test_a_model_that_is_no_known_encoder_is_refused(tmp_path):
    transformers.LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"vision\.path: found a llama model; expected one of clip, .*dinov2"):
        PretrainedVisionConfig(path=str(tmp_path), num_layers=1, image_size=32).build()


def test_weights_that_are_missing_are_refused(tmp_path):
    original, path = saved(tmp_path, "dinov2")
    original.config.num_hidden_layers = 4
    original.config.save_pretrained(tmp_path)
    with pytest.raises(
        SetupError, match=r"vision\.path: found .* without \d+ of its weights, such as encoder\.layer\.3"
    ):
        PretrainedVisionConfig(path=path, num_layers=2, image_size=32).build()
