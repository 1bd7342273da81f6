"""Every input of a plan counts: changing one changes the fingerprint, and a resumed run refuses it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trivium.core.errors import DataError
from trivium.core.sample import Sample, Text
from trivium.data.bucket import BucketConfig, MixtureConfig, select
from trivium.data.index import Index, count
from trivium.data.plan import Plan
from trivium.data.row import Row
from trivium.data.share import share
from trivium.data.source.text import TextConfig
from trivium.data.transform import Chain

NUM_BATCHES = 30


class Letters:
    """A layout: as many tokens a sample as letters, times `scale`."""

    numeric = False

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def count(self, sample: Sample) -> dict[str, int]:
        return {"text": self.scale * len(sample.of(Text)[0].text)}

    def build(self, sample: Sample) -> Row:
        raise AssertionError("planning builds nothing")


class Inputs:
    """All that a plan depends on; `plan` makes it, as a run does."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for name in "ab":
            lines = [json.dumps({"text": "x" * int(size)}) for size in rng.integers(5, 120, 300)]
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
        self.seed, self.scale = 0, 1
        self.buckets = {
            name: BucketConfig(name=name, source=TextConfig(path=str(folder / f"{name}.jsonl")), weight=w, max_epochs=9)
            for name, w in (("a", 1.0), ("b", 2.0))
        }
        self.sizes = {"row_length": 128, "rows_per_batch": 4, "max_images_per_row": 3}

    def plan(self, make: Callable[..., Plan] = Plan) -> Plan:
        mixture = MixtureConfig(buckets=tuple(self.buckets.values()), **self.sizes)
        indexes: dict[str, Index] = {}
        for bucket in mixture.buckets:
            source = bucket.source.build()
            samples = select(source, bucket.split, bucket.val_share)
            indexes[bucket.name] = count(source, samples, Chain([]), Letters(self.scale))
        return make(mixture, indexes, NUM_BATCHES, self.seed)

    def bucket(self, **changes: object) -> None:
        self.buckets["a"] = self.buckets["a"].replace(**changes)

    def rewrite(self, old: str, new: str, times: int = -1) -> None:
        path = Path(self.buckets["a"].source.path)
        path.write_text(path.read_text().replace(old, new, times))


CHANGES: dict[str, Callable[[Inputs], object]] = {
    "seed": lambda inputs: setattr(inputs, "seed", 1),
    "weight": lambda inputs: inputs.bucket(weight=1.1),
    "max_epochs": lambda inputs: inputs.bucket(max_epochs=8.0),
    "split": lambda inputs: inputs.bucket(split="val", max_epochs=99.0),
    "val_share": lambda inputs: inputs.bucket(val_share=0.3),
    "when": lambda inputs: inputs.bucket(when={"at_least": 1}),
    "name": lambda inputs: inputs.bucket(name="c"),
    "order of buckets": lambda inputs: setattr(inputs, "buckets", dict(reversed(inputs.buckets.items()))),
    "a bucket less": lambda inputs: inputs.buckets.pop("b"),
    "row_length": lambda inputs: inputs.sizes.update(row_length=160),
    "rows_per_batch": lambda inputs: inputs.sizes.update(rows_per_batch=5),
    "max_images_per_row": lambda inputs: inputs.sizes.update(max_images_per_row=4),
    "source setting": lambda inputs: inputs.bucket(source=inputs.buckets["a"].source.replace(max_chars=60)),
    "source contents": lambda inputs: inputs.rewrite("xx", "xy"),
    "source lengths": lambda inputs: inputs.rewrite("xx", "x", 4000),
    "tokenization": lambda inputs: setattr(inputs, "scale", 2),
}
SAME_ORDER = ("max_epochs", "when", "max_images_per_row", "source contents")
"""Inputs that need not change the order of these samples; the fingerprint covers them all the same."""


def order(plan: Plan) -> list:
    return [plan.batch(j) for j in range(min(len(plan), NUM_BATCHES))]


def ignored(folder: Path, make: Callable[..., Plan] = Plan) -> list[str]:
    """Return the inputs that may change without a resumed run noticing."""
    found = []
    before = Inputs(folder).plan(make)
    described = json.loads(json.dumps(before.describe()))
    before.check(described)
    for name, change in CHANGES.items():
        inputs = Inputs(folder)
        change(inputs)
        try:
            inputs.plan(make).check(described)
            found.append(name)
        except DataError:
            pass
    return found


def test_a_resumed_run_refuses_any_changed_input(tmp_path):
    assert ignored(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in SAME_ORDER])
def test_every_input_that_should_changes_what_is_trained_on(tmp_path, name):
    before, inputs = order(Inputs(tmp_path).plan()), Inputs(tmp_path)
    CHANGES[name](inputs)
    after = order(inputs.plan())
    names = {"c": "a"} if name == "name" else {}
    assert [[[(names.get(bucket, bucket), i) for bucket, i in row] for row in rows] for rows in after] != before


@pytest.mark.parametrize(
    ("blind", "expected"),
    [
        ({"seed": 0}, ["seed"]),
        ({"weight": 1.0}, ["weight"]),
        ({"max_epochs": 9.0}, ["max_epochs"]),
        ({"row_length": 128}, ["row_length"]),
        ({"rows_per_batch": 4}, ["rows_per_batch"]),
        ({"max_images_per_row": 3}, ["max_images_per_row"]),
        ({"fingerprint": "f"}, ["source contents"]),
    ],
    ids=lambda value: "+".join(value),
)
def test_a_plan_that_ignores_an_input_is_caught(tmp_path, blind, expected):
    """Mutants: each takes one input for what it was, whatever it is; the test above must see that."""

    def make(mixture: MixtureConfig, indexes: dict[str, Index], num_batches: int, seed: int) -> Plan:
        sizes = {key: value for key, value in blind.items() if key in MixtureConfig.model_fields}
        fields = {key: value for key, value in blind.items() if key in BucketConfig.model_fields}
        buckets = tuple(b.replace(**fields) if b.name == "a" else b for b in mixture.buckets)
        if "fingerprint" in blind:
            indexes = {
                name: Index(fingerprint="f", samples=i.samples, images=i.images, tokens=i.tokens)
                for name, i in indexes.items()
            }
            # The path of the source is in its settings; what lies there is in the fingerprint alone.
        return Plan(mixture.replace(buckets=buckets, **sizes), indexes, num_batches, blind.get("seed", seed))

    assert ignored(tmp_path, make) == expected


def test_a_plan_from_counts_of_another_order_is_another(tmp_path):
    inputs = Inputs(tmp_path)
    plan = inputs.plan()
    first = plan._indexes[0]
    swapped = Index(
        fingerprint=first.fingerprint,
        samples=first.samples,
        images=first.images,
        tokens={"text": first.tokens["text"][::-1].copy()},
    )
    other = Plan(plan.mixture, {"a": swapped, "b": plan._indexes[1]}, NUM_BATCHES, 0)
    assert other.fingerprint != plan.fingerprint


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_a_resume_read_the_same_rows(tmp_path, world):
    """Whatever step a run goes on from, and with however many ranks, the union of a step is the same packs."""
    whole = order(Inputs(tmp_path).plan())
    start = int(np.random.default_rng(world).integers(1, NUM_BATCHES))
    again = Inputs(tmp_path).plan()
    for number in range(start, NUM_BATCHES):
        rows = again.batch(number)
        parts = [share(rows, rank, world) for rank in range(world)]
        assert sorted(map(tuple, whole[number])) == sorted(tuple(row) for part in parts for row in part)
