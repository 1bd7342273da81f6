"""Vector quantisation, alone and in a row: learning, gradients, precision, resuming, and what goes wrong."""

import pytest
import torch
from safetensors.torch import load, save

from trivium.core.errors import ConfigError
from trivium.nn.codebook import DEAD, Codebook, VectorQuantizer, VqConfig
from trivium.nn.quantizer import straight_through, usage


def clusters(num: int, width: int = 6, kinds: int = 16, seed: int = 0) -> torch.Tensor:
    """Vectors around a few centres that are always the same."""
    centres = torch.randn(kinds, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(kinds, (num,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn(num, width, generator=generator)


def taught(size: int = 16, num_levels: int = 1, steps: int = 50) -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VqConfig(size=size, num_levels=num_levels).build(6)
    for step in range(steps):
        quantizer(clusters(500, seed=step))
    return quantizer


def test_codes_come_to_lie_where_the_vectors_are():
    quantizer = taught(size=32).eval()
    fresh = clusters(2000, seed=1000)
    found = quantizer(fresh)
    assert (found.vectors - fresh).square().mean() < 1.1 * 0.1**2
    assert found.ids.shape == (2000, 1)
    assert torch.equal(quantizer.lookup(found.ids), found.vectors)
    use = usage(found.ids, 32)
    assert use.perplexity > 14
    assert use.dead < 0.3


def test_every_level_leaves_less_over():
    quantizer = taught(num_levels=5).eval()
    left = quantizer.energy(clusters(2000, seed=1000))
    assert all(after < before for before, after in zip([1.0, *left], left, strict=False)), left
    found = quantizer(clusters(100, seed=1001))
    assert found.ids.shape == (100, 5)
    assert torch.equal(quantizer.lookup(found.ids), found.vectors)
    # Fewer ids give a coarser vector, not another one.
    errors = [(quantizer.lookup(found.ids[:, :n]) - clusters(100, seed=1001)).square().mean() for n in range(1, 6)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("num_levels", [1, 4])
def test_the_gradient_passes_once_and_unchanged(num_levels: int):
    quantizer = taught(num_levels=num_levels)
    x = clusters(50).requires_grad_()
    weights = torch.randn(50, 6)
    (quantizer(x).vectors * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_commitment_draws_vectors_to_their_codes_and_leaves_the_codes():
    quantizer = taught().eval()
    x = clusters(50).requires_grad_()
    found = quantizer(x)
    found.commitment.sum().backward()
    torch.testing.assert_close(x.grad, 2 * (x - found.vectors).detach() / 6)
    assert not list(quantizer.parameters())


def test_evaluation_moves_nothing():
    quantizer = taught().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(clusters(500, seed=77))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_dead_codes_start_again_at_vectors_of_the_batch():
    quantizer = taught()
    (book,) = quantizer.levels
    book.codes[:4] = 1000.0
    book.sums[:4] = 1000.0 * book.counts[:4, None]
    for step in range(400):
        quantizer(clusters(500, seed=step))
    assert book.codes.abs().max() < 10, "codes that no vector comes near have been given up"
    assert (book.counts >= DEAD * book.counts.mean() * 0.99).all()
    assert usage(quantizer.eval()(clusters(2000)).ids, 16).dead == 0


def test_a_code_in_use_is_never_given_up_where_vectors_are_fewer_than_codes():
    torch.manual_seed(0)
    centres = torch.eye(64)
    quantizer = VqConfig(size=64).build(64)
    quantizer(centres.repeat(4, 1))  # every centre a code
    place = quantizer(centres).ids
    for step in range(300):  # 8 vectors a step for 64 codes: each is used once in eight steps
        quantizer(centres[torch.arange(8) + 8 * (step % 8)])
    torch.testing.assert_close(quantizer.eval()(centres).vectors, centres, atol=1e-3, rtol=0)
    assert (quantizer(centres).ids == place).all()


def test_codes_stay_in_float32_whatever_the_weights_are():
    quantizer = taught(num_levels=2)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    module = torch.nn.Sequential(torch.nn.Linear(6, 6), quantizer).to(torch.bfloat16)
    assert module[0].weight.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    x = clusters(300).bfloat16().requires_grad_()
    found = quantizer(x)
    assert (found.vectors.dtype, found.commitment.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(found.vectors, VectorQuantizer.lookup(taught(num_levels=2), found.ids).bfloat16())
    found.vectors.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_autocast_does_not_blur_what_is_compared():
    quantizer, x = taught(size=64, num_levels=2).eval(), clusters(2000)
    expected = quantizer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(x)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.vectors, expected.vectors)


def test_straight_through_gives_the_code_to_the_bit():
    x = torch.randn(1000).bfloat16()
    code = torch.randn(1000).bfloat16()
    assert torch.equal(straight_through(x, code), code)
    assert not torch.equal(x + (code - x), code), "the usual form would not do"


def test_learning_goes_on_bit_for_bit_from_saved_buffers():
    def learn(quantizer: VectorQuantizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            quantizer(clusters(200, seed=step))

    whole, first = (VqConfig(size=32, num_levels=2).build(6) for _ in range(2))
    learn(whole, range(20))
    learn(first, range(10))
    kept = save(first.state_dict())
    second = VqConfig(size=32, num_levels=2).build(6)
    second.load_state_dict(load(kept))
    learn(second, range(10, 20))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in second.state_dict().items())
    for left_out in ("counts", "sums", "codes", "started"):
        third = VqConfig(size=32, num_levels=2).build(6)
        third.load_state_dict({k: v for k, v in load(kept).items() if k != f"levels.0.{left_out}"}, strict=False)
        learn(third, range(10, 20))
        assert not torch.equal(third.levels[0].codes, whole.levels[0].codes), f"{left_out} does not matter"


def test_the_same_seed_gives_the_same_bits():
    first, second = taught(num_levels=2), taught(num_levels=2)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_few_vectors_start_a_codebook_too():
    torch.manual_seed(0)
    quantizer = VqConfig(size=64).build(6)
    quantizer(clusters(10))
    assert quantizer.levels[0].codes.isfinite().all()
    assert (quantizer.eval()(clusters(10)).vectors - clusters(10)).abs().max() < 1e-3


def test_an_empty_batch_is_answered_but_never_learned_from():
    quantizer = taught()
    with pytest.raises(AssertionError, match="cannot learn from a batch without vectors"):
        quantizer(torch.zeros(0, 6))
    assert quantizer.eval()(torch.zeros(0, 6)).ids.shape == (0, 1)


def test_usage_of_codes():
    assert usage(torch.arange(8), 8) == pytest.approx((8.0, 0.0))
    assert usage(torch.zeros(5, dtype=torch.long), 8) == pytest.approx((1.0, 7 / 8))


def test_settings_that_make_no_codebook_are_refused():
    with pytest.raises(ConfigError, match=r"quantizer\.size: found 1; expected 2 or more\. Change quantizer\.size"):
        VqConfig(size=1).build(4)
    with pytest.raises(ConfigError, match=r"quantizer\.num_levels: found 0; expected 1 or more"):
        VqConfig(num_levels=0).build(4)


def test_sizes_of_a_batch_do_not_change_what_is_nearest(monkeypatch: pytest.MonkeyPatch):
    book = taught().levels[0]
    x = clusters(300)
    expected = Codebook.nearest(book, x)
    assert torch.equal(expected, torch.cdist(x, book.codes).argmin(-1))
    monkeypatch.setattr("trivium.nn.codebook.ROWS", 7)
    assert torch.equal(Codebook.nearest(book, x), expected)
