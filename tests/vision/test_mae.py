import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from trivium.core.errors import ConfigError
from trivium.vision.encoder import normalise
from trivium.vision.mae import MaeConfig, draw_mask, num_kept, patch_errors, patch_targets, pick
from trivium.vision.vit import VitConfig

SMALL = VitConfig(image_size=32, patch_size=8, width=48, depth=2, heads=2)


def pictures(n=2):
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_mask_is_exact_and_of_each_picture_by_itself():
    torch.manual_seed(0)
    kept, restore, hidden = draw_mask(torch.rand(32, 196), num_kept(196, 0.75))
    assert kept.shape == (32, 49)
    assert (hidden.sum(1) == 147).all()
    assert len(hidden.unique(dim=0)) == 32
    tokens = torch.arange(196.0).view(1, 196, 1).expand(32, -1, -1)
    assert not torch.zeros(32, 196, dtype=torch.bool).scatter(1, kept, True).logical_and(hidden).any()
    order = restore.argsort(1)
    assert torch.equal(pick(pick(tokens, order), restore), tokens)
    assert torch.equal(order[:, :49], kept)


def test_mask_and_loss_equal_vit_mae():
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        norm_pix_loss=True,
    )
    peer = ViTMAEForPreTraining(config).eval()
    images, noise = pictures(3), torch.rand(3, 16)
    with torch.no_grad():
        output = peer(normalise(images), noise=noise)
    _, restore, hidden = draw_mask(noise, num_kept(16, 0.75))
    assert torch.equal(restore, output.ids_restore)
    assert torch.equal(hidden.float(), output.mask)
    errors = patch_errors(output.logits, patch_targets(images, 8))
    assert ((errors * hidden).sum() / hidden.sum() - output.loss).abs() <= 1e-6


def test_targets_have_unit_unbiased_variance():
    targets = patch_targets(pictures(), 8)
    assert targets.shape == (2, 16, 192)
    assert (targets.var(-1, correction=1) - 1).abs().max() < 1e-4


def test_visible_pixels_do_not_enter_the_loss():
    torch.manual_seed(0)
    encoder = SMALL.build()
    decoder = MaeConfig(width=32).build(encoder)
    images = pictures()
    tokens, draw = encoder.embed(images), torch.rand(2, 16)
    errors, hidden = decoder(encoder.encode, images, tokens, draw)
    blocks = (~hidden).view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.randint(256, images.shape, dtype=torch.uint8)
    other, _ = decoder(encoder.encode, torch.where(blocks, noise, images), tokens, draw)
    assert torch.equal(errors[hidden], other[hidden])
    assert not torch.equal(errors[~hidden], other[~hidden])


def test_hidden_patches_do_not_reach_the_encoder():
    torch.manual_seed(0)
    encoder = SMALL.build()
    decoder = MaeConfig(width=32).build(encoder)
    images = pictures()
    tokens = encoder.embed(images).detach().requires_grad_()
    errors, hidden = decoder(encoder.encode, images, tokens, torch.rand(2, 16))
    (errors * hidden).sum().backward()
    reached = tokens.grad.abs().sum(-1) > 0
    assert torch.equal(reached, ~hidden)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mask_ratio": 1.0}, r"mae\.mask_ratio: found 1\.0 of 16 patches"),
        ({"mask_ratio": 0.0}, "mae.mask_ratio"),
        ({"width": 30}, r"mae\.width: found 30"),
    ],
)
def test_impossible_decoders_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        MaeConfig().replace(**change).build(SMALL.build())
