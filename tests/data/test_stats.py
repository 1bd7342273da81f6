import json

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.data import stats as stats_module
from trivium.data.column import QUANTILES, from_json, to_json
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.source import Source
from trivium.data.stats import Moments, measure


class Numbers(Source):
    """A source of one column, with nothing behind it."""

    def __init__(self, values: np.ndarray) -> None:
        self.name, self.license, self.fingerprint, self.values = "numbers", "", "", values

    def __len__(self) -> int:
        return len(self.values)

    def groups(self) -> np.ndarray:
        return np.arange(len(self.values))

    def peek(self, i):
        raise AssertionError("statistics read no sample")

    read = peek

    @property
    def embodiment(self) -> str:
        return "toy"

    def columns(self):
        return {"state": self.values}

    def names(self, column: str) -> tuple[str, ...]:
        return tuple(f"d{j}" for j in range(self.values.shape[1]))


def numbers(num_rows: int) -> np.ndarray:
    rng = np.random.default_rng(num_rows)
    columns = [rng.normal(1e4, 1e-2, num_rows), rng.standard_cauchy(num_rows), rng.integers(0, 2, num_rows)]
    return np.stack([*columns, np.full(num_rows, 0.7)], 1).astype(np.float32)


def test_one_block_is_numpy_to_the_bit():
    values = numbers(5000)
    found = measure([(Numbers(values[:2000]), np.arange(2000)), (Numbers(values[2000:]), np.arange(3000))])["toy"][
        "state"
    ]
    exact = values.astype(np.float64)
    for name, right in {"mean": exact.mean(0), "std": exact.std(0), "min": exact.min(0), "max": exact.max(0)}.items():
        assert (getattr(found, name) == right).all(), name
    for name, share in QUANTILES.items():
        assert (getattr(found, name) == np.quantile(exact, share, axis=0)).all(), name
    assert found.count == 5000
    assert found.constant() == ("d3",)


def test_many_blocks_join_to_the_whole(monkeypatch):
    sizes = []
    monkeypatch.setattr(stats_module, "BLOCK", 256)
    of = Moments.of
    monkeypatch.setattr(stats_module.Moments, "of", lambda rows: sizes.append(len(rows)) or of(rows))
    values = numbers(5000)
    parts = [(Numbers(values[:1999]), np.arange(1999)[::-1]), (Numbers(values[1999:]), np.arange(3001))]
    found = measure(parts)["toy"]["state"]
    assert sizes[:-1] == [256] * 19
    exact = values.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, exact.std(0), rtol=1e-9, atol=1e-14)
    assert (found.q01 == np.quantile(exact, 0.01, axis=0)).all()
    assert found.std[3] < 1e-12
    assert found.constant() == ("d3",)


def test_moments_join_in_any_order():
    values = numbers(700).astype(np.float64)
    one, two, three = (Moments.of(part) for part in np.split(values, (5, 300)))
    left, right = one.join(two).join(three), three.join(two.join(one))
    for name in ("mean", "variance", "min", "max"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-12)
        np.testing.assert_allclose(getattr(left, name), getattr(Moments.of(values), name), rtol=1e-9, atol=1e-14)
    assert left.count == 700


def test_measured_from_the_chosen_samples_alone_and_never_from_video(own_set):
    import shutil

    source = LeRobotConfig(path=str(own_set), views=("front",), horizon=2).build()
    shutil.rmtree(own_set / "videos")
    chosen = np.arange(9, 23)
    stats = measure([(source, chosen)])["toy"]["action"]
    values = 1000.0 + np.arange(14)
    assert stats.names == ("a", "b")
    assert stats.count == 14
    for name, right in {
        "mean": values.mean(),
        "std": values.std(),
        "min": 1000,
        "max": 1013,
        "q01": np.quantile(values, 0.01),
        "q99": np.quantile(values, 0.99),
    }.items():
        np.testing.assert_allclose(getattr(stats, name), [right, right], rtol=1e-9)


def test_json_round_trip_is_exact(toy_set):
    source = LeRobotConfig(path=str(toy_set), views=(), horizon=2).build()
    stats = measure([(source, np.arange(len(source)))])
    again = from_json(json.loads(json.dumps(to_json(stats))))
    for name in ("mean", "std", "min", "max", *QUANTILES):
        assert (getattr(again["toy"]["state"], name) == getattr(stats["toy"]["state"], name)).all()


def test_sources_of_one_robot_are_pooled_and_must_agree(toy_set, own_set):
    first = LeRobotConfig(path=str(toy_set), views=(), horizon=2).build()
    both = measure([(first, np.arange(3)), (first, np.arange(10, 12))])["toy"]["state"]
    assert both.count == 5
    info = own_set / "meta/info.json"
    info.write_text(info.read_text().replace('"names": ["a", "b"]', '"names": ["a", "c"]'))
    other = LeRobotConfig(path=str(own_set), views=(), horizon=2).build()
    with pytest.raises(DataError, match=r"found dimensions \('a', 'c'\); expected \('a', 'b'\), as in source toy"):
        measure([(first, np.arange(3)), (other, np.arange(3))])


def test_constant_dimensions_are_named(toy_set):
    source = LeRobotConfig(path=str(toy_set), views=(), horizon=2).build()
    assert measure([(source, np.arange(1))])["toy"]["state"].constant() == ("a", "b")
    assert measure([(source, np.arange(5))])["toy"]["state"].constant() == ()
