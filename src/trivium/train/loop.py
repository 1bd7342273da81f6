"""The one loop: these lines train every stage of every curriculum."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import perf_counter

from trivium.core.batch import Batch
from trivium.core.errors import DataError
from trivium.core.log import warn
from trivium.core.objective import Objective
from trivium.core.rng import key
from trivium.train import parallel
from trivium.train.gradient import differentiate
from trivium.train.optim import Optimizer
from trivium.train.stage import StageConfig, undisturbed
from trivium.train.state import Reading, State

Hook = tuple[int, Callable[[State], object]]
"""After every how many steps, and what to do then: evaluate, probe, draw."""


def run_stage(
    objective: Objective,
    batches: Iterable[Sequence[Batch]],
    optimizer: Optimizer,
    state: State,
    stage: StageConfig,
    save: Callable[[State], object],
    record: Callable[[State, Reading], object],
    every: Sequence[Hook] = (),
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train to the end of the stage, or go on with it; True when it ended, False when it was asked to stop.

    Args:
        objective: frozen and set to its modes by `StageConfig.build`.
        batches: the micro-batches of one step after another, beginning with step `state.data_position` of the plan.
        optimizer: of this stage.
        state: counts in place; a stage that has ended returns at once.
        stage: how long, how fast, how often.
        save: makes all of this durable; called every `save_every` steps, at the end, and before stopping.
        record: takes what every step showed.
        every: hooks, run in their order and before saving, so that one that crashed runs again after a resume.
        stop: asked after every step; True on one rank stops all.

    Raises:
        TrainingError: too many steps in a row were not finite.
        DataError: the batches ended before the stage did.
    """
    device = next(objective.parameters()).device
    started = perf_counter()
    for micro_batches in islice(batches, max(0, stage.steps - state.step)):
        wait_s = perf_counter() - started
        state.rng.begin_step(state.stage, parallel.rank())
        optimizer.begin_step()
        objective.begin_step(state.step / stage.steps)
        seen = differentiate(objective, [batch.to(device) for batch in micro_batches], optimizer)
        share = stage.lr_share(state.step)
        norm, taken = optimizer.step(seen.total, share)
        if not taken:
            ids = ", ".join([sample for batch in micro_batches for sample in batch.ids][:8])
            warn(f"{state.stage} step {state.step + 1} skipped: loss {seen.total}, norm {norm}; first samples: {ids}")
        reading = Reading(
            **seen._asdict(),
            grad_norm=norm,
            taken=taken,
            lr=optimizer.lr(share),
            wait_s=wait_s,
            step_s=perf_counter() - started,
        )
        state.advance(reading)
        record(state, reading)
        state.check_skips(reading)

        for period, act in every:
            if state.step % period == 0:
                with undisturbed(objective, key(state.rng.seed, "hook", state.stage, state.step)):
                    act(state)
        if state.step == stage.steps:
            optimizer.adopt()
        stopping = parallel.any_rank(stop())
        if stopping or state.step % stage.save_every == 0 or state.step == stage.steps:
            save(state)
        if stopping:
            return False
        started = perf_counter()
    if state.step < stage.steps:
        raise DataError(
            f"stage {state.stage!r}",
            f"data for {state.step} steps",
            f"data for all {stage.steps}",
            "Lower the stage's steps, or raise max_epochs of its buckets.",
        )
    return True
