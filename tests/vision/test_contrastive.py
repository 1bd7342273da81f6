import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from trivium.vision.contrastive import ContrastiveHead, Others, clip_losses, siglip_losses


def unit(n, d, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_parity_with_transformers(dtype, tolerance):
    x, y = unit(16, 8, dtype), unit(16, 8, dtype, seed=1)
    scale = torch.tensor(14.3, dtype=dtype)
    expected = image_text_contrastive_loss(scale * y @ x.T)
    assert (clip_losses(x, y, scale).mean() - expected).abs() <= tolerance


def test_random_vectors_start_at_about_ln_n():
    loss = clip_losses(unit(256, 512), unit(256, 512, seed=1), torch.tensor(1 / 0.07)).mean().item()
    assert abs(loss - 5.689) < 0.1  # ln 256 = 5.545, and a little for the temperature
    assert clip_losses(unit(256, 512), unit(256, 512, seed=1), torch.tensor(0.0)).mean().item() == pytest.approx(
        math.log(256), abs=1e-5
    )


def test_equal_captions_are_no_negatives():
    x, y = unit(4, 8), unit(4, 8, seed=1)
    y[1] = y[0]
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    scale = torch.tensor(10.0)
    found = clip_losses(x, y, scale, same)[0]
    logits = scale * x @ y.T
    rows, columns = logits[0, [0, 2, 3]], logits[[0, 2, 3], 0]
    expected = (rows.logsumexp(0) + columns.logsumexp(0)) / 2 - logits[0, 0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(clip_losses(x, y, scale, torch.eye(4, dtype=torch.bool)), clip_losses(x, y, scale))


def test_scale_starts_at_the_papers_value_and_never_passes_its_bound():
    torch.manual_seed(0)
    head = ContrastiveHead(8, 8, 8)
    assert head.log_scale.item() == pytest.approx(2.6593, abs=1e-4)
    images = torch.randn(6, 8)
    torch.nn.init.eye_(head.image.weight)
    torch.nn.init.eye_(head.text.weight)
    optimizer = torch.optim.SGD([head.log_scale], lr=1e6)
    captions = torch.arange(6).unsqueeze(1)
    head(images, images, captions).mean().backward()
    optimizer.step()
    assert head.log_scale.exp() > 100, "the step was to overshoot"
    head(images, images, captions)
    assert head.log_scale.exp() <= 100.001
    assert head.log_scale.item() == pytest.approx(math.log(100))


def test_logits_are_float32_under_bfloat16_weights():
    head = ContrastiveHead(8, 6, 4).to(torch.bfloat16)
    captions = torch.arange(3).unsqueeze(1)
    losses = head(torch.randn(3, 8, dtype=torch.bfloat16), torch.randn(3, 6, dtype=torch.bfloat16), captions)
    assert losses.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_siglip_by_hand(dtype, tolerance):
    x, y = unit(6, 8, dtype), unit(6, 8, dtype, seed=1)
    found = siglip_losses(x, y, torch.tensor(7.0, dtype=dtype), torch.tensor(-3.0, dtype=dtype))
    for i in range(6):
        expected = 0.0
        for j in range(6):
            logit = 7.0 * float(x[i] @ y[j]) - 3.0
            expected += math.log1p(math.exp(-logit if i == j else logit))
        assert abs(found[i].item() - expected) <= tolerance * max(1, expected)


def test_siglip_starts_at_the_papers_values():
    loss = siglip_losses(unit(256, 512), unit(256, 512, seed=1), torch.tensor(10.0), torch.tensor(-10.0)).mean().item()
    assert abs(loss - 9.975) < 0.1
    head = ContrastiveHead(8, 8, 8, "siglip")
    assert (head.log_scale.exp().item(), head.bias.item()) == (pytest.approx(10.0), -10.0)
    assert ContrastiveHead(8, 8, 8).bias is None


def test_siglip_leaves_equal_captions_out():
    x, y = unit(3, 8), unit(3, 8, seed=1)
    scale, bias = torch.tensor(5.0), torch.tensor(-2.0)
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    found = siglip_losses(x, y, scale, bias, same)
    kept = [0, 2]  # the second caption is the first's twin
    expected = siglip_losses(x[kept], y[kept], scale, bias)[0]
    torch.testing.assert_close(found[0], expected)


def test_the_losses_of_a_part_are_those_of_its_rows():
    x, y, scale = unit(6, 8), unit(6, 8, seed=1), torch.tensor(9.0)
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    part = slice(2, 5)
    others = Others(x, y, start=2)
    torch.testing.assert_close(
        clip_losses(x[part], y[part], scale, same[part], others), clip_losses(x, y, scale, same)[part]
    )
    torch.testing.assert_close(
        siglip_losses(x[part], y[part], scale, -scale, same[part], others),
        siglip_losses(x, y, scale, -scale, same)[part],
    )


def test_the_head_tells_equal_captions_apart_from_others():
    torch.manual_seed(0)
    head = ContrastiveHead(8, 8, 8).eval()
    images, texts = torch.randn(3, 8), torch.randn(3, 8)
    captions = torch.tensor([[1, 2, -1], [1, 2, -1], [1, 2, 3]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    x, y = (F.normalize(side, dim=-1) for side in (head.image(images), head.text(texts)))
    torch.testing.assert_close(head(images, texts, captions), clip_losses(x, y, head.log_scale.exp(), same))
