"""The two readers: ridge against scikit-learn, logistic regression, and an MLP that adds what is not linear."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from trivium.probe import probes
from trivium.probe.probes import Problem, ridge_predict


def _problem(x, y, num_classes=0):
    half = len(x) // 2
    return Problem(x[:half], y[:half], np.arange(half) % 4 == 0, x[half:], num_classes)


def test_ridge_equals_scikit_learn():
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(30, 6)) + 3, rng.normal(size=(30, 2)) - 5, rng.normal(size=(7, 6))
    ours = ridge_predict(x, y, new, (0.01, 10.0))
    for answer, share in zip(ours, (0.01, 10.0), strict=True):
        peer = Ridge(alpha=share * len(x)).fit(x, y).predict(new)
        np.testing.assert_allclose(answer, peer, atol=1e-9)


def test_ridge_picks_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 30))
    signal, noise = _problem(x, x[:, :1]), _problem(x, rng.normal(size=(80, 1)))
    assert np.abs(probes.linear(signal).test - x[40:, :1]).max() < 0.05
    assert probes.linear(noise).test.std() < 0.5


def test_logistic_handles_a_class_that_training_never_shows():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.normal(size=(120, 3)) + 4 * y[:, None]
    answer = probes.linear(_problem(x, y, num_classes=3)).test
    assert answer.shape == (60, 3)
    assert (answer.argmax(1) == y[60:]).mean() > 0.95
    only = probes.linear(_problem(x, np.ones(120, int), num_classes=3)).test
    assert (only.argmax(1) == 1).all()


def test_mlp_starts_from_the_linear_answer_and_learns_what_it_misses():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 4)).astype(np.float32)
    y = np.abs(x[:, :1]) + x[:, 1:2]
    problem = _problem(x, y)
    base = probes.linear(problem)
    corrected = probes.mlp([problem, problem], [base, base], hidden=64, num_steps=200, seed=0)
    before, after = (np.mean((answer - y[400:]) ** 2) for answer in (base.test, corrected[0]))
    assert before > 0.2
    assert after < 0.5 * before
    untouched = probes.mlp([problem], [base], hidden=8, num_steps=0, seed=0)[0]
    np.testing.assert_allclose(untouched, base.test, atol=1e-6)


def test_mlp_separates_a_ring():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(800, 2)).astype(np.float32)
    y = ((x**2).sum(1) > 1.4).astype(int)
    problem = _problem(x, y, num_classes=2)
    base = probes.linear(problem)
    answer = probes.mlp([problem], [base], hidden=64, num_steps=200, seed=0)[0]
    assert (base.test.argmax(1) == y[400:]).mean() < 0.7
    assert (answer.argmax(1) == y[400:]).mean() > 0.85


def test_mlp_does_not_make_noise_worse_than_the_mean():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 20)).astype(np.float32), rng.normal(size=(60, 1))
    problem = _problem(x, y)
    answer = probes.mlp([problem], [probes.linear(problem)], hidden=64, num_steps=100, seed=0)[0]
    assert np.mean((answer - y[30:]) ** 2) < 1.5 * y.var()


def test_unequal_problems_are_our_mistake():
    x = np.zeros((8, 2), np.float32)
    problems = [_problem(x, x[:, :1]), _problem(x[:6], x[:6, :1])]
    with pytest.raises(AssertionError, match="equally many training rows"):
        probes.mlp(problems, [probes.linear(p) for p in problems], hidden=4, num_steps=1, seed=0)
