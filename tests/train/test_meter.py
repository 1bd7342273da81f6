import io
import json
import math
import resource
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trivium.core.errors import CheckpointError
from trivium.core.rng import Rng
from trivium.train import meter as meter_module
from trivium.train.meter import Meter
from trivium.train.state import Reading, State


def reading(total=1.5, taken=True):
    return Reading(
        loss={"text": total, "flow": 0.25},
        total=total,
        grad_norm=2.0,
        taken=taken,
        lr={"vision": 1e-5, "base": 1e-3},
        tokens={"demo/text": 30, "demo/action": 10},
        wait_s=0.1,
        step_s=0.4,
    )


def take(meter, state, step):
    state.rng.step += 1
    state.advance(step)
    meter.record(state, step)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run_steps(folder, state, count, steps=9):
    with Meter(folder, state) as meter:
        meter.begin(state, steps)
        for _ in range(count):
            take(meter, state, reading())


@pytest.fixture
def screen(monkeypatch):
    """What a person sees; `.file.getvalue()` is the text."""

    def make(terminal):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=160, highlight=False)
        monkeypatch.setattr(meter_module, "console", console)
        monkeypatch.setattr(meter_module, "note", lambda text: console.print(text, markup=False))
        return console

    return make


def test_one_line_a_step_with_all_that_a_report_needs(folder):
    state = State(Rng(0, 4), "align", 0)
    run_steps(folder, state, 1)
    assert lines(folder) == [
        {
            "stage": "align",
            "step": 1,
            "run_step": 5,
            "loss": {"text": 1.5, "flow": 0.25},
            "total": 1.5,
            "grad_norm": 2.0,
            "lr": {"vision": 1e-5, "base": 1e-3},
            "tokens": {"demo/text": 30, "demo/action": 10},
            "tokens_per_s": 100.0,
            "data_wait": 0.25,
            "skipped": 0,
        }
    ]


def test_what_is_not_finite_is_null(folder):
    state = State(Rng(0), "align", 0)
    with Meter(folder, state) as meter:
        meter.begin(state, 9)
        take(meter, state, reading(math.nan, taken=False))
    assert lines(folder)[0]["total"] is lines(folder)[0]["loss"]["text"] is None
    assert lines(folder)[0]["skipped"] == 1


@pytest.mark.parametrize("torn", ["", '{"stage": "align", "st', "\0\0\0\0\n", '{"stage": "align"}\n', "7\n"])
def test_a_resume_cuts_what_lies_past_the_restored_step_and_what_is_torn(folder, torn):
    run_steps(folder, State(Rng(0), "align", 0), 6)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(torn)
    state = State(Rng(0, 4), "align", 0, step=4)
    run_steps(folder, state, 3)
    assert [line["run_step"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6, 7]
    run_steps(folder, State(Rng(0, 7), "align", 0, step=7), 0)
    assert len(lines(folder)) == 7
    run_steps(folder, State(Rng(0), "align", 0), 1)  # no checkpoint was ever written: from the start
    assert [line["run_step"] for line in lines(folder)] == [1]


def test_tensorboard_has_every_scalar_once(folder):
    run_steps(folder, State(Rng(0), "align", 0), 3)
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert {"align/loss/text", "align/loss/flow", "align/lr/base", "align/train/total"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("align/loss/text")] == [1, 2, 3]
    assert board.Scalars("align/train/grad_norm")[0].value == 2.0


def test_plain_lines_where_there_is_no_terminal(folder, screen):
    console = screen(terminal=False)
    state = State(Rng(0), "align", 0)
    run_steps(folder, state, 5, steps=5)
    text = console.file.getvalue().splitlines()
    assert text[0] == "stage align: step 0 of 5"
    assert len(text) == 3  # the first step, then one every ten seconds, then the last
    for part in ("align 5/5", "text 1.5", "flow 0.25", "100 tokens/s", "data wait 25%", "ETA 0:00:00"):
        assert part in text[2]


def test_a_bar_in_a_terminal(folder, screen):
    console = screen(terminal=True)
    state = State(Rng(0, 2), "align", 0, step=2, skipped=1)
    run_steps(folder, state, 1, steps=4)
    text = console.file.getvalue()
    for part in ("align", "3/4", "text 1.5", "tokens/s", "1 skipped", "ETA"):
        assert part in text


def full(path: Path, room: int):
    """Give the file room for a few bytes more, then refuse: a limit on its size does what a full disk does."""
    size = path.stat().st_size if path.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("room", [0, 20])
def test_a_full_disk_is_said_and_leaves_a_file_that_can_go_on(folder, room):
    state = State(Rng(0), "align", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(meter):
        try:
            full(folder / "metrics.jsonl", room)
            take(meter, state, reading())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with Meter(folder, state) as meter:
        meter.begin(state, 9)
        take(meter, state, reading())
        with pytest.raises(CheckpointError) as error:
            fill_the_disk(meter)
    assert str(error.value).startswith(str(folder / "metrics.jsonl"))
    assert "goes on from the last checkpoint" in str(error.value)
    run_steps(folder, State(Rng(0, 1), "align", 0, step=1), 1)
    assert [line["run_step"] for line in lines(folder)] == [1, 2]
