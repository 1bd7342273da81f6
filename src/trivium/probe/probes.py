"""Two readers of frozen features, linear and a small MLP; their regularisation is chosen on an inner split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

PENALTIES = tuple(10.0**power for power in range(-4, 4))
"""Ridge penalties tried, as shares of the number of samples (features have mean variance 1)."""
INVERSE_PENALTIES = (1e-2, 1e-1, 1.0)
"""Logistic `C` tried; three, because each is a fit of its own."""
MLP_LR = 5e-3
"""First learning rate of the MLP probe; it falls to zero in a straight line."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One training set and one test set of reduced features; `check` marks the inner side of the training rows."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n o"] | Int[np.ndarray, " n"]
    check: Bool[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m d"]
    num_classes: int
    """0 for a regression."""


@dataclass(frozen=True, eq=False)
class Linear:
    """The linear probe's answers: values, or one logit a class.

    `test` comes from all training rows, `train` from the fitting side alone, so that what `train` misses on the
    inner side is an honest miss.
    """

    test: Float[np.ndarray, "m o"]
    train: Float[np.ndarray, "n o"]


def linear(problem: Problem) -> Linear:
    """Fit ridge or logistic regression, its penalty chosen on the inner side, and answer both sides."""
    return _logistic(problem) if problem.num_classes else _ridge(problem)


def _ridge(problem: Problem) -> Linear:
    fit = ~problem.check
    inner = ridge_predict(problem.x[fit], problem.y[fit], problem.x, PENALTIES)
    misses = (problem.y - inner)[:, problem.check] / (problem.y.std(0) + 1e-12)
    best = int(np.argmin((misses**2).mean((1, 2))))
    test = ridge_predict(problem.x, problem.y, problem.x_test, PENALTIES[best : best + 1])[0]
    return Linear(test=test, train=inner[best])


def ridge_predict(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n o"],
    x_new: Float[np.ndarray, "m d"],
    penalties: Sequence[float],
) -> Float[np.ndarray, "k m o"]:
    """Solve ridge regression with an intercept for every penalty (a share of n) from one eigendecomposition."""
    x_mean, y_mean = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    centred = x - x_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    rotated, new = vectors.T @ (centred.T @ (y - y_mean)), (x_new - x_mean) @ vectors
    return np.stack([new @ (rotated / (values.clip(0)[:, None] + share * len(x))) + y_mean for share in penalties])


def _logistic(problem: Problem) -> Linear:
    fit = ~problem.check
    guesses = [_class_logits(problem, fit, strength, problem.x) for strength in INVERSE_PENALTIES]
    right = [(guess.argmax(1) == problem.y)[problem.check].mean() for guess in guesses]
    best = int(np.argmax(right))
    everything = np.ones(len(problem.x), bool)
    test = _class_logits(problem, everything, INVERSE_PENALTIES[best], problem.x_test)
    return Linear(test=test, train=guesses[best])


def _class_logits(
    problem: Problem, rows: Bool[np.ndarray, " n"], strength: float, x_new: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "m o"]:
    """Give log-probabilities; a class that the rows never show gets a small floor, not minus infinity."""
    logits = np.full((len(x_new), problem.num_classes), -10.0)
    seen = np.unique(problem.y[rows])
    if len(seen) == 1:
        logits[:, seen] = 0.0
        return logits
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(problem.x[rows], problem.y[rows])
    logits[:, seen] = model.predict_log_proba(x_new).clip(-10.0)
    return logits


def mlp(
    problems: Sequence[Problem], bases: Sequence[Linear], hidden: int, num_steps: int, seed: int
) -> list[Float[np.ndarray, "m o"]]:
    """Train a two-layer MLP on what the linear probe misses; answer the test sides with linear plus correction.

    Starting from the linear answer keeps a short training honest: an MLP that is merely under-trained would look
    like an encoder without non-linear knowledge. The last layer starts at zero, so the first answer IS the linear
    one; kept is the moment with the least error on the inner side, which bounds over-fitting at small sizes.
    All problems (the folds of one training size, equally many rows each) train at once as a batched product.
    """
    generator = torch.Generator().manual_seed(seed)
    data = _stack(problems, bases)
    count, num_rows, width = data.x.shape
    outputs = data.y.shape[2]
    first = torch.randn(count, width, hidden, generator=generator) * (2 / width) ** 0.5
    shapes = ((count, 1, hidden), (count, hidden, outputs), (count, 1, outputs))
    weights = [first.requires_grad_(), *(torch.zeros(shape, requires_grad=True) for shape in shapes)]
    optimizer = torch.optim.AdamW(weights, lr=MLP_LR, weight_decay=1e-2, fused=True)
    best = torch.full((count,), torch.inf)
    kept = torch.zeros(count, data.x_test.shape[1], outputs)
    order = torch.arange(count)[:, None]
    for step in range(num_steps + 1):
        if step % max(1, num_steps // 6) == 0:
            best, kept = _keep_better(weights, data, best, kept)
        picks = torch.multinomial(data.fit, min(64, num_rows), replacement=True, generator=generator)
        loss = data.errors(_correction(weights, data.x[order, picks]), order, picks).mean(1).sum()
        optimizer.param_groups[0]["lr"] = MLP_LR * (1 - step / (num_steps + 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    corrections = kept.numpy() * data.spread
    return [base.test + correction[: len(base.test)] for base, correction in zip(bases, corrections, strict=True)]


@dataclass(frozen=True, eq=False)
class _Stack:
    """Problems side by side: test rows padded, regression targets as misses of the linear probe in own spreads."""

    x: Float[Tensor, "f n d"]
    y: Float[Tensor, "f n o"]
    """Regression: what is left to say. Classification: one-hot classes."""
    base: Float[Tensor, "f n o"]
    """Classification: the linear probe's logits. Regression: zeros."""
    fit: Float[Tensor, "f n"]
    x_test: Float[Tensor, "f m d"]
    is_classes: bool
    spread: Float[np.ndarray, "f 1 o"]

    def errors(self, correction: Tensor, *at: Tensor) -> Float[Tensor, "f n"]:
        """Error of each row (all rows, or those indexed by `at`) with the correction added."""
        y, base = (self.y[at], self.base[at]) if at else (self.y, self.base)
        if self.is_classes:
            return -(y * (base + correction).log_softmax(-1)).sum(-1)
        return ((base + correction - y) ** 2).mean(-1)


def _stack(problems: Sequence[Problem], bases: Sequence[Linear]) -> _Stack:
    assert len({len(p.x) for p in problems}) == 1, "problems of one batch need equally many training rows"
    classes = problems[0].num_classes
    y = np.stack([np.eye(classes)[p.y] if classes else p.y for p in problems])
    base = np.stack([b.train for b in bases])
    spread = np.ones((len(y), 1, y.shape[2])) if classes else y.std(1, keepdims=True) + 1e-9
    if not classes:
        y, base = (y - base) / spread, np.zeros_like(base)
    x_test = np.zeros((len(y), max(len(p.x_test) for p in problems), problems[0].x.shape[1]), np.float32)
    for row, problem in zip(x_test, problems, strict=True):
        row[: len(problem.x_test)] = problem.x_test
    return _Stack(
        x=torch.from_numpy(np.stack([p.x for p in problems]).astype(np.float32)),
        y=torch.from_numpy(y.astype(np.float32)),
        base=torch.from_numpy(base.astype(np.float32)),
        fit=torch.from_numpy(np.stack([~p.check for p in problems]).astype(np.float32)),
        x_test=torch.from_numpy(x_test),
        is_classes=bool(classes),
        spread=spread,
    )


def _correction(weights: Sequence[Tensor], x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n o"]:
    first, first_bias, second, second_bias = weights
    return functional.relu(torch.baddbmm(first_bias, x, first)) @ second + second_bias


@torch.no_grad()
def _keep_better(weights: Sequence[Tensor], data: _Stack, best: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a fold's kept test corrections where its error on the inner side has fallen."""
    inner = 1 - data.fit
    errors = (data.errors(_correction(weights, data.x)) * inner).sum(1) / inner.sum(1)
    better = errors < best
    fresh = _correction(weights, data.x_test)
    return torch.where(better, errors, best), torch.where(better[:, None, None], fresh, kept)
