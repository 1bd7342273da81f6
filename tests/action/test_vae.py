"""The action VAE: the divergence, active latents, learning, determinism, files, bad input."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import survive
from torch.distributions import Normal, kl_divergence
from wave_chunks import waves

from trivium.action import autoencoder
from trivium.action.choice import open_tokenizer, open_vae
from trivium.action.cvae import kl_to_normal
from trivium.action.tokenizer import Robot
from trivium.action.vae import ActionVae, VaeConfig, charge
from trivium.action.vqvae import VqVaeConfig
from trivium.core.errors import CheckpointError, ConfigError, DataError

CONFIG = VaeConfig(latent_dim=12, beta=1e-4)
ARM = Robot("arm", ("x", "y", "z", "grip"), -np.ones(4), np.ones(4))


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "STEPS", 60)
        yield


@pytest.fixture(scope="module")
def vae() -> ActionVae:
    return CONFIG.fit(waves(1000, 8, 4))


def test_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(200, 32), 2 * torch.randn(200, 32)
    prior, posterior = Normal(torch.zeros(200, 32), 1.0), Normal(mean, (log_variance / 2).exp())
    found = kl_to_normal(mean.double(), log_variance.double())
    expected = kl_divergence(
        Normal(posterior.loc.double(), (log_variance.double() / 2).exp()), Normal(prior.loc.double(), 1.0)
    )
    assert (found - expected).abs().max() <= 1e-6
    # Summed over latents, mean over chunks: a mean over latents would be 32 times smaller.
    assert abs(charge(found, 0.0) - expected.sum(1).mean()) <= 1e-6
    small = kl_to_normal(0.1 * mean, 0.1 * log_variance)
    assert (small - kl_divergence(Normal(0.1 * mean, (0.05 * log_variance).exp()), prior)).abs().max() <= 1e-6


def test_free_bits_are_not_charged_and_have_no_gradient():
    divergence = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    found = charge(divergence, 1.0)
    assert found.item() == pytest.approx(np.log(2) + 3.0)
    found.backward()
    assert divergence.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_chunks_come_back_and_latents_are_about_one_wide(vae: ActionVae):
    fresh = waves(500, 8, 4, seed=1)
    latents = vae.encode(fresh)
    assert latents.shape == (500, 12)
    assert 0.5 < latents.std() < 1.5
    painted = vae.decode(latents)
    assert np.sqrt(((painted - fresh) ** 2).mean()) < 0.4 * fresh.std()
    assert vae.active_units(fresh) > 6


def test_it_overfits_a_few_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(autoencoder, "STEPS", 300)
    monkeypatch.setattr(autoencoder, "LR", 1e-3)
    few = waves(16, 8, 4)
    vae = CONFIG.replace(latent_dim=8, beta=1e-6).fit(few)
    assert np.sqrt(((vae.decode(vae.encode(few)) - few) ** 2).mean()) < 0.02


def test_two_ways_of_moving_keep_a_latent_awake():
    """Bimodal chunks: one latent says which of the two; too high a price puts all to sleep."""
    sign = np.random.default_rng(0).choice([-1, 1], (600, 1, 1))
    chunks = (sign * np.linspace(0, 1, 8)[None, :, None] * np.ones(2)).astype(np.float32)
    vae = VaeConfig(latent_dim=4, beta=1e-2).fit(chunks)
    assert vae.active_units(chunks) >= 1
    assert np.sign(vae.decode(vae.encode(chunks))[:, -1, 0]).tolist() == sign[:, 0, 0].tolist()


def test_a_high_price_puts_latents_to_sleep_and_free_bits_keep_them_awake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(autoencoder, "STEPS", 150)
    monkeypatch.setattr(autoencoder, "LR", 3e-3)
    chunks = waves(300, 4, 2)
    dear = VaeConfig(latent_dim=6, beta=10.0)
    assert dear.fit(chunks).active_units(chunks) == 0
    assert dear.replace(free_bits=1.0).fit(chunks).active_units(chunks) > 0


def test_latents_of_zero_are_one_typical_chunk(vae: ActionVae):
    nothing = np.zeros((2, 12), np.float32)
    first, second = vae.decode(nothing)
    assert np.array_equal(first, second)
    assert np.array_equal(vae.decode(nothing), vae.decode(nothing))
    assert np.abs(first).max() < 0.3
    assert np.array_equal(vae.encode(waves(5, 8, 4)), vae.encode(waves(5, 8, 4)))


def test_any_latents_decode_within_the_limit(vae: ActionVae):
    wild = np.random.default_rng(0).normal(0, 1, (500, 12)) * np.logspace(-3, 30, 500)[:, None]
    chunks = vae.decode(np.concatenate([wild, np.full((1, 12), 1e308)]))
    assert np.isfinite(chunks).all()
    assert np.abs(chunks).max() <= 1.5


def test_the_same_seed_gives_the_same_file(tmp_path: Path):
    for number, seed in enumerate((0, 0, 1)):
        CONFIG.fit(waves(200, 8, 4), seed).save(tmp_path / f"{number}", ARM)
    files = [(tmp_path / f"{number}").read_bytes() for number in range(3)]
    assert files[0] == files[1] != files[2]


def test_a_saved_vae_is_the_same_and_knows_its_robot(vae: ActionVae, tmp_path: Path):
    path = tmp_path / "vae.json"
    vae.save(path, ARM)
    again, chunks = open_vae(path, ARM, 8), waves(20, 8, 4, seed=4)
    assert np.array_equal(again.encode(chunks), vae.encode(chunks))
    assert np.array_equal(again.decode(again.encode(chunks)), vae.decode(vae.encode(chunks)))
    again.save(tmp_path / "twice.json", ARM)
    assert (tmp_path / "twice.json").read_bytes() == path.read_bytes()
    with pytest.raises(CheckpointError, match=r"vae.json: horizon: found 8; expected 6: the file belongs to another"):
        open_vae(path, ARM, 6)
    with pytest.raises(CheckpointError, match=r"robot: found 'arm'; expected 'hand'"):
        open_vae(path, Robot("hand", ARM.names, ARM.low, ARM.high), 8)
    with pytest.raises(
        CheckpointError, match=r"found ValueError: format 'trivium-vae' .*tokenizer, trivium-vq version"
    ):
        open_tokenizer(path, VqVaeConfig(), ARM, 8)
    path.write_bytes(path.read_bytes().replace(b"trivium-vae", b"trivium-van"))
    with pytest.raises(CheckpointError, match=r"format 'trivium-van' .*expected an action VAE, trivium-vae version 2"):
        open_vae(path, ARM, 8)


def test_damaged_files_are_refused_or_still_decode(tmp_path: Path):
    path = tmp_path / "vae.json"
    arm = Robot("arm", ("x", "y"), ARM.low[:2], ARM.high[:2])
    CONFIG.replace(latent_dim=2).fit(waves(100, 3, 2)).save(path, arm)

    def use() -> None:
        again = open_vae(path, arm, 3)
        assert np.isfinite(again.decode(np.array([[1e9, -3.0]]))).all()

    assert survive(path, use, 300)["refused"] > 150


def test_what_does_not_fit_is_named(vae: ActionVae):
    with pytest.raises(ConfigError, match=r"vae\.latent_dim: found 12; expected at most 8, the numbers of a chunk"):
        CONFIG.fit(waves(10, 4, 2))
    with pytest.raises(DataError, match=r"action latents: found shape \(3, 11\); expected finite numbers, 12 a chunk"):
        vae.decode(np.zeros((3, 11)))
    with pytest.raises(DataError, match="action latents: found NaN or infinity"):
        vae.decode(np.full((3, 12), np.nan))
    with pytest.raises(DataError, match=r"action chunk 0: found shape \(6, 4\); expected \(8, 4\)"):
        vae.encode(np.zeros((1, 6, 4)))
    chunks = waves(10, 8, 4)
    chunks[4, 1, 0] = np.inf
    with pytest.raises(DataError, match="action chunk 4: found inf at step 1, dimension 0"):
        CONFIG.fit(chunks)


def test_dimensions_that_never_move_stay_where_they_are():
    chunks = waves(300, 8, 4)
    chunks[:, :, 1] = -0.75
    vae = CONFIG.fit(chunks)
    assert np.abs(vae.decode(vae.encode(chunks))[:, :, 1] + 0.75).max() < 0.15
    frozen = np.full((50, 8, 4), 0.5, np.float32)
    vae = CONFIG.fit(frozen)
    np.testing.assert_allclose(vae.decode(vae.encode(frozen)), frozen, atol=0.02)
