from dataclasses import replace

import numpy as np
import pytest
import torch

from trivium.core.errors import DataError
from trivium.core.sample import Sample, State
from trivium.data.transform import Transform
from trivium.policy.act import VlaPolicy


class Double(Transform):
    """Stands for a normalisation: actions come out twice as large, plus one for the robot called "plus"."""

    def __init__(self) -> None:
        self.rngs: list[object] = []

    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        self.rngs.append(rng)
        return sample

    def inverse(self, action: np.ndarray, embodiment: str | None = None) -> np.ndarray:
        return 2 * action + (embodiment == "plus")


@pytest.fixture
def observations(make) -> list[Sample]:
    return [make(name, ("instruction", words), action=False) for name, words in (("a", "go"), ("b", "push it"))]


def test_acts_by_the_road_of_training(model, layout, observations) -> None:
    transform = Double()
    policy = VlaPolicy(model, transform, layout, seed=1)
    model.train()
    chunks = policy.act(observations)
    assert chunks.shape == (2, 4, 2)
    assert model.training
    assert transform.rngs == [None, None], "no augmentation on the robot"
    policy.reset(1)
    assert np.array_equal(policy.act(observations), chunks)
    assert not np.array_equal(policy.act(observations), chunks)
    plain = VlaPolicy(model, Same(), layout, seed=1).act(observations)
    np.testing.assert_allclose(chunks, 2 * plain, rtol=1e-6)


class Same(Transform):
    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        return sample


def test_others_in_the_batch_do_not_matter(model, layout, observations) -> None:
    policy = VlaPolicy(model, Same(), layout)
    together = policy.act(observations * 2)
    policy.reset(0)
    # Two observations draw 16 numbers, the first 16 of the 32 above: torch draws fewer than 16 in another way.
    np.testing.assert_allclose(policy.act(observations), together[:2], atol=1e-5)


def test_refusals(model, layout, make, observations) -> None:
    policy = VlaPolicy(model, Same(), layout)
    with pytest.raises(DataError, match="observation x: found an action; expected pictures, text and state"):
        policy.act([make("x")])
    assert policy.act([]).shape == (0, 4, 2)
    torch.nn.init.constant_(model.action.expert.fall.bias, float("nan"))
    with pytest.raises(DataError, match="observation a: found an action with NaN or infinity"):
        policy.act(observations)


@pytest.fixture
def policy(model, layout) -> VlaPolicy:
    return VlaPolicy(model, Same(), layout, seed=1)


def test_the_temperature_scales_the_noise(policy, observations) -> None:
    def of(temperature: float | None) -> np.ndarray:
        policy.reset(1)
        return policy.act(observations, temperature)

    assert np.array_equal(of(None), of(1.0))
    still = of(0.0)
    assert np.array_equal(still, policy.act(observations, 0.0)), "no noise, one answer"
    np.testing.assert_array_less(np.abs(of(0.01) - still).max(), np.abs(of(1.0) - still).max())


def test_draws_are_acted_out_and_scored_again(policy, observations) -> None:
    policy.model.train()
    drawn = policy.draw(observations)
    assert policy.model.training
    policy.reset(1)
    np.testing.assert_allclose(policy.physical(drawn.actions, observations), policy.act(observations), atol=1e-5)
    again = policy.log_prob(observations, drawn.actions, noise=drawn.noise)
    torch.testing.assert_close(again, drawn.log_prob, atol=1e-3, rtol=1e-4)
    again.sum().backward()
    for part in ("vision", "connect", "language", "action", "state", "context"):
        grads = [p.grad for p in policy.model.get_submodule(part).parameters() if p.grad is not None]
        assert any(bool(grad.any()) for grad in grads), f"{part} does not hear of the log-probability"


def test_a_linear_critic_reads_where_things_are(policy, make) -> None:
    sample = make("o", ("instruction", "go"), action=False)
    others = [s for s in sample.segments if not isinstance(s, State)]
    value = np.random.default_rng(0).uniform(-1, 1, 40)
    seen = []
    for number in value:
        [state] = [replace(s, values=np.array([number, 0, 0], np.float32)) for s in sample.of(State)]
        seen.append(replace(sample, segments=(*others, state)))
    with torch.no_grad():
        rows = policy.features(seen).double()
    assert rows.shape == (40, policy.width(seen[0]))
    target = torch.from_numpy(value)
    inputs = torch.cat([rows - rows.mean(0), torch.ones(40, 1, dtype=torch.float64)], 1)
    kernel = inputs @ inputs.T  # ridge regression
    fit = torch.linalg.solve(kernel[:30, :30] + 1e-4 * torch.eye(30), target[:30])
    error = kernel[30:, :30] @ fit - target[30:]
    assert error.square().mean() < 1e-2 * target.var(), "states that the critic never saw"
    policy.features(seen[:2]).sum().backward()
    assert policy.model.state.weight.grad is not None
    assert policy.model.state.weight.grad.any()
