import pytest
import torch

from trivium.action.flow import Flow, FlowConfig, draw_time, integrate
from trivium.action.model import Context
from trivium.core.errors import ConfigError

TINY = FlowConfig(horizon=4, width=32, heads=4, depth=2, num_draws=3)


def awake(config: FlowConfig = TINY, action_dim: int = 2, state_dim: int = 3, context_width: int = 8) -> Flow:
    """Build a head whose zero-initialised layers are not zero, as after some training."""
    torch.manual_seed(0)
    flow = config.build(action_dim, state_dim, context_width)
    for parameter in flow.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return flow


def context(samples: int, tokens: int = 5) -> Context:
    mask = torch.ones(samples, tokens, dtype=torch.bool)
    return Context(
        state=torch.randn(samples, 3),
        state_known=torch.ones(samples, dtype=torch.bool),
        tokens=torch.randn(samples, tokens, 8),
        mask=mask,
    )


def loss(flow: Flow, actions: torch.Tensor, valid: torch.Tensor, given: Context) -> torch.Tensor:
    torch.manual_seed(1)
    return flow.loss(actions, valid, given)


ALL = torch.ones(2, 4, dtype=torch.bool)


@pytest.mark.parametrize(("steps", "std"), [(5, 0.1999), (10, 0.2460), (50, 0.2890), (1000, 0.2987)])
def test_euler_with_the_exact_velocity_gives_the_closed_form_spread(steps: int, std: float) -> None:
    mean, spread = 0.5, 0.3

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        # E[noise - a | x_t] for a ~ N(mean, spread^2), x_t = t * noise + (1 - t) * a.
        gain = (t - (1 - t) * spread**2) / (t**2 + (1 - t) ** 2 * spread**2)
        return gain * (x - (1 - t) * mean) - mean

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, generator=generator)
    noise = ((noise - noise.mean()) / noise.std()).view(-1, 1, 1)
    found = integrate(velocity, noise, steps)
    assert found.mean().item() == pytest.approx(mean, abs=1e-3)
    assert found.std().item() == pytest.approx(std, rel=1e-2)


def test_time_law() -> None:
    torch.manual_seed(0)
    time = draw_time(400_000)
    assert time.mean().item() == pytest.approx(0.6004, abs=0.002)
    assert (time < 0.1).float().mean().item() == pytest.approx(0.031, abs=0.002)
    assert time.min().item() >= 0.001
    assert time.max().item() <= 1.0


def test_first_loss_is_one_plus_the_square_of_the_action() -> None:
    flow = TINY.replace(num_draws=400).build(2, 3, 8)
    error = loss(flow, torch.full((2, 4, 2), 2.0), ALL, context(2))
    assert error.mean().item() == pytest.approx(1 + 2.0**2, rel=0.05)


def test_steps_that_are_not_valid_have_no_influence_and_no_error() -> None:
    flow, given, actions = awake(), context(2), torch.randn(2, 4, 2)
    valid = ALL.clone()
    valid[0, 2:] = False
    first = loss(flow, actions, valid, given)
    actions[0, 2:] = float("nan")
    second = loss(flow, actions, valid, given)
    assert torch.equal(first, second)
    assert not second[0, 2:].any()
    assert second[0, :2].all()
    first.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
    blind = awake()
    loss(blind, torch.randn(2, 4, 2), torch.zeros_like(valid), given).sum().backward()
    assert not any(p.grad.any() for p in blind.parameters() if p.grad is not None)


def test_time_one_is_noise_and_the_target_points_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, seen = awake(), {}

    def velocity(noisy: torch.Tensor, time: torch.Tensor, *_: object) -> torch.Tensor:
        seen.update(noisy=noisy, time=time)
        return torch.zeros_like(noisy)

    monkeypatch.setattr(flow, "velocity", velocity)
    actions = torch.full((2, 4, 2), 1000.0)
    error = loss(flow, actions, ALL, context(2))
    share = seen["noisy"].mean((1, 2)) / 1000
    torch.testing.assert_close(share, 1 - seen["time"], atol=0.01, rtol=0)
    # A velocity of 0 errs by (noise - action)^2, about a million, whatever the time.
    torch.testing.assert_close(error, torch.full_like(error, 1e6), rtol=0.02, atol=0)


def test_valid_steps_do_not_attend_to_the_others() -> None:
    flow, given = awake(), context(2)
    noisy, time, seen = torch.randn(2, 4, 2), torch.rand(2), torch.ones(2, 1, 4, dtype=torch.bool)
    seen[0, :, 2:] = False
    read, state = flow._read(given), flow._embed_state(given)
    first = flow.velocity(noisy, time, read, state, seen)
    noisy[:, 2:] += 1.0
    second = flow.velocity(noisy, time, read, state, seen)
    assert torch.equal(first[0, :2], second[0, :2])
    assert not torch.equal(first[1, :2], second[1, :2])


