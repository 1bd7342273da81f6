import pytest
import torch
from small_vision import CONFIG, model
from torch import nn

from trivium.core.errors import ConfigError
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig
from trivium.vision.resnet import ResnetConfig

SMALL = ResnetConfig(image_size=64)


def pictures(n=4, size=64):
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("depth", "width", "parameters"), [(18, 512, 11_689_512), (50, 2048, 25_557_032)])
def test_parameters_with_a_head_of_a_thousand_classes(depth, width, parameters):
    encoder = SMALL.replace(depth=depth).build()
    head = nn.Linear(encoder.width, 1000)
    assert encoder.width == width
    assert sum(p.numel() for module in (encoder, head) for p in module.parameters()) == parameters


@pytest.mark.parametrize(("size", "side"), [(33, 2), (64, 2), (112, 4), (224, 7)])
def test_patches_are_the_cells_of_the_last_map(size, side):
    encoder = ResnetConfig(image_size=size).build()
    patches = encoder(pictures(1, size))
    assert encoder.grid == (side, side)
    assert patches.shape == (1, side * side, 512) == (1, encoder.num_patches, encoder.width)


def test_patches_are_row_major():
    torch.manual_seed(0)
    encoder = ResnetConfig(image_size=224).build().eval()
    images = pictures(1, 224)
    changed = images.clone()
    changed[:, :, :8, 188:196] ^= 255  # a new network looks at the first corner of a cell only
    with torch.no_grad():
        moved = (encoder(images) - encoder(changed)).abs().sum(-1)[0].view(7, 7)
    assert moved.argmax() == 6, "the upper right corner"


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_new_network_is_shallow(norm):
    encoder = SMALL.replace(norm=norm).build()
    x = torch.rand(2, 64, 8, 8)
    for block in encoder.blocks[:2]:
        assert torch.equal(block(x), x)  # the first stage has no shortcut: nothing but what goes straight through
    assert not torch.equal(encoder.blocks[2](x)[:, :64], x[..., ::2, ::2])


def test_group_norm_sees_every_picture_by_itself():
    torch.manual_seed(0)
    images = pictures()
    for norm, alone in (("group", True), ("batch", False)):
        encoder = SMALL.replace(norm=norm).build()
        with torch.no_grad():
            error = (encoder(images)[:1] - encoder(images[:1])).abs().max()
        assert (error < 1e-5) == alone
    groups = [m.num_groups for m in SMALL.replace(norm="group").build().modules() if isinstance(m, nn.GroupNorm)]
    assert set(groups) == {4, 8, 16, 32}


def stepped(learn):
    learner = CONFIG.replace(mae=0.0).build(model(SMALL.build()))
    optimizer, _ = StageConfig(name="see", steps=10, learn=learn, lr=1e-2).build(learner)
    before = {name: value.clone() for name, value in learner.vision.state_dict().items()}
    for _ in range(10):
        optimizer.begin_step()
        seen = differentiate(learner, [learner.fake_batch()], optimizer)
        optimizer.step(seen.total, 1.0)
    after = learner.vision.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_running_statistics_of_a_frozen_network_do_not_move():
    assert stepped(("contrast",)) == set()
    moved = stepped(("contrast", "vision.blocks.4-"))
    assert {name.split(".")[1] for name in moved} == {"4", "5", "6", "7"}
    assert "blocks.4.norms.0.running_mean" in moved


def test_batch_norm_stays_in_float32_and_exact():
    encoder = SMALL.build()
    encoder.norm.running_mean.fill_(1.001)
    encoder.to(torch.bfloat16)
    assert (encoder.stem.weight.dtype, encoder.norm.weight.dtype) == (torch.bfloat16, torch.float32)
    assert encoder.norm.running_mean.dtype == torch.float32
    assert encoder.norm.running_mean[0].item() == pytest.approx(1.001, abs=1e-7)
    patches = encoder(pictures())
    assert patches.dtype == torch.bfloat16
    patches.float().mean().backward()
    assert encoder.stem.weight.grad.dtype == torch.bfloat16


def test_mae_on_a_convolution_is_refused():
    with pytest.raises(
        ConfigError, match=r"objective\.mae: found a weight for MAE beside the encoder Resnet.*Set mae=0\.0"
    ):
        CONFIG.build(model(SMALL.build()))


def test_contrastive_learning_works_on_a_convolution():
    learner = CONFIG.replace(mae=0.0).build(model(SMALL.build()))
    losses = learner(learner.fake_batch())
    losses.total(losses.counts()).backward()
    assert all(p.grad is not None for p in learner.vision.parameters())


@pytest.mark.parametrize("size", [32, 96])
def test_pictures_of_another_size_are_refused(size):
    with pytest.raises(ConfigError, match=rf"vision\.image_size: found images of shape \(3, {size}, {size}\)"):
        SMALL.build()(pictures(1, size))
