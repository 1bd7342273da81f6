import pytest
from scipy.stats import binomtest

from trivium.eval.statistics import wilson


@pytest.mark.parametrize(("successes", "episodes"), [(0, 20), (20, 20), (1, 3), (13, 20), (57, 100), (999, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_scipy(successes: int, episodes: int, level: float):
    interval = binomtest(successes, episodes).proportion_ci(level, method="wilson")
    assert wilson(successes, episodes, level) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_zero_of_twenty_is_not_certain():
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_more_successes_than_episodes_is_our_own_mistake():
    with pytest.raises(AssertionError, match="3 successes in 2 episodes"):
        wilson(3, 2)
