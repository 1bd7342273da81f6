"""Learning curves: closed forms of the area, and intervals that know about episodes."""

import numpy as np
import pytest

from trivium.probe.curve import Shares, aulc, estimate, log_sizes, resample


def test_aulc_of_a_line_in_log_n():
    sizes = np.array([10, 100, 1000])
    line = 0.2 + 0.1 * np.log(sizes)
    assert aulc(sizes, line) == pytest.approx((line[0] + line[-1]) / 2, abs=1e-12)


def test_aulc_weighs_by_log_n_not_by_n():
    # Score 0 up to n=100, then 1 from n=100.0001: half of the log range 10..1000.
    sizes = np.array([10.0, 100.0, 100.0001, 1000.0])
    assert aulc(sizes, np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0.5, abs=1e-6)


def test_aulc_of_one_size_is_its_score():
    assert aulc(np.array([50]), np.array([0.3])) == 0.3


def test_shares_are_r2_and_accuracy():
    rng = np.random.default_rng(0)
    truth, guess = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    loss, dull = (truth - guess) ** 2, (truth - truth.mean(0)) ** 2
    by_episode = Shares(loss.reshape(8, 5, 2).sum(1), dull.reshape(8, 5, 2).sum(1))
    expected = (1 - loss.sum(0) / dull.sum(0)).mean()
    assert by_episode.score(np.ones((1, 8)))[0] == pytest.approx(expected, abs=1e-12)


def test_resample_keeps_numbers_and_starts_with_the_estimate():
    weights = resample(np.array([0, 0, 0, 1, 1, 1]), 50, np.random.default_rng(0))
    assert (weights[0] == 1).all()
    assert (weights.sum(1) == 6).all()
    assert weights[1:].std() > 0


def test_interval_widens_when_episodes_disagree():
    folds = np.arange(20) % 4
    weights = resample(folds, 1000, np.random.default_rng(0))
    dull = np.full((20, 1), 10.0)
    agreeing, torn = np.full((20, 1), 5.0), np.where(np.arange(20) < 10, 0.0, 10.0)[:, None]
    narrow, wide = (estimate(Shares(loss, dull).score(weights)) for loss in (agreeing, torn))
    assert narrow.value == wide.value == 0.5
    assert narrow.high - narrow.low < 1e-9
    assert 0.2 < wide.high - wide.low < 0.8


def test_log_sizes():
    assert log_sizes(32, 1000, 4).tolist() == [32, 101, 317, 1000]
    assert log_sizes(32, 20, 4).tolist() == [20]
