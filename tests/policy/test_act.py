import numpy as np
import pytest
import torch

from trivium.core.errors import DataError
from trivium.core.sample import Sample
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
