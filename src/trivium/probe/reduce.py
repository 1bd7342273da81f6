"""Bringing features of any width to a few principal components, fitted on the training side alone."""

import numpy as np
from jaxtyping import Float, Float32, Int
from sklearn.utils.extmath import randomized_svd

from trivium.probe.health import EncoderNote
from trivium.probe.split import Fold


def reduce_by_fold(
    name: str, matrix: Float[np.ndarray, "n d"], folds: list[Fold], num_components: int, seed: int
) -> tuple[list[Float32[np.ndarray, "n c"]], EncoderNote]:
    """Reduce one encoder's features once a fold; the note says how much variance is left on average.

    All folds come out equally wide, with columns of zeros where one has fewer training rows or more dead units.
    """
    parts = [reduce(matrix, fold.train, num_components, seed) for fold in folds]
    widest = max(part.shape[1] for part, _ in parts)
    kept = float(np.mean([share for _, share in parts]))
    width = min(part.shape[1] for part, _ in parts) if kept > 0 else 0
    note = EncoderNote(name=name, width=matrix.shape[1], components=width, variance_kept=round(kept, 4))
    return [np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part, _ in parts], note


def reduce(
    matrix: Float[np.ndarray, "n d"], train: Int[np.ndarray, " m"], num_components: int, seed: int
) -> tuple[Float32[np.ndarray, "n c"], float]:
    """Standardise on the training rows, keep the first principal components there, bring mean variance to 1.

    Returns the reduced rows of all samples and the share of variance kept. Columns that hardly vary (dead units)
    are left out: dividing by their spread would blow rounding noise up to full size.
    """
    x = matrix.astype(np.float32)
    spread = x[train].std(0)
    alive = spread > 1e-4 * max(float(spread.max()), 1e-30)
    if not alive.any() or spread.max() < 1e-12:
        return np.zeros((len(x), 1), np.float32), 0.0
    x = (x[:, alive] - x[train][:, alive].mean(0)) / spread[alive]
    kept = 1.0
    if x.shape[1] > num_components:
        num_components = min(num_components, len(train) - 1)
        _, sizes, axes = randomized_svd(x[train], num_components, n_iter=3, random_state=seed % 2**32)  # pyright: ignore[reportArgumentType] (its stub says str)
        kept = float((sizes.astype(np.float64) ** 2).sum() / (len(train) * x.shape[1]))
        x = x @ axes.T
    return (x / np.sqrt(x[train].var(0).mean())).astype(np.float32), kept
