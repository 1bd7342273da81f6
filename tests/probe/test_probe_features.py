"""Feature extraction: batches, the raw-pixel control, grid pooling, and broken encoders named."""

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample, Text
from trivium.probe.features import extract, pool_grid, raw_pixels
from trivium.probe.tasks import next_actions, number_tasks, object_position, task_identity


def _sample(number, truth=None, action=None, view_count=1):
    pixels = np.full((8, 8, 3), number * 10, np.uint8)
    segments = [Image(pixels=pixels, view=f"view{v}") for v in range(view_count)]
    if action is not None:
        names = tuple("xyzg")
        segments.append(Action(values=action[0].astype(np.float32), valid=action[1], names=names))
    return Sample(id=f"demo/{number}", segments=tuple(segments), source="demo", license="MIT", truth=truth or {})


def test_extract_keeps_order_across_batches():
    samples = [_sample(n) for n in range(7)]
    sizes = []

    def features(part):
        sizes.append(len(part))
        return np.array([[s.segments[0].pixels.mean(), 1.0] for s in part])

    assert extract(features, samples, batch_size=3)[:, 0].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert sizes == [3, 3, 1]


def test_extract_names_the_sample_with_nan():
    def features(part):
        return np.array([[np.nan if s.id == "demo/4" else 0.0, 1.0] for s in part])

    with pytest.raises(DataError, match=r"features of sample 'demo/4': found NaN or infinity in 1 of 2 numbers"):
        extract(features, [_sample(n) for n in range(6)], batch_size=3)


def test_raw_pixels_stacks_all_views():
    rows = raw_pixels([_sample(n, view_count=2) for n in range(3)], size=4)
    assert rows.shape == (3, 2 * 4 * 4 * 3)
    np.testing.assert_allclose(rows[2], 20 / 255)


def test_raw_pixels_without_picture_says_so():
    blind = Sample(id="text/1", segments=(Text(text="hello"),), source="text", license="MIT")
    with pytest.raises(DataError, match=r"sample 'text/1': found no picture"):
        raw_pixels([blind])


def test_pool_grid_keeps_where():
    tokens = np.zeros((1, 36, 2))
    tokens[0, 35] = 9.0
    pooled = pool_grid(tokens, (6, 6), cells=3).reshape(3, 3, 2)
    assert pooled[2, 2].tolist() == [9 / 4, 9 / 4]
    assert pooled.sum() == 9 / 2
    assert pool_grid(tokens, (6, 6), cells=1).shape == (1, 2)


def test_targets_from_samples():
    chunk, whole, cut = np.arange(8.0).reshape(2, 4), np.array([True, True]), np.array([True, False])
    samples = [
        _sample(0, {"object_position": np.array([0.1, 0.2, 0.0])}, (chunk, whole)),
        _sample(1, {}, (chunk, cut)),
        _sample(2, {"object_position": np.array([0.3, 0.2, 0.0])}, (chunk + 1, whole)),
    ]
    position, action = object_position(samples), next_actions(samples)
    assert position.rows.tolist() == action.rows.tolist() == [0, 2]
    assert position.values[2].tolist() == [0.3, 0.2, 0.0]
    assert action.values[2].tolist() == list(np.arange(1.0, 9.0))
    tasks = number_tasks(["reach", "push", "reach"])
    assert task_identity(tasks).values.tolist() == [1, 0, 1]


def test_missing_truth_and_actions_say_what_is_there():
    samples = [_sample(0, {"goal": np.zeros(3)})]
    with pytest.raises(DataError, match=r"no truth named 'object_position' \(there is: goal\)"):
        object_position(samples)
    with pytest.raises(DataError, match="no sample with a whole action chunk"):
        next_actions(samples)
