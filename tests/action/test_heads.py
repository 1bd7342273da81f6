"""What every action head must do, asked of all of them."""

import pytest
import torch
from action_heads import ACTION, ALL, HEADS, HORIZON, STATE, awake, blind, build, context, fit, loss

from trivium.action.expert import ExpertConfig
from trivium.action.model import ActionModel
from trivium.action.several import SeveralConfig
from trivium.core.errors import ConfigError


@HEADS
def test_overfits_one_batch(config: ExpertConfig) -> None:
    torch.manual_seed(0)
    head, given = build(config), context(4)
    actions, valid = torch.rand(4, HORIZON, ACTION) * 2 - 1, torch.ones(4, HORIZON, dtype=torch.bool)
    valid[0, 2:] = False
    actions[0, 2:] = 100.0
    fit(head, actions, valid, given, 400, 4e-3)
    found = head.sample(given, torch.Generator().manual_seed(0))
    error = (found - actions).abs()[valid]
    assert error.mean() < 0.15, "from 0.5; every context has its own chunk"


@HEADS
def test_steps_that_are_not_valid_have_no_influence_and_no_error(config: ExpertConfig) -> None:
    head, given, actions = awake(config), context(2), torch.randn(2, HORIZON, ACTION)
    valid = ALL.clone()
    valid[0, 2:] = False
    first = loss(head, actions, valid, given)
    actions[0, 2:] = float("nan")
    second = loss(head, actions, valid, given)
    assert torch.equal(first, second)
    assert not second[0, 2:].any()
    assert second[0, :2].all()
    second.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    idle = awake(config)
    loss(idle, torch.randn(2, HORIZON, ACTION), torch.zeros_like(valid), given).sum().backward()
    assert not any(p.grad.any() for p in idle.parameters() if p.grad is not None)


@HEADS
def test_nan_in_a_valid_step_is_never_hidden(config: ExpertConfig) -> None:
    actions = torch.zeros(2, HORIZON, ACTION)
    actions[1, 1, 0] = float("nan")
    error = loss(awake(config), actions, ALL, context(2))
    assert not error[1, 1, 0].isfinite(), "the guard of the loop refuses a step whose loss is not finite"
    assert error[0].isfinite().all(), "a neighbour in the batch is not touched"


@HEADS
def test_masked_context_tokens_have_no_influence(config: ExpertConfig) -> None:
    head, given, actions = awake(config), context(2), torch.randn(2, HORIZON, ACTION)
    given.mask[0, 3:] = False
    given.mask[1] = False  # a sample that sees nothing at all
    first = loss(head, actions, ALL, given)
    given.tokens[0, 3:] = 100.0
    given.tokens[1] = -5.0
    assert torch.equal(first, loss(head, actions, ALL, given))
    given.tokens[0, 0] += 1.0
    assert not torch.equal(first[0], loss(head, actions, ALL, given)[0])
    assert first.isfinite().all()


@HEADS
def test_an_unknown_state_is_never_read(config: ExpertConfig) -> None:
    head, given, actions = awake(config), context(2), torch.randn(2, HORIZON, ACTION)
    given.state_known[0] = False
    first = loss(head, actions, ALL, given)
    drawn = head.sample(given, torch.Generator().manual_seed(0))
    given.state[0] = float("nan")
    second = loss(head, actions, ALL, given)
    assert torch.equal(first, second)
    assert torch.equal(drawn, head.sample(given, torch.Generator().manual_seed(0)))
    second.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    given.state[1] += 1.0
    assert not torch.equal(first[1], loss(head, actions, ALL, given)[1])


@HEADS
def test_one_seed_one_result(config: ExpertConfig) -> None:
    def run(seed: int) -> list[torch.Tensor]:
        head, given = awake(config), context(3)
        actions = torch.randn(3, HORIZON, ACTION)
        torch.manual_seed(seed)
        fit(head, actions, torch.ones(3, HORIZON, dtype=torch.bool), given, 3, 1e-3)
        return [*head.parameters(), head.sample(given, torch.Generator().manual_seed(seed))]

    assert all(torch.equal(a, b) for a, b in zip(run(3), run(3), strict=True))


