import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trivium.data.quantile import quantiles

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


def in_blocks(values: np.ndarray, size: int):
    return lambda: (values[begin : begin + size] for begin in range(0, len(values), size))


def exact(values: np.ndarray) -> np.ndarray:
    return np.quantile(values.astype(np.float64), SHARES, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_numpy_to_the_bit_on_every_sort_of_dimension(seed):
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 5000))
    values = np.stack(
        [
            rng.normal(size=num_rows),
            rng.standard_cauchy(num_rows) * 1e6,
            rng.integers(0, 2, num_rows),
            np.full(num_rows, -0.7),
            rng.lognormal(sigma=4, size=num_rows) * -1e-30,
            np.round(rng.normal(size=num_rows), 1),
        ],
        1,
    ).astype(np.float32)
    for size in (1000, 7, num_rows):
        assert (quantiles(in_blocks(values, size), SHARES) == exact(values)).all()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_equal_to_numpy_on_any_numbers(values):
    assert (quantiles(in_blocks(values, 11), SHARES) == exact(values)).all()


def test_the_order_of_rows_and_blocks_changes_nothing():
    values = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    one = quantiles(in_blocks(values, 3000), SHARES)
    assert (quantiles(in_blocks(values[::-1], 100), SHARES) == one).all()


def test_memory_is_bounded_by_the_block(monkeypatch):
    seen = []
    bincount = np.bincount
    monkeypatch.setattr(np, "bincount", lambda keys, **more: seen.append(keys.size) or bincount(keys, **more))
    values = np.zeros((10_000, 2), np.float32)
    quantiles(in_blocks(values, 256), SHARES)
    assert max(seen) <= 256
