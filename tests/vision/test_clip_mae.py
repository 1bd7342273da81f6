"""Clips: tubelets inflated from the image encoder, tube masks, and what a clip costs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_vision import CONFIG, VIT, encode, model, sample, train

from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Image, Sample
from trivium.vision.encoder import normalise
from trivium.vision.mae import draw_mask, num_kept, patch_targets
from trivium.vision.resnet import ResnetConfig
from trivium.vision.video import SpaceTime

CLIPS = CONFIG.replace(frames=4, tubelet=2, contrastive=0.0)


def pictures(n, seed=0):
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def built(frames, tubelet):
    torch.manual_seed(0)
    encoder = VIT.build()
    return encoder, SpaceTime(encoder, frames, tubelet)


@pytest.mark.parametrize(("frames", "tubelet"), [(2, 2), (4, 2), (4, 4), (3, 1)])
def test_a_still_clip_gives_what_its_picture_gives(frames, tubelet):
    encoder, space_time = built(frames, tubelet)
    images = pictures(2)
    clips = space_time.encode(encoder, space_time.embed(encoder, images.repeat_interleave(frames, 0)))
    expected = encoder(images).repeat_interleave(frames // tubelet, 0)
    assert (clips - expected).abs().max() <= 1e-5
    moving = space_time.encode(encoder, space_time.embed(encoder, pictures(2 * frames)))
    assert (moving - expected).abs().max() > 0.1


def test_both_projections_together_are_a_kernel_over_time():
    encoder, space_time = built(4, 2)
    torch.nn.init.normal_(space_time.motion.weight, std=0.1)
    images = pictures(4)
    found = space_time.embed(encoder, images) - encoder.positions
    space = encoder.patch.weight.unflatten(1, (3, 8, 8))
    motion = space_time.motion.weight.unflatten(1, (2, 3, 8, 8))
    # The kernel of one frame: its share of the mean, and its own part less what centring takes back.
    kernel = torch.stack([space / 2 + motion[:, i] - motion.mean(1) for i in range(2)], dim=2)
    clips = normalise(images).unflatten(0, (1, 4)).transpose(1, 2)
    expected = F.conv3d(clips, kernel, encoder.patch.bias, stride=(2, 8, 8))
    torch.testing.assert_close(found, expected[0].flatten(2).permute(1, 2, 0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tubelet", [1, 2])
def test_time_reaches_the_layers_and_frames_meet_only_in_tubelets(tubelet):
    encoder, space_time = built(4, tubelet)
    images = pictures(4)
    changed = images.clone()
    changed[-1] ^= 7
    with torch.no_grad():
        tokens, other = space_time.embed(encoder, images), space_time.embed(encoder, changed)
        moved = (space_time.encode(encoder, tokens) != space_time.encode(encoder, other)).any(-1).any(-1)
    assert moved.tolist() == ([False, False, False, True] if tubelet == 1 else [True, True])
    space_time.time_token.data.normal_()
    assert not torch.equal(space_time.embed(encoder, images), tokens)


def test_masks_are_tubes():
    learner = CLIPS.build(model())
    images, noise = pictures(8), torch.rand(2, 16)
    tokens = learner.space_time.embed(learner.vision, images)
    errors, hidden = learner.decoder(learner._encode, images, tokens, noise)
    assert errors.shape == hidden.shape == (4, 16)
    by_moment = hidden.unflatten(0, (2, 2))
    assert torch.equal(by_moment[:, 0], by_moment[:, 1])
    assert not torch.equal(by_moment[0], by_moment[1])
    _, _, expected = draw_mask(noise, num_kept(16, 0.75))
    assert torch.equal(by_moment[:, 0], expected)


def test_hidden_tubes_reach_neither_encoder_nor_loss_of_visible_ones():
    learner = CLIPS.build(model())
    images, noise = pictures(4), torch.rand(1, 16)
    tokens = learner.space_time.embed(learner.vision, images).detach().requires_grad_()
    errors, hidden = learner.decoder(learner._encode, images, tokens, noise)
    (errors * hidden).sum().backward()
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, ~hidden)


def test_targets_of_a_tubelet_hold_both_frames():
    images = pictures(4)
    targets = patch_targets(images, 8, 2)
    assert targets.shape == (2, 16, 2 * 192)
    assert (targets.var(-1, correction=1) - 1).abs().max() < 1e-4
    raw = normalise(images)[2:, :, 8:16, 24:32].permute(0, 2, 3, 1).reshape(-1)  # second clip moment, row 1, column 3
    torch.testing.assert_close(targets[1, 7], (raw - raw.mean()) / (raw.var() + 1e-6).sqrt(), atol=1e-4, rtol=0)


def test_moments_have_places_of_their_own_in_the_decoder():
    positions = CLIPS.build(model()).decoder.positions
    assert positions.shape == (32, 64)
    assert not torch.equal(positions[:16], positions[16:])
    torch.testing.assert_close(positions[16:] - positions[:16], (positions[16] - positions[0]).expand(16, -1))


@pytest.mark.parametrize(("frames", "tubelet"), [(4, 2), (2, 1)])
def test_fake_clips_run_and_counts_agree(frames, tubelet):
    learner = CONFIG.replace(frames=frames, tubelet=tubelet).build(model())
    batch = learner.fake_batch()
    assert len(batch.images) == 4 * frames
    losses = learner(batch)
    expected = {"contrastive": 4.0, "mae": 4.0 * 12 * frames // tubelet}
    assert learner.counts(batch) == losses.counts() == expected
    losses.total(losses.counts()).backward()
    gradients = {name: p.grad for name, p in learner.space_time.named_parameters()}
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert set(gradients) == ({"time_token", "motion.weight"} if tubelet > 1 else {"time_token"})


def test_clip_mae_overfits_moving_ramps():
    learner = CLIPS.build(model())
    ramp = torch.linspace(0, 1, 32)
    slope = torch.randn(4, 1, 3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(0, 1, 4)[None, :, None, None, None]
    images = torch.sigmoid(3 * (slope[:, :, :, 0] * (ramp + shift) + slope[:, :, :, 1] * ramp[:, None])).flatten(0, 1)
    batch = type(learner.fake_batch())(images=(images * 255).to(torch.uint8))
    assert train(learner, batch, 200, 3e-3)["mae"] < 0.1


def test_layout_takes_the_frames_of_one_camera():
    layout = CLIPS.layout(16, encode)
    clip = sample(views=("top",) * 4)
    assert layout.count(clip) == {"image": 32}
    assert len(layout.build(clip).images) == 4
    for views, found in (
        (("top",) * 3, "3 pictures"),
        (("top", "top", "side", "side"), r"4 pictures \(top, top, side"),
    ):
        with pytest.raises(DataError, match=rf"sample s: found {found}.*4 pictures of one view.*history=4"):
            layout.count(sample(views=views))
    nothing = Sample(id="s", segments=(), source="", license="")
    assert layout.count(nothing) == {}
    one = Sample(id="s", segments=(Image(pixels=np.zeros((32, 32, 3), np.uint8)),), source="", license="")
    assert CONFIG.replace(contrastive=0.0).layout(16, encode).count(one) == {"image": 16}


def test_impossible_clips_are_refused():
    with pytest.raises(ConfigError, match=r"objective\.tubelet: found 3; expected a divisor of frames \(4\)"):
        CLIPS.replace(tubelet=3).build(model())
    with pytest.raises(ConfigError, match=r"objective\.frames: found 4 beside the encoder Resnet.*Set frames=1"):
        CLIPS.build(model(ResnetConfig(image_size=64).build()))
