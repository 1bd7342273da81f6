import pytest
import torch
import torch.nn.functional as F

from trivium.nn.attention import Attention, additive, attend


def parts(groups=3, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    query = torch.randn(2, 6, 5, 8, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(2, groups, 7, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    seen = torch.rand(2, 1, 5, 7) < 0.6
    seen[..., 0], seen[..., -1] = True, False
    return query, key, value, seen


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_plain_bfloat16_path_is_attention(groups, scale):
    query, key, value, seen = parts(groups, torch.bfloat16)
    found = attend(query, key, value, additive(seen, torch.bfloat16), scale)
    q, k, v = (x.detach().float().requires_grad_() for x in (query, key, value))
    repeated = (x.repeat_interleave(6 // groups, dim=1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=seen, scale=scale)
    assert (found - expected).abs().max() < 0.03
    weight = torch.randn_like(expected)
    (found.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, theirs in ((query, q), (key, k), (value, v)):
        assert (mine.grad.float() - theirs.grad).abs().max() < 0.03 * theirs.grad.abs().max()


def test_grouped_heads_float32_equal_repeated_ones():
    query, key, value, seen = parts(3)
    found = attend(query, key, value, additive(seen, torch.float32))
    repeated = (x.repeat_interleave(2, dim=1) for x in (key, value))
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=seen)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_keys_do_not_leak_by_a_bit(dtype):
    query, key, value, seen = parts(3, dtype)
    mask = additive(seen, dtype)
    before = attend(query, key, value, mask)
    hidden = ~seen.any(dim=2).squeeze(1)  # keys that no query of the sample sees
    assert hidden.any(1).all()
    noisy = [torch.where(hidden[:, None, :, None], 100 * torch.randn_like(x), x) for x in (key, value)]
    assert torch.equal(attend(query, *noisy, mask), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_may_see_nothing_answers_zero_and_stays_finite(dtype):
    torch.manual_seed(0)
    layer = Attention(16, 2, context_width=12).to(dtype)
    x = torch.randn(2, 3, 16, dtype=dtype, requires_grad=True)
    context = torch.randn(2, 4, 12, dtype=dtype)
    mask = torch.ones(2, 1, 4, dtype=torch.bool)
    mask[0] = False
    answer = layer(x, context, mask)
    torch.testing.assert_close(answer[0], layer.out.bias.expand(3, -1), atol=0, rtol=0)
    answer.sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))
    assert (answer[1] - layer.out.bias).abs().max() > 1e-3


def test_cross_attention_ignores_the_order_of_its_context():
    torch.manual_seed(0)
    layer = Attention(16, 4, context_width=16)
    x, context = torch.randn(1, 3, 16), torch.randn(1, 9, 16)
    shuffled = context[:, torch.randperm(9)]
    torch.testing.assert_close(layer(x, context), layer(x, shuffled), atol=1e-6, rtol=0)


def test_width_that_heads_do_not_divide_is_named():
    with pytest.raises(AssertionError, match="attention width 10 is not a multiple of 4 heads"):
        Attention(10, 4)
