import pytest
import torch
from action_heads import ALL, awake, context, loss

from trivium.action.flow import FlowConfig, draw_time, integrate
from trivium.action.model import Context
from trivium.core.errors import ConfigError

TINY = FlowConfig(horizon=4, width=32, heads=4, depth=2, num_draws=3)


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


def test_time_one_is_noise_and_the_target_points_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, seen = awake(TINY), {}

    def velocity(_: object, noisy: torch.Tensor, time: torch.Tensor, __: object) -> torch.Tensor:
        seen.update(noisy=noisy, time=time)
        return torch.zeros_like(noisy)

    monkeypatch.setattr(flow.expert, "forward", velocity)
    actions = torch.full((2, 4, 2), 1000.0)
    error = loss(flow, actions, ALL, context(2))
    share = seen["noisy"].mean((1, 2)) / 1000
    torch.testing.assert_close(share, 1 - seen["time"], atol=0.01, rtol=0)
    # A velocity of 0 errs by (noise - action)^2, about a million, whatever the time.
    torch.testing.assert_close(error, torch.full_like(error, 1e6), rtol=0.02, atol=0)


def test_valid_steps_do_not_attend_to_the_others() -> None:
    expert, given = awake(TINY).expert, context(2)
    noisy, time, seen = torch.randn(2, 4, 2), torch.rand(2), ALL.clone()
    seen[0, 2:] = False
    sight = expert.look(given)
    first = expert(sight, noisy, time, seen)
    noisy[:, 2:] += 1.0
    second = expert(sight, noisy, time, seen)
    assert torch.equal(first[0, :2], second[0, :2])
    assert not torch.equal(first[1, :2], second[1, :2])


def test_draws_share_the_context_and_equal_single_draws() -> None:
    expert, given = awake(TINY).expert, context(2)
    noisy, time = torch.randn(6, 4, 2), torch.rand(6)
    sight = expert.look(given)
    together = expert(sight, noisy, time)
    for draw in range(3):
        alone = expert(sight, noisy[draw::3], time[draw::3])
        torch.testing.assert_close(together[draw::3], alone, atol=1e-6, rtol=1e-5)


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
    assert ((found.abs() - 1).abs() < 0.3).float().mean() > 0.9, "nothing lies between the modes or beyond"


def test_without_start_noise_sampling_is_deterministic() -> None:
    flow, given = awake(TINY.replace(start_noise=0.0)), context(2)
    first, again = (flow.sample(given, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert torch.equal(first, again)
    assert first.any()


def test_bad_settings_are_refused_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"action.start_noise: found -1.0; expected 0..2"):
        TINY.replace(start_noise=-1.0).build(2, 3, 8)
    with pytest.raises(ConfigError, match=r"action.num_draws: found 0; expected 1 or more"):
        TINY.replace(num_draws=0).build(2, 3, 8)


def test_padding_dimensions_that_never_move_get_no_gradient() -> None:
    """pi0 pads the action to 32; here a dimension that is masked out of the error teaches nothing."""
    flow, given = awake(TINY), context(2)
    actions = torch.randn(2, 4, 2)
    actions[..., 1] = 0.0
    loss(flow, actions, ALL, given)[..., 0].sum().backward()
    fall = flow.expert.fall
    assert fall.weight.grad[0].any()
    assert not fall.weight.grad[1].any()
    assert not fall.bias.grad[1].any()