@HEADS
def test_a_sample_is_finite_in_float32_and_a_function_of_the_generator(config: ExpertConfig) -> None:
    head, given = awake(config), context(2)
    first, again, other = (head.sample(given, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert first.shape == (2, HORIZON, ACTION)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert not first.requires_grad
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (config.kind in ("regress", "cvae"))  # type: ignore[attr-defined]


@HEADS
def test_a_prior_leaves_cross_attention_fresh_and_hands_the_rest_on(config: ExpertConfig) -> None:
    torch.manual_seed(0)
    head = build(config)
    fresh = {name for name, _ in head.named_parameters() if "cross." in name or ".context." in name}
    assert fresh
    before = {name: parameter.clone() for name, parameter in head.named_parameters()}
    seen = blind(2)
    fit(head, torch.randn(2, HORIZON, ACTION), ALL, seen, 3, 1e-2)
    moved = {name for name, parameter in head.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == before.keys() - fresh - {name for name in before if name.endswith("no_state")}
    # A context that was never learned changes nothing: the policy starts as the prior was.
    looking = context(2)
    looking.state.copy_(seen.state)
    drawn = [head.sample(what, torch.Generator().manual_seed(0)) for what in (seen, looking)]
    assert torch.equal(*drawn)
    assert drawn[0].any()


@HEADS
def test_a_fresh_context_gets_a_gradient(config: ExpertConfig) -> None:
    head, given = build(config), context(2)
    fit(head, torch.randn(2, HORIZON, ACTION), ALL, blind(2), 3, 1e-2)  # a prior
    head.zero_grad()
    loss(head, torch.randn(2, HORIZON, ACTION), ALL, given).sum().backward()
    opening = ("cross.norm.modulate.weight", "cross.inner.out.weight", "cross.out.weight")
    found = [parameter.grad for name, parameter in head.named_parameters() if name.endswith(opening)]
    assert any(gradient is not None and gradient.any() for gradient in found), "else no context would ever be learned"


@HEADS
def test_bfloat16_weights_keep_the_error_in_float32(config: ExpertConfig) -> None:
    actions, given = torch.randn(2, HORIZON, ACTION), context(2)
    error = loss(awake(config).bfloat16(), actions, ALL, given)
    assert error.dtype == torch.float32
    assert error.mean().item() == pytest.approx(loss(awake(config), actions, ALL, given).mean().item(), rel=0.05)
    assert awake(config).bfloat16().sample(given).dtype == torch.float32


@HEADS
@pytest.mark.parametrize(("tokens", "width"), [(1, 8), (200, 4), (3, 300)])
def test_contexts_of_any_number_and_width(config: ExpertConfig, tokens: int, width: int) -> None:
    head, given, actions = awake(config, width), context(2, tokens, width), torch.randn(2, HORIZON, ACTION)
    error = loss(head, actions, ALL, given)
    error.sum().backward()
    assert error.isfinite().all()
    given.tokens[1, -1] *= -1
    assert not torch.equal(error[1], loss(head, actions, ALL, given)[1]), "the last token is read"


@HEADS
def test_a_sample_of_the_batch_stands_alone(config: ExpertConfig) -> None:
    head, given = awake(config), context(2)
    first = head.sample(given, torch.Generator().manual_seed(0))
    given.tokens[1] += 1.0
    given.state[1] -= 1.0
    second = head.sample(given, torch.Generator().manual_seed(0))
    torch.testing.assert_close(first[0], second[0], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(first[1], second[1], atol=1e-3)


@HEADS
def test_another_horizon_is_refused(config: ExpertConfig) -> None:
    with pytest.raises(ConfigError, match=r"action.horizon: found chunks of 5 steps x 2 dimensions; expected 4 x 2"):
        loss(awake(config), torch.randn(2, 5, ACTION), torch.ones(2, 5, dtype=torch.bool), context(2))
    with pytest.raises(ConfigError, match=r"4 steps x 3 dimensions; expected 4 x 2.*for the source's action dimension"):
        loss(awake(config), torch.randn(2, HORIZON, 3), ALL, context(2))


@HEADS
def test_bad_sizes_are_refused_with_their_path(config: ExpertConfig) -> None:
    if isinstance(config, SeveralConfig):
        pytest.skip("tests/action/test_several.py: the path has the head's place in it")
    with pytest.raises(ConfigError, match=r"action.width: found 30; expected a multiple of 8 \(2 \* heads\)"):
        build(config.replace(width=30))
    for name in ("horizon", "depth", "heads"):
        with pytest.raises(ConfigError, match=rf"action.{name}: found 0; expected 1 or more. Change action.{name}"):
            build(config.replace(**{name: 0}))


@HEADS
def test_the_error_has_a_name(config: ExpertConfig) -> None:
    head: ActionModel = build(config)
    assert config.kind.startswith(head.error_name)  # type: ignore[attr-defined]
    assert (head.horizon, head.action_dim, head.state_dim) == (HORIZON, ACTION, STATE)
