import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trivium.core.batch import Batch
from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample, State, Text
from trivium.data.bucket import BucketConfig, MixtureConfig, select
from trivium.data.index import count
from trivium.data.loader import Loader
from trivium.data.plan import Plan
from trivium.data.row import Row
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.transform import Chain, RandomShiftConfig


class Letters:
    """A layout: a token for each letter and four for each picture; `fail` names a sample it cannot build."""

    def __init__(self, fail: str = "", extra: int = 0) -> None:
        self.fail, self.extra = fail, extra

    def count(self, sample: Sample) -> dict[str, int]:
        return {"text": len(sample.of(Text)[0].text), "image": 4 * len(sample.of(Image))}

    def build(self, sample: Sample) -> Row:
        if sample.id == self.fail:
            raise KeyError("no such word")
        counts = self.count(sample) | {"text": len(sample.of(Text)[0].text) + self.extra}
        size = sum(counts.values())
        action = sample.of(Action)[0]
        return Row(
            sample_id=sample.id,
            length=size,
            counts=counts,
            tokens=np.arange(size),
            kinds=np.ones(size, np.int64),
            targets=np.full(size, -100),
            images=[image.pixels for image in sample.of(Image)],
            state=sample.of(State)[0].values,
            actions=action.values,
            valid=action.valid,
        )


def loader(
    toy_set, workers: int = 0, seed: int = 0, layout: Letters | None = None, bad: float = 0.01, rows: int = 2
) -> Loader:
    source = LeRobotConfig(path=str(toy_set), views=("front",), horizon=3)
    bucket = BucketConfig(name="toy", source=source, weight=1.0, max_epochs=50.0, split="all")
    sizes = {"row_length": 64, "rows_per_batch": rows, "max_images_per_row": 8}
    mixture = MixtureConfig(buckets=(bucket,), **sizes, workers=workers, max_bad_share=bad)
    sources = mixture.build()
    chain = Chain([RandomShiftConfig(pixels=3).build({})])
    index = count(sources["toy"], select(sources["toy"], "all", 0.0), chain, Letters())
    plan = Plan(mixture, {"toy": index}, 12, seed=0)
    return Loader(plan, sources, chain, layout or Letters(), seed)


def same(a, b) -> bool:
    fields = ("tokens", "kinds", "documents", "positions", "targets", "images", "states", "actions", "actions_valid")
    return a.ids == b.ids and all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_batches_do_not_depend_on_the_number_of_workers(toy_set):
    runs = {workers: list(loader(toy_set, workers).batches(0, 6, 2)) for workers in (0, 1, 2)}
    assert len(runs[0]) == 6
    assert all(len(step) == 2 for step in runs[0])
    for workers in (1, 2):
        for step, expected in zip(runs[workers], runs[0], strict=True):
            assert all(same(a, b) for a, b in zip(step, expected, strict=True))


def test_starting_in_the_middle_continues_exactly(toy_set):
    whole, rest = list(loader(toy_set).batches(0, 6, 2)), list(loader(toy_set).batches(4, 6, 2))
    assert all(same(a, b) for s, t in zip(whole[4:], rest, strict=True) for a, b in zip(s, t, strict=True))


def packs(batch: Batch) -> list[tuple]:
    """Return what each row holds: its samples with their places, and every number in it."""
    rows = []
    for r, documents in enumerate(batch.documents.numpy()):
        inside = list(dict.fromkeys(documents[documents >= 0].tolist()))
        borders = tuple((batch.ids[d], int(np.argmax(documents == d)), int((documents == d).sum())) for d in inside)
        pictures = tuple(batch.images[batch.images_document == d].numpy().tobytes() for d in inside)
        rows.append((borders, batch.tokens[r].numpy().tobytes(), pictures))
    return rows


