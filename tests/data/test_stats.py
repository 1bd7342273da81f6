import json

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.stats import from_json, measure, to_json


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
    for name in ("mean", "std", "min", "max", "q01", "q99"):
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
