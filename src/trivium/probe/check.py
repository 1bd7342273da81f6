"""The health check of one stage: the same probes over the stage's encoder and its controls, and a verdict."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from threadpoolctl import threadpool_limits

from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.rng import key, numpy_rng
from trivium.probe import probes, verdict
from trivium.probe.curve import Estimate, Shares, aulc, estimate, log_sizes, resample
from trivium.probe.health import Curve, HealthReport, Margin, ProbeName, TargetResult
from trivium.probe.reduce import reduce_by_fold
from trivium.probe.split import Fold, check_mask, split_by_episode
from trivium.probe.tasks import Target

CHECK_SHARE = 0.25
"""Share of training episodes on which a probe's regularisation is chosen."""


class HealthConfig(Config):
    """How thorough a health check is; the defaults take about 10 s for 1500 samples of 1000 numbers on 2 cores."""

    num_folds: int = Field(default=4, ge=2, le=20)
    """Parts the episodes are dealt into; each is held out once with a training draw and initial weights of its own.
    2 to 10. Time grows in proportion; two episodes a fold are the least."""
    num_sizes: int = Field(default=4, ge=1, le=12)
    """Points of a learning curve, evenly spaced in the log of the number of training samples. 1 to 8."""
    smallest_size: int = Field(default=32, ge=8)
    """Training samples at the left end of a learning curve. 16 to 100; under 16 the scores are mostly noise."""
    num_components: int = Field(default=128, ge=2)
    """Principal components (of standardised features, fitted on the training part) that a probe sees. 64 to 512.
    All encoders go through it alike; too few and fine detail is lost, too many and the MLP grows slow."""
    hidden: int = Field(default=256, ge=1)
    """Width of the MLP probe's hidden layer. 64 to 512."""
    mlp_steps: int = Field(default=200, ge=8)
    """Steps of the MLP probe at the right end of the curve, 64 samples each. 100 to 2000; too few and it adds
    nothing to the linear probe that it starts from."""
    seed: int = 0
    """Seed of splits, training draws, initial weights and resampling; the same seed gives the same report."""


@dataclass(frozen=True, eq=False)
class _Ground:
    """What all cells share: who is held out when, and the episode weights of the bootstrap."""

    config: HealthConfig
    folds: list[Fold]
    episode: Int[np.ndarray, " n"]
    """Episode of every sample as a number: those that are tested first, 0..e-1, then those that never are."""
    tasks: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "r e"]
    memory: "Memory"


Memory = dict[tuple[str, str], Any]
"""What controls gave in an earlier check of the same samples, by (encoder, what)."""

T = TypeVar("T")


