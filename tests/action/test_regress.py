import pytest
import torch
from action_heads import ACTION, ALL, CONFIGS, HORIZON, awake, blind, build, context, loss

from trivium.action.model import Context
from trivium.action.regress import RegressConfig
from trivium.core.errors import ConfigError

TWO_WAYS = RegressConfig(horizon=1, width=16, heads=2, depth=1)


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_the_error_is_that_of_the_answer(name: str, power: int) -> None:
    head, given, actions = awake(CONFIGS[name]), context(2), torch.randn(2, HORIZON, ACTION)
    expected = (head.sample(given) - actions).abs() ** power
    torch.testing.assert_close(loss(head, actions, ALL, given).detach(), expected)


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_the_first_error_is_that_of_zero(name: str, power: int) -> None:
    actions = torch.randn(2, HORIZON, ACTION)
    assert torch.equal(loss(build(CONFIGS[name]), actions, ALL, context(2)), actions.abs() ** power)


def fitted(config: RegressConfig, actions: torch.Tensor, seed: int = 0) -> float:
    """Train on chunks of one number under one context; return the answer."""
    torch.manual_seed(seed)
    head = config.build(1, 1, 8)
    known = torch.ones(len(actions), dtype=torch.bool)
    given = Context(state=torch.zeros(len(actions), 1), state_known=known)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 200)
        optimizer.zero_grad()
        head.loss(actions.view(-1, 1, 1), known[:, None], given).mean().backward()
        optimizer.step()
    return head.sample(given)[0, 0, 0].item()


def test_squared_error_averages_two_ways_and_l1_takes_the_more_frequent() -> None:
    actions = torch.tensor([1.0] * 6 + [-1.0] * 4)
    assert fitted(TWO_WAYS.replace(error="l2"), actions) == pytest.approx(0.2, abs=0.05)
    assert fitted(TWO_WAYS.replace(error="l1"), actions) == pytest.approx(1.0, abs=0.05)


def test_a_mean_over_valid_steps_does_not_shrink_with_padding() -> None:
    """ACT's own code divides by all steps: 0.4 instead of 1.0 with 60 % padding."""
    head = build(CONFIGS["l1"].replace(horizon=5))
    valid = torch.zeros(2, 5, dtype=torch.bool)
    valid[:, :2] = True
    error = loss(head, torch.ones(2, 5, ACTION), valid, context(2))
    assert error.sum() / (valid.sum() * ACTION) == 1.0
    assert error.mean().item() == pytest.approx(0.4)


def test_a_prior_answers_by_the_state_alone() -> None:
    head, given = awake(CONFIGS["l1"]), blind(2)
    first = head.sample(given)
    given.state[0] += 1.0
    second = head.sample(given)
    assert not torch.allclose(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


def test_an_unknown_error_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"error: found 'huber' .text.; expected 'l1' or 'l2'"):
        RegressConfig(horizon=4, error="huber")  # type: ignore[arg-type]
