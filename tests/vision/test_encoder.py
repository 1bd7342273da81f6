import pytest
import torch

from trivium.core.errors import ConfigError
from trivium.vision.encoder import cut, normalise
from trivium.vision.vit import VitConfig

SMALL = VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2)


def pictures(n=2, size=32):
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8)


def test_normalise_by_hand():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    found = normalise(images)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        expected = [(value / 255 - mean) / std for value in (0, 128, 255)]
        torch.testing.assert_close(found[0, channel, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_cut_is_the_patch_convolution():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 4, 4, bias=False)
    images = torch.randn(2, 3, 8, 12)
    found = cut(images, 4).flatten(2) @ conv.weight.flatten(1).T
    torch.testing.assert_close(found, conv(images).flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


def test_vit_encodes_patches_row_major_and_any_subset():
    torch.manual_seed(0)
    encoder = SMALL.build()
    images = pictures()
    assert encoder(images).shape == (2, encoder.num_patches, 32) == (2, 16, 32)
    tokens = encoder.embed(images)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] ^= 1  # row 1, column 3
    different = (encoder.embed(changed) != tokens).any(-1)
    assert different[0].nonzero().flatten().tolist() == [7]
    assert encoder.encode(tokens[:, :5]).shape == (2, 5, 32)


def test_names_are_friendly_to_freezing():
    names = {name.split(".")[0] for name, _ in SMALL.build().named_parameters()}
    assert names == {"patch", "blocks", "norm"}


@pytest.mark.parametrize("shape", [(1, 3, 40, 40), (1, 3, 32, 24)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match=r"vision\.image_size: found images of shape .* expected \(3, 32, 32\)"):
        SMALL.build().check(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(("change", "text"), [({"image_size": 30}, "image_size: found 30"), ({"heads": 5}, "width")])
def test_sizes_that_do_not_divide_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        SMALL.replace(**change).build()
