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


@dataclass(frozen=True, eq=False)
class Problem:
    """One training set and one test set of reduced features; `check` marks the inner side of the training rows."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n o"] | Int[np.ndarray, " n"]
    check: Bool[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m d"]
    num_classes: int
    """0 for a regression."""


def linear(problem: Problem) -> Float[np.ndarray, "m o"] | Int[np.ndarray, " m"]:
    """Predict the test rows by ridge or logistic regression."""
    return _logistic(problem) if problem.num_classes else _ridge(problem)


def _ridge(problem: Problem) -> Float[np.ndarray, "m o"]:
    fit = ~problem.check
    inner = ridge_predict(problem.x[fit], problem.y[fit], problem.x[problem.check], PENALTIES)
    scale = problem.y.std(0) + 1e-12
    errors = [float((((guess - problem.y[problem.check]) / scale) ** 2).mean()) for guess in inner]
    return ridge_predict(problem.x, problem.y, problem.x_test, (PENALTIES[int(np.argmin(errors))],))[0]


def ridge_predict(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n o"],
    x_new: Float[np.ndarray, "m d"],
    penalties: Sequence[float],
) -> list[Float[np.ndarray, "m o"]]:
    """Solve ridge regression with an intercept for every penalty (a share of n) from one eigendecomposition."""
    x_mean, y_mean = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    centred = x - x_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    rotated, new = vectors.T @ (centred.T @ (y - y_mean)), (x_new - x_mean) @ vectors
    return [new @ (rotated / (values.clip(0)[:, None] + share * len(x))) + y_mean for share in penalties]


def _logistic(problem: Problem) -> Int[np.ndarray, " m"]:
    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=300, tol=1e-3)

    if len(np.unique(problem.y)) == 1:
        return np.full(len(problem.x_test), problem.y[0])
    fit, best = ~problem.check, INVERSE_PENALTIES[0]
    if len(np.unique(problem.y[fit])) > 1:
        inner = [model(c).fit(problem.x[fit], problem.y[fit]) for c in INVERSE_PENALTIES]
        scores = [m.score(problem.x[problem.check], problem.y[problem.check]) for m in inner]
        best = INVERSE_PENALTIES[int(np.argmax(scores))]
    return model(best).fit(problem.x, problem.y).predict(problem.x_test)


def mlp(
    problems: Sequence[Problem], hidden: int, num_steps: int, seed: int
) -> list[Float[np.ndarray, "m o"] | Int[np.ndarray, " m"]]:
    """Train one small MLP a problem, all at once as a batched product, and predict each test side.

    Problems (the folds of one training size) must have equally many training rows. The last layer starts at
    zero, so before the first step the answer is the mean; the predictions kept are those of the moment with the
    least error on the inner side, which bounds over-fitting at small sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    data = _stack(problems)
    count, width, outputs = len(problems), data.x.shape[2], data.y.shape[2]
    first = torch.randn(count, width, hidden, generator=generator) * (2 / width) ** 0.5
    shapes = ((count, 1, hidden), (count, hidden, outputs), (count, 1, outputs))
    weights = [first.requires_grad_(), *(torch.zeros(shape, requires_grad=True) for shape in shapes)]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    best = torch.full((count,), torch.inf)
    kept = torch.zeros(count, data.x_test.shape[1], outputs)
    batch_size = min(64, data.x.shape[1])
    for step in range(num_steps + 1):
        if step % max(1, num_steps // 8) == 0:
            best, kept = _keep_better(weights, data, best, kept)
        picks = torch.multinomial(data.fit, batch_size, replacement=True, generator=generator)
        rows = torch.arange(count)[:, None]
        loss = _errors(_answer(weights, data.x[rows, picks]), data.y[rows, picks], data.is_classes).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step < num_steps:
            schedule.step()
    return data.unstack(kept)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Problems side by side: padded test rows, targets in units of their own spread."""

    x: Float[Tensor, "f n d"]
    y: Float[Tensor, "f n o"]
    fit: Float[Tensor, "f n"]
    x_test: Float[Tensor, "f m d"]
    is_classes: bool
    mean: Float[np.ndarray, "f 1 o"]
    spread: Float[np.ndarray, "f 1 o"]
    lengths: tuple[int, ...]

    def unstack(self, kept: Float[Tensor, "f m o"]) -> list[np.ndarray]:
        """Cut the padding off and go back to the targets' own units (or class numbers)."""
        guesses = kept.numpy().astype(np.float64)
        if self.is_classes:
            return [guess[:length].argmax(1) for guess, length in zip(guesses, self.lengths, strict=True)]
        guesses = guesses * self.spread + self.mean
        return [guess[:length] for guess, length in zip(guesses, self.lengths, strict=True)]


def _stack(problems: Sequence[Problem]) -> _Stack:
    assert len({len(p.x) for p in problems}) == 1, "problems of one batch need equally many training rows"
    classes = problems[0].num_classes
    y = np.stack([np.eye(classes)[p.y] if classes else p.y for p in problems]).astype(np.float64)
    mean, spread = y.mean(1, keepdims=True), y.std(1, keepdims=True) + 1e-9
    if classes:
        mean, spread = np.zeros_like(mean), np.ones_like(spread)
    lengths = tuple(len(p.x_test) for p in problems)
    x_test = np.zeros((len(problems), max(lengths), problems[0].x.shape[1]), np.float32)
    for row, problem in zip(x_test, problems, strict=True):
        row[: len(problem.x_test)] = problem.x_test
    return _Stack(
        x=torch.from_numpy(np.stack([p.x for p in problems]).astype(np.float32)),
        y=torch.from_numpy(((y - mean) / spread).astype(np.float32)),
        fit=torch.from_numpy(np.stack([~p.check for p in problems]).astype(np.float32)),
        x_test=torch.from_numpy(x_test),
        is_classes=bool(classes),
        mean=mean,
        spread=spread,
        lengths=lengths,
    )


def _answer(weights: Sequence[Tensor], x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n o"]:
    first, first_bias, second, second_bias = weights
    return functional.relu(torch.baddbmm(first_bias, x, first)) @ second + second_bias


def _errors(answer: Tensor, wanted: Tensor, is_classes: bool) -> Float[Tensor, "f n"]:
    if is_classes:
        return -(wanted * answer.log_softmax(-1)).sum(-1)
    return ((answer - wanted) ** 2).mean(-1)


@torch.no_grad()
def _keep_better(weights: Sequence[Tensor], data: _Stack, best: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a fold's kept test answers where its error on the inner side has fallen."""
    inner = 1 - data.fit
    errors = (_errors(_answer(weights, data.x), data.y, data.is_classes) * inner).sum(1) / inner.sum(1)
    better = errors < best
    return torch.where(better, errors, best), torch.where(better[:, None, None], _answer(weights, data.x_test), kept)
