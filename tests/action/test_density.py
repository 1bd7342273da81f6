import math

import pytest
import torch
from action_heads import CONFIGS, HEADS, awake, context, needs_diffusers
from torch import Tensor

from trivium.action.density import follow, normal_log_prob, slope_of, trace_back
from trivium.action.expert import ExpertConfig
from trivium.action.flow import FlowConfig
from trivium.core.errors import ConfigError, TrainingError

TINY = FlowConfig(horizon=4, width=32, heads=4, depth=2)
STEPS = 10


def exact(mean: Tensor, spread: Tensor):
    """Give the velocity whose flow takes N(0, 1) to N(mean, spread^2), the numbers of a chunk mixed by nothing."""

    def velocity(x: Tensor, t: float) -> Tensor:
        gain = (t - (1 - t) * spread**2) / (t**2 + (1 - t) ** 2 * spread**2)
        return gain * (x - (1 - t) * mean) - mean

    return velocity


def linear(seed: int, size: int = 6):
    """Give a velocity A x + b t that mixes all numbers of a chunk: the Euler steps push a normal to a normal."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, size, generator=generator, dtype=torch.float64)
    shift = torch.randn(size, generator=generator, dtype=torch.float64)
    return weight, shift, lambda x, t: (x.flatten(1) @ weight.T + t * shift).view_as(x)


@pytest.mark.parametrize("spread", [1.0, 0.4])
def test_a_linear_velocity_pushes_a_normal_to_the_normal_of_the_closed_form(spread: float) -> None:
    weight, shift, velocity = linear(0)
    noise = spread * torch.randn(5, 3, 2, dtype=torch.float64)
    actions, found = follow(velocity, noise, STEPS, spread)
    matrix, mean = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for i in range(STEPS):
        step = torch.eye(6, dtype=torch.float64) - weight / STEPS
        matrix, mean = step @ matrix, step @ mean - (1 - i / STEPS) * shift / STEPS
    law = torch.distributions.MultivariateNormal(mean, spread**2 * matrix @ matrix.T)
    torch.testing.assert_close(found, law.log_prob(actions.flatten(1)), rtol=1e-9, atol=1e-9)
    back, again = trace_back(velocity, actions, STEPS, spread)
    torch.testing.assert_close(back, noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again, found, rtol=1e-9, atol=1e-9)


def test_more_steps_come_to_the_density_of_the_flow_itself() -> None:
    mean, spread = torch.tensor([0.5, -0.2]).double(), torch.tensor([0.3, 0.6]).double()
    law = torch.distributions.Normal(mean, spread)
    velocity, errors = exact(mean, spread), []
    actions = law.sample((200, 1))
    for steps in (20, 80, 320):
        _, found = trace_back(velocity, actions, steps, 1.0)
        errors.append((found - law.log_prob(actions).sum((1, 2))).abs().mean().item())
    assert errors[2] < 0.02
    assert errors[0] > 3 * errors[1] > 9 * errors[2], "an error of the order of one step"


def test_a_curved_density_integrates_to_one() -> None:
    def velocity(x: Tensor, t: float) -> Tensor:
        return 2 * torch.sin(2 * x) * (1.2 - t) - 0.5 * x

    grid = torch.linspace(-14, 14, 14001, dtype=torch.float64)
    _, found = trace_back(velocity, grid.view(-1, 1, 1), STEPS, 1.0)
    assert torch.trapezoid(found.exp(), grid).item() == pytest.approx(1.0, abs=1e-6)
    drawn, along = follow(velocity, torch.randn(200_000, 1, 1, dtype=torch.float64), STEPS, 1.0)
    share = (drawn < 0.3).double().mean().item()
    below = grid <= 0.3
    assert torch.trapezoid(found[below].exp(), grid[below]).item() == pytest.approx(share, abs=4e-3)
    # E_p[q / p] = 1 for any q that lives where p does.
    weight = (normal_log_prob(drawn, 0.5) - along).exp()
    assert weight.mean().item() == pytest.approx(1.0, abs=0.02)


def test_slope_is_the_jacobian_of_each_chunk_alone() -> None:
    flow, given = awake(TINY), context(3)
    x = torch.randn(3, 4, 2)
    velocity = flow._velocity(given)  # type: ignore[attr-defined]
    speed, slope = slope_of(velocity, x, 0.5)
    torch.testing.assert_close(speed, velocity(x, 0.5), atol=1e-6, rtol=1e-5)
    step = 1e-3
    for j in range(8):
        nudge = torch.zeros(8)
        nudge[j] = step
        up, down = (velocity(x + sign * nudge.view(1, 4, 2), 0.5) for sign in (1, -1))
        torch.testing.assert_close(slope[:, :, j], ((up - down) / (2 * step)).flatten(1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_the_flow_head_draws_what_sample_does_and_finds_its_own_density_again(temperature: float | None) -> None:
    flow, given = awake(TINY), context(3)
    first = torch.Generator().manual_seed(3)
    drawn = flow.draw(given, first, temperature)
    plain = flow.sample(given, torch.Generator().manual_seed(3), temperature)
    torch.testing.assert_close(drawn.actions, plain, atol=1e-5, rtol=1e-5)
    again = flow.log_prob(drawn.actions, given, temperature)
    torch.testing.assert_close(again, drawn.log_prob, atol=1e-3, rtol=1e-4)
    assert again.requires_grad
    assert not drawn.log_prob.requires_grad
    alone = flow.log_prob(drawn.actions[1:2], rows(given, 1), temperature)
    torch.testing.assert_close(alone[0], again[1], atol=1e-4, rtol=1e-4)


def test_the_gradient_of_a_given_chunk_is_that_of_finite_differences() -> None:
    weight, shift, _ = linear(1)
    actions = torch.randn(2, 3, 2, dtype=torch.float64)

    def total(weight: Tensor) -> Tensor:
        def velocity(x: Tensor, t: float) -> Tensor:
            return (torch.tanh(x.flatten(1)) @ weight.T + t * shift).view_as(x)

        return trace_back(velocity, actions, STEPS, 1.0)[1].sum()

    place, step = weight.clone().requires_grad_(), 1e-5
    (found,) = torch.autograd.grad(total(place), place)
    for i, j in ((0, 0), (2, 5), (4, 1)):
        nudge = torch.zeros_like(weight)
        nudge[i, j] = step
        expected = (total(weight + nudge) - total(weight - nudge)) / (2 * step)
        assert found[i, j].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["l1", "cvae"])
def test_heads_with_one_answer_explore_around_it(name: str) -> None:
    head, given = awake(CONFIGS[name]), context(4)
    answer = head.sample(given)
    assert torch.equal(head.sample(given, temperature=0.0), answer)
    drawn = head.draw(given, torch.Generator().manual_seed(0), temperature=0.2)
    law = torch.distributions.Normal(answer, 0.2)
    torch.testing.assert_close(drawn.log_prob, law.log_prob(drawn.actions).sum((1, 2)), rtol=1e-5, atol=1e-4)
    assert head.log_prob(drawn.actions, given, 0.2).requires_grad
    many = torch.stack([head.sample(given, temperature=0.2) for _ in range(200)])
    assert (many - answer).std().item() == pytest.approx(0.2, rel=0.1)


def test_policy_gradient_moves_the_flow_to_what_is_rewarded() -> None:
    head, given = awake(TINY.replace(num_steps=4, depth=1, horizon=2)), context(1)
    given = rows(given, 0, 32)
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-3)
    generator, means = torch.Generator().manual_seed(0), []
    for _ in range(16):
        drawn = head.draw(given, generator, 1.0)
        reward = -(drawn.actions - 0.5).square().mean((1, 2))
        means.append(reward.mean().item())
        advantage = (reward - reward.mean()) / reward.std()
        optimizer.zero_grad()
        (-(advantage * head.log_prob(drawn.actions, given, 1.0, drawn.noise)).mean() / 4).backward()
        optimizer.step()
    assert sum(means[-5:]) / 5 > sum(means[:5]) / 5 + 0.2, means


@HEADS
def test_temperatures_below_zero_are_refused(config: ExpertConfig) -> None:
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"temperature: found .*; expected 0 or more"):
            awake(config).sample(context(1), temperature=wrong)


@needs_diffusers
def test_diffusion_takes_a_temperature_and_says_that_it_has_no_density() -> None:
    head, given = awake(CONFIGS["diffusion"]), context(2)

    def of(temperature: float | None) -> Tensor:
        return head.sample(given, torch.Generator().manual_seed(0), temperature)

    assert torch.equal(of(None), of(1.0))
    assert torch.equal(of(0.0), head.sample(given, torch.Generator().manual_seed(1), 0.0))
    assert not torch.equal(of(0.5), of(1.0))
    for ask in (lambda: head.draw(given), lambda: head.log_prob(of(None), given)):
        with pytest.raises(ConfigError, match=r"of the diffusion head: found a sampler that clips .* flow \(exact\)"):
            ask()


def test_what_has_no_density_is_refused() -> None:
    flow, given = awake(TINY.replace(start_noise=0.0)), context(1)
    with pytest.raises(ConfigError, match=r"the flow head: found temperature 0, .*; expected above 0"):
        flow.draw(given)
    with pytest.raises(ConfigError, match="the regress head: found temperature 0"):
        awake(CONFIGS["l1"]).draw(given)
    with pytest.raises(ConfigError, match=r"found an action head in bfloat16; .* policy.model.action.float\(\)"):
        flow.bfloat16().draw(given, temperature=1.0)


def test_the_noise_says_which_of_two_ways_led_to_a_chunk() -> None:
    def fold(x: Tensor, t: float) -> Tensor:
        return 2 * x * x  # one step: x - 2 x^2 is the same at x and at 1/2 - x

    noise = torch.tensor([0.1, 0.4], dtype=torch.float64).view(2, 1, 1)
    actions, along = follow(fold, noise, 1, 1.0)
    assert actions[0].item() == pytest.approx(actions[1].item())
    back, again = trace_back(fold, actions, 1, 1.0, noise + 0.01)
    torch.testing.assert_close(back, noise)
    torch.testing.assert_close(again, along)


def test_a_chunk_that_the_flow_cannot_make_is_named() -> None:
    actions = torch.zeros(2, 1, 1)
    actions[1] = 40.0  # x - v(x) / N stays below 10 for this velocity
    with pytest.raises(TrainingError, match=r"log-probability of chunk 1: found no noise .* expected a chunk that"):
        trace_back(lambda x, t: 10 * (x - 9 * torch.tanh(x / 9)), actions, 10, 1.0)


def rows(given, i: int, times: int = 1):
    names = ("state", "state_known", "tokens", "mask")
    picked = {name: getattr(given, name)[i : i + 1].repeat_interleave(times, 0) for name in names}
    return type(given)(**picked)
