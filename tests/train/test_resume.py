"""Killed at any moment and started again, a run gives every bit it would have given; and this test can fail."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import toy

from trivium.train.checkpoint import FILES
from trivium.train.guard import EXIT_RESUME

KILLS = 10
CLOCKS = ("tokens_per_s", "data_wait")


def outcome(folder):
    """All that must not depend on how often a run was stopped: every metric of every step, every final byte."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]
    latest = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip()
    return metrics, latest.name, {name: (latest / name).read_bytes() for name in FILES}


def left_behind(folder):
    return [*folder.glob("checkpoints/*/.*"), *folder.glob("checkpoints/.*")]


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert server.wait(server.start("alone", folder)) == 0
    found = outcome(folder)
    assert [line["run_step"] for line in found[0]] == list(range(1, 61))
    return found


def live(server, folder, moment):
    """Start or resume the run, and kill it; True when the run was quicker than the murderer."""
    process = server.start("alone", folder)
    if moment is None:
        end = time.monotonic() + 5
        while not list(folder.glob("checkpoints/*/.*.tmp")) and time.monotonic() < end:
            time.sleep(0.0002)
    else:
        time.sleep(moment)
    os.kill(process, signal.SIGKILL)
    return server.wait(process) == 0


def test_kill_nine_at_ten_random_moments_of_two_stages(server, folder, reference):
    folder /= "run"
    dice = random.Random(1)
    # How long a life lasts is drawn against an undisturbed run in the same folder, as slow as the machine is now.
    started = time.monotonic()
    assert server.wait(server.start("alone", folder)) == 0
    whole = time.monotonic() - started
    assert outcome(folder) == reference
    shutil.rmtree(folder)
    kills = during_a_save = 0
    while kills < KILLS:
        if live(server, folder, None if kills % 3 == 2 else dice.uniform(0.0, 0.35 * whole)):
            assert outcome(folder) == reference
            shutil.rmtree(folder)
        else:
            kills += 1
            during_a_save += bool(left_behind(folder))
    assert server.wait(server.start("alone", folder)) == 0
    assert during_a_save >= 1
    assert outcome(folder) == reference
    assert left_behind(folder) == []


def test_sigterm_saves_and_leaves_with_its_own_code_then_resumes_exactly(server, folder, reference):
    folder /= "run"
    process = server.start("alone", folder)
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text().count("\n") > 5:
        time.sleep(0.002)
    os.kill(process, signal.SIGTERM)
    assert server.wait(process) == EXIT_RESUME
    metrics, latest, _ = outcome(folder)
    assert latest == f"step-{metrics[-1]['step']:06d}"  # nothing that was computed is lost
    assert 5 < len(metrics) < 60
    assert "the step is finished and saved first" in folder.with_name("run.log").read_text()
    assert server.wait(server.start("alone", folder)) == 0
    assert outcome(folder) == reference


PLAN = toy.stages(steps=14)


@pytest.fixture(scope="module")
def undisturbed_log(tmp_path_factory):
    log = []
    toy.train(tmp_path_factory.mktemp("undisturbed"), PLAN, log=log)
    return [(reading.loss, reading.total, reading.grad_norm) for reading in log]


@pytest.mark.parametrize("place", [("vision", 9, 8), ("joint", 23, 22)])
@pytest.mark.parametrize("forget", ["", "model", "optimizer", "step", "rng", "data_position"])
def test_leaving_any_one_state_out_is_seen(folder, undisturbed_log, forget, place):
    stage, crash_at, resumed_at = place

    def crash(state):
        if (state.stage, state.run_step) == (stage, crash_at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.train(folder, PLAN, [(1, crash)])
    log = []
    toy.train(folder, PLAN, forget=forget, log=log)
    # Until the end of the stage: a run that forgot its step goes on for longer than the other.
    end = 14 if stage == "vision" else 28
    got = [(reading.loss, reading.total, reading.grad_norm) for reading in log][: end - resumed_at]
    expected = undisturbed_log[resumed_at:end]
    assert len(got) == len(expected) == 6
    assert (got == expected) == (forget == "")
    if forget in ("optimizer", "step"):
        assert got[0] == expected[0]  # the first step sees the same weights, data and noise; the rest cannot
