import pytest
import torch
from action_heads import ACTION, ALL, CONFIGS, HORIZON, awake, context, fit, loss
from torch.distributions import Independent, Normal, kl_divergence

from trivium.action.cvae import CvaeConfig, kl_to_normal
from trivium.action.model import Context
from trivium.core.errors import ConfigError

TINY = CONFIGS["cvae"]


def test_the_divergence_is_torchs() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(64, 32), torch.randn(64, 32)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(posterior, Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(kl_to_normal(mean, log_variance), expected, atol=1e-6, rtol=1e-6)
    whole = kl_divergence(Independent(posterior, 1), Independent(Normal(torch.zeros(64, 32), torch.ones(64, 32)), 1))
    torch.testing.assert_close(kl_to_normal(mean, log_variance).sum(1), whole, atol=1e-6, rtol=1e-6)


def test_the_loss_is_l1_and_the_divergence_summed_over_z_and_averaged_over_samples() -> None:
    actions, given = torch.randn(2, HORIZON, ACTION), context(2)
    found = {beta: loss(awake(TINY.replace(kl_weight=beta)), actions, ALL, given).mean() for beta in (0.0, 1.0, 10.0)}
    head = awake(TINY)
    divergence = kl_to_normal(*head.encoder(actions, ALL, given)).sum(1).mean()
    assert divergence > 0.01
    torch.testing.assert_close(found[10.0] - found[0.0], 10 * divergence)
    torch.testing.assert_close(found[1.0] - found[0.0], divergence)
    torch.manual_seed(1)
    mean, log_variance = head.encoder(actions, ALL, given)
    z = mean + (0.5 * log_variance).exp() * torch.randn(2, head.latent_dim)
    torch.testing.assert_close(found[0.0], (head._decode(z, given) - actions).abs().mean())


def test_the_first_posterior_is_the_prior() -> None:
    torch.manual_seed(0)
    head = TINY.build(2, 3, 8)
    actions, given = torch.randn(2, HORIZON, ACTION), context(2)
    assert not kl_to_normal(*head.encoder(actions, ALL, given)).any()
    assert torch.equal(loss(head, actions, ALL, given), actions.abs())


def test_every_decoder_layer_learns() -> None:
    head = awake(TINY.replace(depth=3))
    loss(head, torch.randn(2, HORIZON, ACTION), ALL, context(2)).sum().backward()
    for block in [*head.expert.blocks, *head.encoder.blocks]:
        assert all(p.grad is not None and p.grad.any() for name, p in block.named_parameters() if "weight" in name)


def test_acting_is_z_zero() -> None:
    head, given = awake(TINY), context(2)
    torch.testing.assert_close(head.sample(given), head._decode(torch.zeros(2, head.latent_dim), given))
    torch.manual_seed(5)
    first = head.sample(given)
    assert torch.equal(first, head.sample(given)), "no random number is drawn"


def two_ways(kl_weight: float) -> tuple[int, float]:
    """Train on chunks that go one of two ways under one context; return the active units and the L1 that is left."""
    torch.manual_seed(0)
    head = CvaeConfig(horizon=2, width=16, heads=2, depth=1, latent_dim=4, kl_weight=kl_weight).build(1, 1, 8)
    known = torch.ones(32, dtype=torch.bool)
    given = Context(state=torch.zeros(32, 1), state_known=known)
    actions = torch.tensor([-1.0, 1.0]).repeat(16).view(32, 1, 1).expand(32, 2, 1).contiguous()
    valid = known[:, None].expand(32, 2).contiguous()
    fit(head, actions, valid, given, 250, 1e-2)
    mean, log_variance = head.encoder(actions, valid, given)
    l1 = (head._decode(mean, given) - actions).abs().mean().item()
    return int((kl_to_normal(mean, log_variance).mean(0) > 0.1).sum()), l1


def test_the_style_tells_two_ways_apart_where_it_is_cheap_and_dies_where_it_is_not() -> None:
    active, l1 = two_ways(0.1)
    assert active >= 1
    assert l1 < 0.1, "z says which way"
    active, l1 = two_ways(10.0)
    assert active == 0, "ln 2 nats at ten each cost more than an L1 of 1"
    assert l1 > 0.9


def test_bad_settings_are_refused_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"action.latent_dim: found 0; expected 1 or more"):
        TINY.replace(latent_dim=0).build(2, 3, 8)
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=rf"action.kl_weight: found {weight}; expected 0 or more"):
            TINY.replace(kl_weight=weight).build(2, 3, 8)