def health_check(
    stage: str,
    features: Mapping[str, Float[np.ndarray, "n d"]],
    targets: Sequence[Target],
    *,
    episodes: Int[np.ndarray, " n"],
    tasks: Int[np.ndarray, " n"],
    seen: Bool[np.ndarray, " n"] | None = None,
    config: HealthConfig | None = None,
    subject: str = "aligned",
    memory: Memory | None = None,
) -> HealthReport:
    """Probe frozen features of the SAME samples from several encoders and compare `subject` with every other one.

    Each encoder's features are standardised and reduced to `num_components` principal components on the training
    part of a fold (the labels of a training draw are what the learning curve counts, so all training features may
    be used there). `seen` marks samples of episodes that the encoder was trained on: probes learn from them in every
    fold, but are never tested on them. R2 is taken against the mean of the same task: telling tasks apart earns
    nothing. Controls never change: a `memory` handed from check to check of the same samples, targets and settings
    spares probing them again.

    Raises:
        DataError: too few episodes, features that are not finite, or a target without answers that differ.
    """
    start = time.perf_counter()
    config = config or HealthConfig()
    _validate(features, targets, episodes, tasks, subject)
    ground = _prepare(episodes, tasks, np.zeros(len(episodes), bool) if seen is None else seen, config)
    # The subject is another one in every check, so it is remembered for this one alone.
    ground.memory.update({kept: found for kept, found in (memory or {}).items() if kept[0] != subject})
    with _one_thread():
        both = {
            name: _remember(
                ground,
                (name, "reduced"),
                partial(reduce_by_fold, name, matrix, ground.folds, config.num_components, config.seed),
            )
            for name, matrix in features.items()
        }
        reduced, notes = {name: parts for name, (parts, _) in both.items()}, [note for _, note in both.values()]
        results = tuple(_probe_target(target, reduced, ground, subject) for target in targets)
        leak = _leak(reduced[subject], ground)
    if memory is not None:
        memory.update({kept: found for kept, found in ground.memory.items() if kept[0] != subject})
    return HealthReport(
        stage=stage,
        subject=subject,
        num_samples=len(episodes),
        num_episodes=ground.weights.shape[1],
        num_folds=config.num_folds,
        encoders=tuple(notes),
        targets=results,
        verdict=verdict.overall(subject, results),
        cautions=tuple(verdict.cautions(subject, results, notes, ground.weights.shape[1], leak)),
        seconds=round(time.perf_counter() - start, 2),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread and give the number of threads back: thousands of tiny products spend their time waiting.

    Measured: one 1125 x 1000 decomposition took 0.04 s on one thread, 8 s on two of a busy machine with two cores.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(num_threads)


def _validate(
    features: Mapping[str, np.ndarray], targets: Sequence[Target], episodes: np.ndarray, tasks: np.ndarray, subject: str
) -> None:
    assert subject in features, f"no features named '{subject}' among {list(features)}"
    assert len(tasks) == len(episodes), f"{len(tasks)} tasks for {len(episodes)} episodes"
    for target in targets:
        assert len(target.values) == len(episodes), f"target {target.name}: {len(target.values)} rows"
    for name, matrix in features.items():
        assert matrix.shape[0] == len(episodes), f"features '{name}': {matrix.shape}, {len(episodes)} samples"
        if not np.isfinite(matrix).all():
            rows = np.flatnonzero(~np.isfinite(matrix).all(1))
            raise DataError(
                f"health check, features '{name}'",
                f"NaN or infinity in {len(rows)} of {len(matrix)} rows, the first is row {rows[0]}",
                "finite features",
                "The encoder's weights or its input are broken: look at the losses of the stage that trained it.",
            )


def _prepare(episodes: np.ndarray, tasks: np.ndarray, seen: np.ndarray, config: HealthConfig) -> _Ground:
    folds = split_by_episode(episodes, tasks, seen, config.num_folds, numpy_rng(config.seed, "probe", "split"))
    tested, trained = np.unique(episodes[~seen]), np.unique(episodes[seen])
    order = np.concatenate([tested, trained])
    number = np.argsort(order)[np.searchsorted(np.sort(order), episodes)]
    fold_of = np.empty(len(tested), int)
    for place, fold in enumerate(folds):
        assert not np.isin(episodes[fold.train], episodes[fold.test]).any(), "an episode stands on both sides"
        fold_of[number[fold.test]] = place
    weights = resample(fold_of, 1000, numpy_rng(config.seed, "probe", "bootstrap"))
    return _Ground(config, folds, number, tasks, weights, {})


def _remember(ground: _Ground, kept: tuple[str, str], make: Callable[[], T]) -> T:
    if kept not in ground.memory:
        ground.memory[kept] = make()
    return ground.memory[kept]


def _probe_target(target: Target, reduced: dict[str, list[np.ndarray]], ground: _Ground, subject: str) -> TargetResult:
    config = ground.config
    columns = _live_columns(target, ground.tasks)
    folds = [_answered(fold, target, ground.episode) for fold in ground.folds]
    sizes = log_sizes(config.smallest_size, min(len(fold.train) for fold in folds), config.num_sizes)
    curves, draws = [], {}
    for encoder, parts in reduced.items():
        cells = _remember(
            ground,
            (encoder, target.name),
            lambda parts=parts: [_cell(target, columns, parts, folds, ground, size) for size in sizes.tolist()],
        )
        for probe in ("linear", "mlp"):
            scores = np.stack([cell[probe][0].score(ground.weights) for cell in cells], 1)
            draws[encoder, probe] = scores
            second = tuple(round(cell[probe][1], 5) for cell in cells) if target.second != "none" else ()
            curves.append(
                Curve(
                    encoder=encoder,
                    probe=probe,
                    sizes=tuple(sizes.tolist()),
                    scores=tuple(estimate(column) for column in scores.T),
                    aulc=estimate(aulc(sizes, scores)),
                    second=second,
                )
            )
    controls = [name for name in reduced if name != subject]
    margins = [
        _margin(control, probe, sizes, draws[subject, probe] - draws[control, probe])
        for control in controls
        for probe in ("linear", "mlp")
    ]
    metric = "R2" if target.is_regression else "accuracy"
    return TargetResult(
        name=target.name,
        metric=metric,
        second=target.second,
        chance=0.0 if target.is_regression else float(np.bincount(target.values[target.rows]).max() / len(target.rows)),
        num_samples=len(target.rows),
        columns_left_out=int(target.values.shape[1] - columns.sum()) if target.is_regression else 0,
        curves=tuple(curves),
        margins=tuple(margins),
        sentences=tuple(verdict.sentences(subject, target.name, metric, margins, int(sizes[-1]))),
    )


def _answered(fold: Fold, target: Target, episode: np.ndarray) -> Fold:
    valid = np.isin(np.arange(len(target.values)), target.rows)
    kept = Fold(fold.train[valid[fold.train]], fold.test[valid[fold.test]])
    if len(np.unique(episode[kept.train])) < 2 or not len(kept.test):
        raise DataError(
            f"health check, target '{target.name}'",
            f"only {len(target.rows)} of {len(target.values)} samples with an answer, too few in some fold",
            "answers in at least two episodes of every fold",
            "Record more episodes, lower `num_folds`, or leave this target out.",
        )
    return kept


def _margin(control: str, probe: ProbeName, sizes: np.ndarray, gap: np.ndarray) -> Margin:
    full, small = estimate(gap[:, -1]), estimate(gap[:, 0])
    return Margin(
        control=control,
        probe=probe,
        full=full,
        small=small,
        aulc=estimate(aulc(sizes, gap)),
        outcome=verdict.outcome(full),
    )


def _live_columns(target: Target, tasks: np.ndarray) -> np.ndarray:
    """Mark the regression columns that vary inside tasks: a hundredth of the liveliest column's spread or more."""
    if not target.is_regression:
        return np.ones(1, bool)
    rows = target.rows
    spread = np.sqrt((_around_task(target.values[rows], tasks[rows]) ** 2).mean(0))
    if not spread.max() > 1e-9:
        raise DataError(
            f"health check, target '{target.name}'",
            f"the same answer in all {len(rows)} samples of a task",
            "answers that differ between the episodes of a task",
            "Record with objects that move between episodes, or probe another target.",
        )
    return spread > 0.01 * max(float(spread.max()), 1e-12)


def _around_task(values: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float64)
    for task in np.unique(tasks):
        centred[tasks == task] -= centred[tasks == task].mean(0)
    return centred


def _cell(
    target: Target, columns: np.ndarray, parts: list[np.ndarray], folds: list[Fold], ground: _Ground, size: int
) -> dict[ProbeName, tuple[Shares, float]]:
    """Train both probes on `size` samples of every fold; return their losses by test episode."""
    config = ground.config
    values = target.values[:, columns] if target.is_regression else target.values
    problems = []
    for place, (fold, x) in enumerate(zip(folds, parts, strict=True)):
        rows = fold.train[:size]
        rng = numpy_rng(config.seed, "probe", "inner", target.name, size, place)
        problems.append(
            probes.Problem(
                x=x[rows],
                y=values[rows],
                check=check_mask(ground.episode[rows], CHECK_SHARE, rng),
                x_test=x[fold.test],
                num_classes=0 if target.is_regression else int(target.values.max()) + 1,
            )
        )
    bases = [probes.linear(problem) for problem in problems]
    # A small training set is learned in fewer steps; the time goes to the right end of the curve.
    steps = max(config.mlp_steps // 4, round(config.mlp_steps * size / max(len(fold.train) for fold in folds)))
    corrected = probes.mlp(problems, bases, config.hidden, steps, key(config.seed, "probe", "mlp", target.name, size))
    guesses: dict[ProbeName, list[np.ndarray]] = {"linear": [base.test for base in bases], "mlp": corrected}
    test = np.concatenate([fold.test for fold in folds])
    return {name: _score(target, values, test, np.concatenate(guess), ground) for name, guess in guesses.items()}


def _score(
    target: Target, values: np.ndarray, test: np.ndarray, guess: np.ndarray, ground: _Ground
) -> tuple[Shares, float]:
    """Sum the losses by episode, and take the figure in everyday units over all test samples."""
    if target.is_regression:
        error = (guess - values[test]) ** 2
        dull = _around_task(values[test], ground.tasks[test]) ** 2
    else:
        error, dull = (guess.argmax(1) != values[test])[:, None].astype(np.float64), np.ones((len(test), 1))
    sums = np.zeros((2, ground.weights.shape[1], error.shape[1]))
    np.add.at(sums[0], ground.episode[test], error)
    np.add.at(sums[1], ground.episode[test], dull)
    second = {"error_cm": 100 * np.sqrt(error.sum(1)).mean(), "mse": error.mean(), "none": 0.0}[target.second]
    return Shares(sums[0], sums[1]), float(second)


def _leak(parts: list[np.ndarray], ground: _Ground) -> Estimate:
    """Try to predict a random number drawn for each episode: nothing but a leak of episodes can score above 0."""
    drawn = numpy_rng(ground.config.seed, "probe", "leak").normal(size=ground.episode.max() + 1)
    target = Target(name="leak", values=drawn[ground.episode][:, None])
    guesses = []
    for place, (fold, x) in enumerate(zip(ground.folds, parts, strict=True)):
        check = check_mask(
            ground.episode[fold.train], CHECK_SHARE, numpy_rng(ground.config.seed, "probe", "leak", place)
        )
        guesses.append(
            probes.linear(probes.Problem(x[fold.train], target.values[fold.train], check, x[fold.test], 0)).test
        )
    test = np.concatenate([fold.test for fold in ground.folds])
    shares, _ = _score(target, target.values, test, np.concatenate(guesses), ground)
    return estimate(shares.score(ground.weights))
