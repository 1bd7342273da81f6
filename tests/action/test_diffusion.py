import sys

import numpy as np
import pytest
import torch
from action_heads import ACTION, ALL, CONFIGS, HORIZON, awake, build, context, loss, needs_diffusers

from trivium.action.diffusion import NUM_LEVELS, DiffusionConfig, DiffusionUnetConfig, load_scheduler
from trivium.action.diffusion_unet import Unet
from trivium.action.model import Context
from trivium.core.errors import ConfigError, SetupError
from trivium.nn.position import embed_time

pytestmark = needs_diffusers
TINY, UNET = CONFIGS["diffusion"], CONFIGS["unet"]


def schedule() -> np.ndarray:
    """Return abar of the squared cosine schedule, in float64 (https://arxiv.org/abs/2102.09672, equation 17)."""
    edge = np.cos((np.arange(NUM_LEVELS + 1) / NUM_LEVELS + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - edge[1:] / edge[:-1], 0.999))


def test_the_schedule_has_the_known_constants() -> None:
    for sampler in ("ddpm", "ddim"):
        scheduler = load_scheduler(sampler, 1.5)
        signal = scheduler.alphas_cumprod.double().numpy()
        assert np.abs(signal - schedule()).max() <= 2e-7
        assert signal[[0, 50, 99]] == pytest.approx([0.99936872, 0.47826463, 2.4286e-7], abs=2e-7)
        assert scheduler.betas[[0, 99]].tolist() == pytest.approx([6.3128e-4, 0.999], abs=2e-7)


def test_noise_is_added_as_the_equation_says() -> None:
    torch.manual_seed(0)
    clean, noise, level = torch.randn(NUM_LEVELS, 4, 2), torch.randn(NUM_LEVELS, 4, 2), torch.arange(NUM_LEVELS)
    found = build(TINY).scheduler.add_noise(clean, noise, level)
    signal = torch.from_numpy(schedule())[:, None, None]
    expected = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def denoised(x: torch.Tensor, noise: torch.Tensor, level: int, before: int, limit: float) -> torch.Tensor:
    """Take one DDIM step (https://arxiv.org/abs/2010.02502, equation 12, eta 0) in float64."""
    signal = np.append(schedule(), 1.0)  # index -1: nothing but signal
    guess = ((x.double() - np.sqrt(1 - signal[level]) * noise) / np.sqrt(signal[level])).clamp(-limit, limit)
    return np.sqrt(signal[before]) * guess + np.sqrt(1 - signal[before]) * noise


