"""Frozen features of the same samples from several encoders: a batched callable, and the raw-pixel control."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image as Pillow

from trivium.core.errors import DataError
from trivium.core.sample import Image, Sample

Features = Callable[[list[Sample]], Float[np.ndarray, "n d"]]
"""An encoder as the check sees it: samples in, one row of numbers each out, nothing learned on the way."""


def extract(features: Features, samples: Sequence[Sample], batch_size: int = 64) -> Float32[np.ndarray, "n d"]:
    """Run an encoder over all samples in batches and stack the rows.

    Raises:
        DataError: a feature is NaN or infinite; the text names the first such sample.
    """
    assert samples, "no samples to take features of"
    rows = []
    for start in range(0, len(samples), batch_size):
        part = list(samples[start : start + batch_size])
        row = np.asarray(features(part), np.float32)
        assert row.ndim == 2, f"features came as {row.shape}, not one row a sample"
        assert len(row) == len(part), f"features of {len(part)} samples came as {row.shape}"
        bad = np.flatnonzero(~np.isfinite(row).all(1))
        if len(bad):
            raise DataError(
                f"features of sample '{part[bad[0]].id}'",
                f"NaN or infinity in {int((~np.isfinite(row[bad[0]])).sum())} of {row.shape[1]} numbers",
                "finite features",
                "The encoder's weights or its input are broken: look at the losses of the stage that trained it.",
            )
        rows.append(row)
    return np.concatenate(rows)


def raw_pixels(samples: Sequence[Sample], size: int = 16) -> Float32[np.ndarray, "n d"]:
    """Shrink every view to size x size and flatten it: the control that has learned nothing at all.

    Raises:
        DataError: a sample carries no picture.
    """
    rows = []
    for sample in samples:
        pictures = sample.of(Image)
        if not pictures:
            raise DataError(
                f"sample '{sample.id}'", "no picture", "at least one view", "Probe a source that has pictures."
            )
        small = [
            np.asarray(Pillow.fromarray(np.asarray(p.pixels)).resize((size, size), Pillow.Resampling.BOX))
            for p in pictures
        ]
        rows.append(np.concatenate([picture.ravel() for picture in small]).astype(np.float32) / 255)
    return np.stack(rows)


def pool_grid(tokens: Float[np.ndarray, "n p d"], grid: tuple[int, int], cells: int = 4) -> Float[np.ndarray, "n e"]:
    """Average patch tokens inside cells x cells regions and lay the regions side by side.

    A mean over the whole picture forgets where things are, which is what control needs most.
    """
    rows, columns = grid
    assert tokens.shape[1] == rows * columns, f"{tokens.shape[1]} patch tokens do not fill a grid of {grid}"
    square = tokens.reshape(len(tokens), rows, columns, -1)
    bands = [band.mean(1, keepdims=True) for band in np.array_split(square, min(cells, rows), axis=1)]
    regions = [
        region.mean(2, keepdims=True) for band in bands for region in np.array_split(band, min(cells, columns), axis=2)
    ]
    return np.concatenate(regions, axis=1).reshape(len(tokens), -1)
