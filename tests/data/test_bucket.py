import json
from pathlib import Path

import numpy as np
import pytest

from trivium.core.errors import ConfigError, DataError
from trivium.data.bucket import BucketConfig, MixtureConfig, SizeRange, held_out, select, shares
from trivium.data.source.text import TextConfig


def corpus(path: Path, num: int) -> TextConfig:
    path.write_text("\n".join(json.dumps({"text": f"document {j}"}) for j in range(num)))
    return TextConfig(path=str(path))


def bucket(name: str, source: TextConfig, weight: float = 1.0) -> BucketConfig:
    return BucketConfig(name=name, source=source, weight=weight, max_epochs=1.0)


def mixture(*buckets: BucketConfig) -> MixtureConfig:
    return MixtureConfig(buckets=buckets, row_length=64, rows_per_batch=2, max_images_per_row=0)


def test_groups_stay_together_and_share_is_kept():
    groups = np.repeat(np.arange(2000), 5)
    out = held_out(groups, 0.1)
    assert (out.reshape(2000, 5) == out.reshape(2000, 5)[:, :1]).all()
    assert 0.08 < out.mean() < 0.12


def test_new_groups_never_move_old_ones():
    every = held_out(np.arange(1000), 0.2)
    assert (held_out(np.arange(500), 0.2) == every[:500]).all()
    assert (held_out(np.arange(999, 300, -3), 0.2) == every[999:300:-3]).all()


def test_neither_side_is_empty_when_there_are_two_groups():
    for base in range(40):
        for share in (0.01, 0.99):
            out = held_out(np.array([base, base, base + 1]), share)
            assert out.any()
            assert not out.all()
    assert not held_out(np.arange(9), 0.0).any()


def test_splits_are_disjoint_and_complete(tmp_path):
    source = corpus(tmp_path / "a.jsonl", 50).build()
    train, val = select(source, "train", 0.2), select(source, "val", 0.2)
    assert sorted([*train, *val]) == list(range(50)) == select(source, "all", 0.2).tolist()
    with pytest.raises(DataError, match="found no samples on the 'val' side of the split"):
        select(source, "val", 0.0)


def test_shares_and_sources(tmp_path):
    first, second = corpus(tmp_path / "a.jsonl", 3), corpus(tmp_path / "b.jsonl", 3)
    mix = mixture(bucket("x", first, 3.0), bucket("y", first), bucket("z", second, 4.0))
    assert shares(mix) == {"x": 0.375, "y": 0.125, "z": 0.5}
    opened = mix.build()
    assert opened["x"] is opened["y"]
    assert opened["x"] is not opened["z"]


def test_two_buckets_of_one_name(tmp_path):
    source = corpus(tmp_path / "a.jsonl", 3)
    with pytest.raises(ConfigError, match=r"mixture\.buckets: found two buckets named 'x'; expected different names"):
        mixture(bucket("x", source), bucket("x", source)).build()


def test_a_slash_in_a_name_would_confuse_token_counts(tmp_path):
    with pytest.raises(ConfigError, match="name: found 'a/b'"):
        bucket("a/b", corpus(tmp_path / "a.jsonl", 3))


def test_buckets_by_size_of_model(tmp_path):
    source = corpus(tmp_path / "a.jsonl", 3)
    always = bucket("code", source)
    assert not mixture(always).sized
    mix = mixture(
        always,
        bucket("small", source, 3.0).replace(when=SizeRange(below=11_000_000_000)),
        bucket("large", source, 4.0).replace(when=SizeRange(at_least=11_000_000_000)),
    )
    assert mix.sized
    assert shares(mix.of_size(3_000_000_000)) == {"code": 0.25, "small": 0.75}
    assert shares(mix.of_size(10_999_999_999)) == {"code": 0.25, "small": 0.75}
    assert shares(mix.of_size(11_000_000_000)) == {"code": 0.2, "large": 0.8}
    with pytest.raises(ConfigError, match=r"no bucket for a model of 1,000 parameters.*Widen `when`"):
        mixture(always.replace(when=SizeRange(at_least=5000))).of_size(1000)


def test_steps_for_a_budget_of_tokens(tmp_path):
    mix = mixture(bucket("x", corpus(tmp_path / "a.jsonl", 3)))
    assert mix.row_length * mix.rows_per_batch == 128
    assert mix.steps_for(1280) == 10
    assert mix.steps_for(1281) == 11
    assert mix.steps_for(1280, accumulate=4) == 3
    assert mix.steps_for(1280, padding=0.5) == 20
