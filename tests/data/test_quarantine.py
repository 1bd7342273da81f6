"""Bad records: replaced alike by everyone, listed once, and too many of them end the run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trivium.core.errors import CheckpointError, DataError
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.data import quarantine
from trivium.data.bucket import BucketConfig, MixtureConfig, select
from trivium.data.index import Index, count
from trivium.data.loader import Loader
from trivium.data.plan import Plan
from trivium.data.quarantine import Quarantine, stand_ins
from trivium.data.row import Row
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import Chain, RandomShiftConfig, Transform

BAD = "toy/1/3"
FIELDS = ("tokens", "kinds", "documents", "positions", "targets", "images", "states", "actions", "actions_valid")


class Letters:
    """A layout: a token for each letter and four for each picture."""

    def count(self, sample: Sample) -> dict[str, int]:
        return {"text": len(sample.of(Text)[0].text), "image": 4 * len(sample.of(Image))}

    def build(self, sample: Sample) -> Row:
        counts = self.count(sample)
        size = sum(counts.values())
        return Row(
            sample_id=sample.id,
            length=size,
            counts=counts,
            tokens=np.arange(size),
            kinds=np.ones(size, np.int64),
            targets=np.full(size, -100),
            images=[image.pixels for image in sample.of(Image)],
            state=sample.of(State)[0].values,
            actions=sample.of(Action)[0].values,
            valid=sample.of(Action)[0].valid,
        )


class Refuse(Transform):
    """A step that finds some samples bad, once pictures are there."""

    def __init__(self, *names: str, error: type[Exception] = DataError) -> None:
        self.names, self.error = names, error

    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        if rng is not None and sample.id in self.names:
            parts = (sample.id, f"{len(sample.id)} bad pixels", "good ones", "")
            raise DataError(*parts) if self.error is DataError else self.error("of ours")
        return sample


def loader(toy_set: Path, *bad: str, workers: int = 0, share: float = 0.01, error: type = DataError) -> Loader:
    source = LeRobotConfig(path=str(toy_set), views=("front",), horizon=3)
    bucket = BucketConfig(name="toy", source=source, weight=1.0, max_epochs=50.0, split="all")
    mixture = MixtureConfig(
        buckets=(bucket,),
        row_length=64,
        rows_per_batch=2,
        max_images_per_row=8,
        workers=workers,
        max_bad_share=share,
    )
    sources = mixture.build()
    chain = Chain([Refuse(*bad, error=error), RandomShiftConfig(pixels=3).build({})])
    index = count(sources["toy"], select(sources["toy"], "all", 0.0), chain, Letters())
    return Loader(Plan(mixture, {"toy": index}, 24, seed=0), sources, chain, Letters(), 0)


def same(a, b) -> bool:
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)
    return tensors and (a.ids, a.token_counts) == (b.ids, b.token_counts)


def run(made: Loader, path: Path, start: int = 0, stop: int = 12) -> list:
    kept = Quarantine(path, "stage", made.plan)
    return [batch for step in made.batches(start, stop, 2, report=kept.add) for batch in step]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_quarantine_is_deterministic(toy_set: Path, tmp_path: Path):
    """The same sequence with any number of workers; one bad sample shifts no other, and costs what it should."""
    clean = run(loader(toy_set), tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()
    runs = {n: run(loader(toy_set, BAD, workers=n), tmp_path / f"{n}.jsonl") for n in (0, 1, 3)}
    for workers in (1, 3):
        assert all(same(a, b) for a, b in zip(runs[workers], runs[0], strict=True))
        assert (tmp_path / f"{workers}.jsonl").read_bytes() == (tmp_path / "0.jsonl").read_bytes()
    moved = 0
    for batch, expected in zip(runs[0], clean, strict=True):
        assert batch.token_counts == expected.token_counts
        assert torch.equal(batch.documents, expected.documents)
        for document, (name, before) in enumerate(zip(batch.ids, expected.ids, strict=True)):
            mine = [torch.equal(b.images[document], e.images[document]) for b, e in ((batch, expected),)]
            assert (name == before and all(mine)) == (before != BAD), f"{before} became {name}"
            moved += name != before
    assert moved > 1, "the plan repeats the bad sample, or this test shows nothing"
    [line] = [json.loads(line) for line in (tmp_path / "0.jsonl").read_text().splitlines()]
    assert (line["stage"], line["bucket"], line["sample"], line["id"], line["where"]) == ("stage", "toy", 12, BAD, BAD)
    assert (line["found"], line["kind"], line["short"]) == ("7 bad pixels", "# bad pixels", {})


def test_ranks_together_make_the_batch_of_one_process(toy_set: Path, tmp_path: Path):
    names = (BAD, "toy/0/2")
    whole = run(loader(toy_set, *names), tmp_path / "whole.jsonl")
    met: list[list] = [[], []]
    parts = [list(loader(toy_set, *names).batches(0, 12, 2, r, 2, report=met[r].append)) for r in (0, 1)]
    kept = Quarantine(tmp_path / "ranks.jsonl", "stage", loader(toy_set).plan)
    for one, other in zip(*met, strict=True):
        kept.add([*other, *one])
    assert (tmp_path / "ranks.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for j, batch in enumerate(whole):
        mine = [part[j // 2][j % 2] for part in parts]
        assert sorted(name for part in mine for name in part.ids) == sorted(batch.ids)
        assert all(part.ids for part in mine)
        pictures = {name: picture for part in mine for name, picture in zip(part.ids, part.images, strict=True)}
        assert all(torch.equal(pictures[name], image) for name, image in zip(batch.ids, batch.images, strict=True))


def test_going_on_writes_no_line_twice_and_forgets_none(toy_set: Path, tmp_path: Path, capsys):
    names = ("toy/1/3", "toy/0/2")
    whole = run(loader(toy_set, *names), tmp_path / "whole.jsonl")
    path = tmp_path / "parts.jsonl"
    run(loader(toy_set, *names), path, 0, 4)
    with path.open("ab") as file:
        file.write(b'{"stage": "stage", "buck')  # killed in the middle of a line
    rest = run(loader(toy_set, *names), path, 2, 12)
    assert all(same(a, b) for a, b in zip(rest, whole[4:], strict=True))
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(path.read_text().splitlines()) == 2
    # One warning for each process: both samples are bad in the same way.
    assert capsys.readouterr().out.replace("\n", " ").count("bad pixels. Sample") == 3


def test_a_stand_in_that_is_bad_is_replaced_again(toy_set: Path, tmp_path: Path):
    made = loader(toy_set, BAD)
    first, second, *_ = stand_ins(made.plan.index("toy"), "toy", 12, made.plan.seed)
    names = [made.sources["toy"].peek(i).id for i in (first, second)]
    run(loader(toy_set, BAD, names[0]), tmp_path / "bad.jsonl")
    lines = {line["id"]: line for line in map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())}
    assert lines.keys() == {BAD, names[0]}
    assert lines[BAD]["replaced_by"] == second


def test_where_nothing_costs_the_same_the_next_cheaper_one_comes():
    samples, images = np.arange(10, 16), np.array([1, 1, 1, 2, 1, 1])
    index = Index(
        fingerprint="",
        samples=samples,
        images=images,
        tokens={"text": np.array([9, 5, 7, 7, 8, 0]), "image": np.array([4, 4, 4, 4, 6, 0])},
    )
    assert stand_ins(index, "b", 10, 0) == [12, 11]  # not 13 with two pictures, 14 with more of them, 15 with nothing
    assert stand_ins(index, "b", 11, 0) == []


def test_stand_ins_are_equal_drawn_and_a_function_of_the_seed():
    index = Index(
        fingerprint="",
        samples=np.arange(0, 200, 2),
        images=np.zeros(100, np.int64),
        tokens={"text": np.repeat([5, 6], 50)},
    )
    found = stand_ins(index, "b", 20, 0)
    assert len(set(found)) == 8
    assert all(i < 100 and i != 20 for i in found)
    assert found == stand_ins(index, "b", 20, 0)
    assert (
        len({tuple(stand_ins(index, *args)) for args in (("b", 20, 0), ("b", 20, 1), ("c", 20, 0), ("b", 22, 0))}) == 4
    )


def test_a_cheaper_stand_in_is_reported(toy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quarantine, "ATTEMPTS", 40)
    plan, source = loader(toy_set).plan, loader(toy_set).sources["toy"]
    # All samples of one cost are bad, so that a shorter one must serve.
    names = [source.peek(i).id for i in range(len(source)) if plan.cost("toy", i)["text"] == 15]
    made = loader(toy_set, *names, share=0.5)
    run(made, tmp_path / "bad.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(lines) == len(names) > 8
    for line in lines:
        before, after = (made.plan.cost("toy", i) for i in (line["sample"], line["replaced_by"]))
        assert {m: n - after[m] for m, n in before.items() if n > after[m]} == line["short"] != {}


def test_too_many_bad_samples_end_the_run_at_the_same_batch_again(toy_set: Path, tmp_path: Path):
    names = [f"toy/0/{frame}" for frame in range(3)]
    told = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"3 bad samples among the first \d+; .*at most 0.01 of them \(of 200") as e:
            run(loader(toy_set, *names), tmp_path / "bad.jsonl")
        told.append(e.value.where)
    assert told[0] == told[1]
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3
    run(loader(toy_set, *names[:2]), tmp_path / "two.jsonl")  # 2 of the first 200 may be
    with pytest.raises(DataError, match="7 bad pixels; expected good ones"):
        run(loader(toy_set, *names[:2], share=0.0), tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_the_share_counts_what_the_plan_has_used():
    assert quarantine._distinct(1000, 4.0, 1, 10) == 100  # less than an epoch: all differ
    assert quarantine._distinct(1000, 4.0, 5, 10) == 250  # two epochs of 250 samples


@pytest.mark.parametrize("error", [AssertionError, TypeError, KeyError])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_ours_is_no_bad_sample(toy_set: Path, tmp_path: Path, workers: int, error: type):
    with pytest.raises(DataError, match=f"bucket toy, sample 12 of source toy: found {error.__name__}: .*of ours"):
        run(loader(toy_set, BAD, workers=workers, error=error), tmp_path / "bad.jsonl")
    assert not (tmp_path / "bad.jsonl").exists()


def test_a_set_without_anything_whole_stops_by_itself(toy_set: Path, tmp_path: Path):
    names = [f"toy/{e}/{frame}" for e in range(3) for frame in range(14)]
    with pytest.raises(DataError, match=r"bad pixels; and 8 other samples of bucket toy that might take its place"):
        run(loader(toy_set, *names), tmp_path / "bad.jsonl")


def test_a_file_that_is_not_ours_is_refused(toy_set: Path, tmp_path: Path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"stage": "stage"}\n')
    with pytest.raises(CheckpointError, match=r"bad.jsonl: line 1: found KeyError: 'bucket'.*Take that line out"):
        Quarantine(path, "stage", loader(toy_set).plan)