def life(toy_set, start: int, stop: int, workers: int, world: int) -> list[list[list[tuple]]]:
    """Train for a while; return by step and micro-batch the packs of all ranks, in an order of their own."""
    ranks = [loader(toy_set, workers, rows=4).batches(start, stop, 2, rank, world) for rank in range(world)]
    return [
        [sorted(row for batch in together for row in packs(batch)) for together in zip(*steps, strict=True)]
        for steps in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_life_that_ends_anywhere_goes_on_with_other_workers_and_ranks(toy_set, seed):
    rng = np.random.default_rng(seed)
    ends = int(rng.integers(1, 6))
    first, second = rng.permutation([(0, 1), (2, 2), (1, 4), (0, 2), (2, 1)])[:2].tolist()
    whole = life(toy_set, 0, 6, 0, 1)
    assert life(toy_set, 0, ends, *first) + life(toy_set, ends, 6, *second) == whole
    assert all(len(batch) == 4 for step in whole for batch in step)
    assert any(len(borders) > 1 for step in whole for batch in step for borders, _, _ in batch), "nothing is packed"


def test_augmentation_is_drawn_anew_for_each_batch_and_seed(toy_set):
    first, other = loader(toy_set).make(0).batch, loader(toy_set, seed=1).make(0).batch
    assert first.ids == other.ids
    assert not torch.equal(first.images, other.images)
    seen: dict[str, list[torch.Tensor]] = {}
    for step in loader(toy_set).batches(0, 12, 1):
        for name, image in zip(step[0].ids, step[0].images, strict=True):
            seen.setdefault(name, []).append(image)
    assert any(not torch.equal(images[0], image) for images in seen.values() for image in images[1:])


def test_pictures_belong_to_their_samples(toy_set, picture_number):
    """Shifted by up to 3 pixels the cells still read right: the middle of each decides."""
    for step in loader(toy_set, workers=1).batches(0, 3, 1):
        for name, image in zip(step[0].ids, step[0].images, strict=True):
            _, episode, frame = name.split("/")
            assert picture_number(image.permute(1, 2, 0).numpy()) == (int(episode), int(frame))


def test_training_randomness_is_not_touched(toy_set):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader(toy_set, workers=1).batches(0, 1, 1))
    assert torch.rand(1) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_names_the_sample(toy_set, workers):
    with pytest.raises(DataError) as caught:
        list(loader(toy_set, workers, layout=Letters(fail="toy/1/3")).batches(0, 12, 1))
    assert "bucket toy, sample 12 of source toy: found KeyError: 'no such word'" in str(caught.value)
    assert "in build" in str(caught.value.__cause__)


def test_a_broken_video_in_a_worker_names_the_episode(own_set):
    broken = loader(own_set, workers=1, bad=0.0)
    file = own_set / "videos/observation.images.front/chunk-000/file-001.mp4"
    file.write_bytes(b"gone")
    with pytest.raises(DataError, match=r"file-001.mp4: episode 2, frame \d: found a video that cannot be decoded"):
        list(broken.batches(0, 12, 1))


def test_a_layout_that_builds_what_it_did_not_count(toy_set):
    with pytest.raises(DataError, match=r"AssertionError: the layout built .* and counted"):
        loader(toy_set, layout=Letters(extra=1)).make(0)


def alive() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def test_leaving_early_leaves_no_process(toy_set):
    before = alive()
    batches = loader(toy_set, workers=2).batches(0, 12, 1)
    next(batches)
    assert len(alive() - before) == 2
    batches.close()
    assert alive() == before


def test_a_program_that_ends_in_the_middle_ends(toy_set):
    code = "import sys; from test_loader import loader; held = loader(sys.argv[1], 1).batches(0, 12, 1); next(held)"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, str(toy_set)], cwd=here, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_reaches_the_caller_and_leaves_no_process(toy_set):
    """Ctrl-C goes to every process of the terminal: workers must leave it to the parent."""
    # A process that a script started in the background ignores SIGINT from birth.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = alive()

    def interrupted() -> None:
        for _ in loader(toy_set, workers=2).batches(0, 12, 1):
            for worker in alive() - before:
                os.kill(worker, signal.SIGINT)
                os.kill(worker, signal.SIGTERM)
            time.sleep(0.2)
            assert len(alive() - before) == 2, "a worker died of a signal that the parent should handle"
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGINT, found)
    gc.collect()
    assert alive() == before