def test_sampling_takes_the_steps_of_the_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of `sample` against eleven lines in float64, with a network that answers something simple."""
    given, limit = context(2), 0.8
    head = build(TINY.replace(limit=limit))
    asked: list[float] = []

    def network(_: object, noisy: torch.Tensor, time: torch.Tensor, __: object) -> torch.Tensor:
        asked.append(time[0].item())
        return 0.3 * noisy + 0.1

    monkeypatch.setattr(head.network, "forward", network)
    found = head.sample(given, torch.Generator().manual_seed(0))
    x = torch.randn(2, HORIZON, ACTION, generator=torch.Generator().manual_seed(0)).double()
    levels = list(range(90, -1, -10))
    for level in levels:
        x = denoised(x, 0.3 * x + 0.1, level, level - 10 if level else -1, limit)
    torch.testing.assert_close(found.double(), x, atol=1e-6, rtol=0)
    assert asked == pytest.approx([level / NUM_LEVELS for level in levels])


def test_ddpm_with_the_exact_noise_gives_the_closed_form() -> None:
    """Data N(0.5, 0.3^2): the best guess of the noise is linear, so mean and spread of every step are known.

    100 steps with the small fixed variance end at a spread of 0.284: the sampler narrows by 5 %.
    """
    mean, spread, signals = 0.5, 0.3, np.append(schedule(), 1.0)
    scheduler = load_scheduler("ddpm", 5.0)
    scheduler.set_timesteps(NUM_LEVELS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 1, 1, generator=generator)
    center, variance = 0.0, 1.0
    for level in scheduler.timesteps.tolist():
        signal, before = signals[level], signals[level - 1]
        slope = np.sqrt(1 - signal) / (signal * spread**2 + 1 - signal)
        x = scheduler.step(slope * (x - np.sqrt(signal) * mean), level, x, generator=generator).prev_sample.float()
        beta = 1 - signal / before
        guess = np.sqrt(before) * beta / (1 - signal)  # of the clean chunk, which is (x - ...) / sqrt(signal)
        gain = guess * (1 - np.sqrt(1 - signal) * slope) / np.sqrt(signal)
        gain += np.sqrt(signal / before) * (1 - before) / (1 - signal)
        center = gain * center + guess * np.sqrt(1 - signal) * slope * mean
        variance = gain**2 * variance + (1 - before) / (1 - signal) * beta
    assert center == pytest.approx(mean, abs=0.01)
    assert np.sqrt(variance) == pytest.approx(0.2843, abs=1e-4)
    assert x.mean().item() == pytest.approx(center, abs=0.01)
    assert x.std().item() == pytest.approx(np.sqrt(variance), rel=0.01)


@pytest.mark.parametrize(
    ("network", "sampler", "num_steps"),
    [("transformer", "ddim", 10), ("transformer", "ddpm", 100), ("unet", "ddim", 10)],
)
def test_two_modes_stay_two(network: str, sampler: str, num_steps: int) -> None:
    torch.manual_seed(0)
    size = {"horizon": 1, "width": 32, "heads": 2, "depth": 1, "num_draws": 8}
    size |= {"sampler": sampler, "num_steps": num_steps}
    head = (DiffusionConfig if network == "transformer" else DiffusionUnetConfig)(**size).build(1, 1, 8)
    steps, lr = (400, 1e-2) if network == "transformer" else (300, 3e-3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    known = torch.ones(128, dtype=torch.bool)
    given = Context(state=torch.zeros(128, 1), state_known=known)
    actions = torch.tensor([-1.0, 1.0]).repeat(64).view(128, 1, 1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        head.loss(actions, known[:, None], given).mean().backward()
        optimizer.step()
    many = Context(state=torch.zeros(2000, 1), state_known=torch.ones(2000, dtype=torch.bool))
    found = head.sample(many, torch.Generator().manual_seed(0))
    assert 0.45 < (found > 0).float().mean() < 0.55
    assert ((found.abs() - 1).abs() < 0.3).float().mean() > 0.9, "nothing lies between the modes"


@pytest.mark.parametrize("config", [TINY, UNET, UNET.replace(sampler="ddpm", num_steps=100)])
def test_every_answer_is_within_the_limit(config: DiffusionConfig) -> None:
    head = awake(config.replace(limit=0.7))
    for parameter in head.parameters():
        parameter.data *= 5.0
    found = head.sample(context(2), torch.Generator().manual_seed(0))
    assert found.isfinite().all()
    assert found.abs().max() <= 0.7


def test_the_first_error_is_that_of_noise() -> None:
    for config in (TINY, UNET):
        error = loss(build(config.replace(num_draws=400)), torch.full((2, HORIZON, ACTION), 2.0), ALL, context(2))
        assert error.mean().item() == pytest.approx(1.0, rel=0.1)


def test_bfloat16_does_not_round_the_schedule() -> None:
    before = awake(TINY).scheduler.alphas_cumprod
    head = awake(TINY).bfloat16()
    loss(head, torch.randn(2, HORIZON, ACTION), ALL, context(2))
    assert head.scheduler.alphas_cumprod.dtype == torch.float32
    assert torch.equal(head.scheduler.alphas_cumprod, before)


def test_the_u_net_does_not_read_steps_that_are_hidden() -> None:
    net, given = awake(UNET).network, context(2)
    noisy, time, seen = torch.randn(2, HORIZON, ACTION), torch.rand(2), ALL.clone()
    seen[0, 2:] = False
    sight = net.look(given)
    first = net(sight, noisy, time, seen)
    noisy[:, 2:] += 1.0
    second = net(sight, noisy, time, seen)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_the_u_net_is_the_papers_drawing() -> None:
    """Down, middle, up, each level two blocks, by hand: what a level kept comes back beside what rises to it."""
    net, given = awake(DiffusionUnetConfig(horizon=8, width=16, heads=2, depth=3)).network, context(2)
    noisy, time, sight = torch.randn(2, 8, ACTION), torch.rand(2), net.look(given)
    condition = torch.cat([net.time(embed_time(time, 16)), sight], 1)

    def twice(blocks: torch.nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            scale, shift = block.film[1](torch.nn.functional.mish(condition)).unflatten(1, (2, -1)).unbind(1)
            x = block.second(block.first(x) * scale[..., None] + shift[..., None]) + block.short(x)
        return x

    first = twice(net.down[0], noisy.mT)
    second = twice(net.down[1], net.shrink[0](first))
    third = twice(net.down[2], net.shrink[1](second))
    assert third.shape == (2, 64, 2)
    x = net.grow[0](twice(net.up[0], torch.cat([twice(net.middle, third), third], 1)))
    x = net.grow[1](twice(net.up[1], torch.cat([x, second], 1)))
    torch.testing.assert_close(net(sight, noisy, time), net.fall(net.last(x)).mT, atol=1e-6, rtol=1e-6)


def test_the_u_net_has_the_layers_of_the_paper() -> None:
    """Weights by the paper's table: 256, 512, 1024 channels, kernel 5, FiLM with scale."""
    net = Unet(DiffusionUnetConfig(horizon=16, width=256, heads=8, depth=3), 2, 5, 8)

    def residual(size: int, out: int) -> int:
        convolutions = size * out * 5 + out + out * out * 5 + out + 4 * out  # and two group norms
        return convolutions + 512 * 2 * out + 2 * out + (size * out + out if size != out else 0)

    pairs = [(2, 256), (256, 512), (512, 1024), (1024, 1024), (2048, 512), (1024, 256)]
    expected = sum(residual(size, out) + residual(out, out) for size, out in pairs)
    expected += sum(size * size * kernel + size for size, kernel in ((256, 3), (512, 3), (512, 4), (256, 4)))
    expected += 256 * 256 * 5 + 3 * 256 + 256 * 2 + 2  # the last convolution, its norm, and the way out
    expected += 256 * 1024 * 2 + 1024 + 256  # of the time
    own = sum(p.numel() for part in (net.state, net.context, net.cross, net.sight) for p in part.parameters()) + 256
    assert sum(p.numel() for p in net.parameters()) == expected + own


def test_bad_settings_are_refused_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"action.num_steps: found 101; expected 1..100"):
        build(TINY.replace(num_steps=101))
    with pytest.raises(ConfigError, match=r"action.limit: found 0.0; expected above 0"):
        build(TINY.replace(limit=0.0))
    with pytest.raises(ConfigError, match=r"action.horizon: found 6; expected a multiple of 4. Change horizon"):
        build(UNET.replace(horizon=6, depth=3))
    with pytest.raises(ConfigError, match=r"action.width: found 12; expected a multiple of 8"):
        build(UNET.replace(width=12, heads=2))


def test_without_diffusers_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_ddim", None)
    with pytest.raises(SetupError, match=r"action.kind.*no package diffusers.*pip install 'trivium\[diffusion\]'"):
        build(TINY)