def test_masked_context_tokens_have_no_influence() -> None:
    flow, given, actions = awake(), context(2), torch.randn(2, 4, 2)
    given.mask[0, 3:] = False
    given.mask[1] = False  # a sample that sees nothing at all
    first = loss(flow, actions, ALL, given)
    given.tokens[0, 3:] = 100.0
    given.tokens[1] = -5.0
    assert torch.equal(first, loss(flow, actions, ALL, given))
    given.tokens[0, 0] += 1.0
    assert not torch.equal(first[0], loss(flow, actions, ALL, given)[0])
    assert first.isfinite().all()


def test_an_unknown_state_is_never_read() -> None:
    flow, given, actions = awake(), context(2), torch.randn(2, 4, 2)
    given.state_known[0] = False
    first = loss(flow, actions, ALL, given)
    given.state[0] = float("nan")
    second = loss(flow, actions, ALL, given)
    assert torch.equal(first, second)
    second.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
    given.state[1] += 1.0
    assert not torch.equal(first[1], loss(flow, actions, ALL, given)[1])


def test_draws_share_the_context_and_equal_single_draws() -> None:
    flow, given = awake(), context(2)
    noisy, time = torch.randn(6, 4, 2), torch.rand(6)
    read, state = flow._read(given), flow._embed_state(given)
    together = flow.velocity(noisy, time, read, state)
    for draw in range(3):
        alone = flow.velocity(noisy[draw::3], time[draw::3], read, state)
        torch.testing.assert_close(together[draw::3], alone, atol=1e-6, rtol=1e-5)


def test_a_prior_skips_cross_attention_and_leaves_it_without_gradient() -> None:
    flow = awake()
    given = Context(state=torch.randn(2, 3), state_known=torch.ones(2, dtype=torch.bool))
    loss(flow, torch.randn(2, 4, 2), ALL, given).sum().backward()
    silent = {name for name, p in flow.named_parameters() if p.grad is None}
    assert silent == {name for name, _ in flow.named_parameters() if ".cross." in name or name.startswith("context.")}
    assert flow.blocks[0].attention.inner.query.weight.grad.any()


def test_two_modes_stay_two() -> None:
    torch.manual_seed(0)
    flow = FlowConfig(horizon=1, width=48, heads=4, depth=1, num_draws=8).build(1, 1, 8)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=3e-3)
    known = torch.ones(32, dtype=torch.bool)
    given = Context(state=torch.zeros(32, 1), state_known=known)
    actions = torch.tensor([-1.0, 1.0]).repeat(16).view(32, 1, 1)
    for _ in range(150):
        optimizer.zero_grad()
        flow.loss(actions, known[:, None], given).mean().backward()
        optimizer.step()
    many = Context(state=torch.zeros(400, 1), state_known=torch.ones(400, dtype=torch.bool))
    found = flow.sample(many, torch.Generator().manual_seed(0))
    assert 0.35 < (found > 0).float().mean() < 0.65
    assert found.abs().mean() > 0.7, "a regression to the mean would give 0"


def test_sampling_is_a_function_of_the_generator() -> None:
    flow, given = awake(), context(2)
    first, again = (flow.sample(given, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, flow.sample(given, torch.Generator().manual_seed(4)))
    assert first.shape == (2, 4, 2)
    assert first.dtype == torch.float32


def test_without_start_noise_sampling_is_deterministic() -> None:
    flow, given = awake(TINY.replace(start_noise=0.0)), context(2)
    first, again = (flow.sample(given, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert torch.equal(first, again)
    assert first.any()


def test_bfloat16_weights_keep_the_error_in_float32() -> None:
    actions, given = torch.randn(2, 4, 2), context(2)
    error = loss(awake().bfloat16(), actions, ALL, given)
    assert error.dtype == torch.float32
    assert error.mean().item() == pytest.approx(loss(awake(), actions, ALL, given).mean().item(), rel=0.05)


def test_bad_settings_are_refused_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"action.width: found 30; expected a multiple of 8 \(2 \* heads\)"):
        TINY.replace(width=30).build(2, 3, 8)
    with pytest.raises(ConfigError, match=r"action.start_noise: found -1.0; expected 0..2"):
        TINY.replace(start_noise=-1.0).build(2, 3, 8)
    with pytest.raises(ConfigError, match=r"action.num_draws: found 0; expected 1 or more"):
        TINY.replace(num_draws=0).build(2, 3, 8)
    with pytest.raises(ConfigError, match=r"action.horizon: found chunks of 5 steps x 2 dimensions; expected 4 x 2"):
        loss(awake(), torch.randn(2, 5, 2), torch.ones(2, 5, dtype=torch.bool), context(2))
