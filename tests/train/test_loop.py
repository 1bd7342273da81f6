import math

import pytest
import torch
import toy
from toy import Model, Toy, batches_from, plain_toy, stages

from trivium.core.errors import DataError, TrainingError
from trivium.core.rng import Rng, seed_all
from trivium.train.loop import run_stage
from trivium.train.state import MAX_SKIPS_IN_A_ROW, State


class Run:
    """One stage over a toy, with everything it did kept in lists."""

    def __init__(self, batches=None, objective=None, every=(), stop=lambda: False, **changes):
        seed_all(1)
        self.objective = objective or Toy(Model())
        self.stage = stages()[1].replace(**{"steps": 12, "save_every": 5, **changes})
        self.optimizer, _ = self.stage.build(self.objective)
        self.state = State(Rng(toy.SEED))
        self.state.begin_stage(self.stage.name, 1)
        self.saved, self.readings = [], []
        self.batches = batches_from(0, self.stage.accumulate) if batches is None else batches
        self.every, self.stop = every, stop

    def go(self):
        return run_stage(
            self.objective,
            self.batches,
            self.optimizer,
            self.state,
            self.stage,
            lambda state: self.saved.append(state.step),
            lambda _, reading: self.readings.append(reading),
            self.every,
            self.stop,
        )

    def numbers(self):
        return [(reading.loss, reading.total, reading.grad_norm) for reading in self.readings]

    def bits(self):
        return [*self.objective.state_dict().values(), *self.optimizer.tensors().values()]


def test_runs_to_the_end_saving_and_counting():
    run = Run()
    assert run.go() is True
    assert run.saved == [5, 10, 12]
    assert (run.state.step, run.state.data_position, run.state.run_step, run.state.skipped) == (12, 12, 12, 0)
    step = next(batches_from(0, 2))
    assert run.readings[0].tokens == {
        name: sum(batch.token_counts[name] for batch in step) for name in ("toy/action", "toy/text")
    }
    assert run.state.tokens["toy/text"] == sum(reading.tokens["toy/text"] for reading in run.readings)
    assert run.readings[0].lr == {"vision": pytest.approx(1e-3 / 4), "base": pytest.approx(3e-3 / 4)}
    assert all(0 <= reading.wait_s < reading.step_s for reading in run.readings)


def test_a_stage_that_has_ended_takes_no_batch_and_saves_nothing():
    run = Run(batches=(pytest.fail("took a batch") for _ in range(9)))
    run.state.step = 12
    assert run.go() is True
    assert run.saved == run.readings == []


def test_it_overfits():
    torch.manual_seed(0)
    batch = [toy.batch_of(0, rows=8)]
    run = Run(batches=(batch for _ in range(300)), objective=plain_toy(), steps=300, weight_decay=0.0, learn=("*",))
    run.go()
    assert run.readings[0].loss["flow"] > 0.1
    assert run.readings[-1].loss["flow"] < 0.01
    assert run.readings[-1].loss["text"] < 0.05


def test_hooks_run_when_due_before_saving_and_cannot_change_training_by_a_bit():
    done = []

    def evaluate(state):
        # All that a careless evaluation could do: dropout and noise, batch norm in train mode, gradients left behind.
        done.append((state.step, run.objective.training, torch.rand(1).item()))
        assert state.step not in run.saved, "saved before its evaluation: a crash now would lose it"
        run.objective.train()
        losses = run.objective(toy.batch_of(state.step, 99))
        losses.total(losses.counts()).backward()
        run.objective.eval()

    plain = Run()
    plain.go()
    run = Run(save_every=6, every=[(3, evaluate), (5, lambda state: done.append(state.step))])
    run.objective.vision[1].momentum = 0.0  # statistics in train mode are the one thing a hook must not touch
    plain_twin = Run()
    plain_twin.objective.vision[1].momentum = 0.0
    plain_twin.go()
    run.go()
    assert [entry if isinstance(entry, int) else entry[0] for entry in done] == [3, 5, 6, 9, 10, 12]
    evaluated = [entry for entry in done if not isinstance(entry, int)]
    assert not any(training for _, training, _ in evaluated)
    assert len({drawn for _, _, drawn in evaluated}) == 4  # each hook has numbers of its own
    assert run.numbers() == plain_twin.numbers() == plain.numbers()
    for mine, theirs in zip(run.bits(), plain_twin.bits(), strict=True):
        assert torch.equal(mine, theirs) or mine.dtype == torch.int64  # num_batches_tracked, which nothing reads


def test_asked_to_stop_it_saves_at_the_step_boundary_and_says_so():
    run = Run(stop=lambda: run.state.step == 3)
    assert run.go() is False
    assert run.saved == [3]
    assert len(run.readings) == 3


def test_data_that_ends_early_is_said():
    run = Run(batches=batches_from(0, 2, end=7))
    with pytest.raises(DataError, match=r"stage 'joint': found data for 7 steps; expected data for all 12\. Lower"):
        run.go()


def poisoned(*steps, forever=False):
    for step, batches in enumerate(batches_from(0, 2)):
        if step in steps or (forever and step >= steps[0]):
            batches[1].states[0, 0] = math.nan
        yield batches


def test_a_nan_costs_one_step_and_nothing_else(capsys):
    run = Run(batches=poisoned(4))
    seen = []
    run.every = [(1, lambda _: seen.append([value.clone() for value in run.bits()]))]
    assert run.go() is True
    assert all(torch.equal(a, b) for a, b in zip(seen[3], seen[4], strict=True))  # statistics and moments too
    assert not all(torch.equal(a, b) for a, b in zip(seen[4], seen[5], strict=True))
    assert [reading.taken for reading in run.readings] == [step != 4 for step in range(12)]
    assert (run.state.step, run.state.skipped, run.state.skipped_in_a_row) == (12, 1, 0)
    assert all(torch.isfinite(value).all() for value in run.bits())
    said = " ".join(capsys.readouterr().out.split())
    assert "joint step 5 skipped: loss nan" in said
    assert "first samples: sample-0-4-0-0, sample-0-4-0-1" in said


def test_too_many_skips_in_a_row_end_the_run():
    run = Run(batches=poisoned(2, forever=True), steps=40)
    with pytest.raises(TrainingError) as error:
        run.go()
    assert run.state.step == 2 + MAX_SKIPS_IN_A_ROW + 1 == len(run.readings)
    assert f"stage 'joint', step {run.state.step}: found {MAX_SKIPS_IN_A_ROW + 1} steps in a row" in str(error.value)
    assert "loss 'flow'" in str(error.value)
    assert "Lower the stage's lr" in str(error.value)
