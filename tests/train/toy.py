"""A two-stage run small enough to be killed many times; `python toy.py` serves such runs to tests/train."""

import copy
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from trivium.core.batch import Batch
from trivium.core.objective import Loss, Losses, Objective
from trivium.core.rng import Rng, key, numpy_rng, seed_all
from trivium.train import parallel
from trivium.train.checkpoint import Checkpoints, Saved
from trivium.train.guard import EXIT_RESUME, Guard
from trivium.train.loop import Hook, run_stage
from trivium.train.meter import Meter
from trivium.train.optim import Optimizer
from trivium.train.stage import StageConfig
from trivium.train.state import Reading, State

SEED = 7
WIDTH = 16


class Language(nn.Module):
    """Four layers and a table tied to a head, as in a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return self.norm(hidden)


class Model(nn.Module):
    """With `plain`, rows do not meet (no batch norm) and nothing is random: what a batch gives is a sum over rows."""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        middle = [nn.LayerNorm(WIDTH)] if plain else [nn.BatchNorm1d(WIDTH), nn.Dropout(0.1)]
        self.vision = nn.Sequential(nn.Linear(4, WIDTH), *middle)
        self.language = Language()


class Toy(Objective):
    """Regression and classification from noisy states: dropout, noise and running statistics at once."""

    def __init__(self, model: Model, noise: float = 0.1) -> None:
        super().__init__()
        self.vision, self.language, self.noise = model.vision, model.language, noise
        self.action = nn.Linear(WIDTH, 2)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"action": float(batch.actions_valid.sum()), "tokens": 0.5 * len(batch.states)}

    def forward(self, batch: Batch) -> Losses:
        noisy = batch.states + self.noise * torch.randn_like(batch.states)
        weight = self.action.weight
        hidden = self.language(self.vision(noisy.to(weight.dtype)))
        valid = batch.actions_valid[:, 0]
        error = (self.action(hidden).float() - batch.actions[:, 0]).square().mean(-1)
        classes = batch.states[:, 0].gt(0).long()
        text = nn.functional.cross_entropy(self.language.head(hidden).float(), classes, reduction="sum")
        losses = Losses(text=Loss(text, float(len(classes)), weight=0.5))
        if valid.any():  # else the action head takes no part and gets no gradient at all
            losses["flow"] = Loss(error[valid].sum(), float(valid.sum()), group="action", scale=2.0)
        return losses

    def fake_batch(self) -> Batch:
        return batch_of(0)


def plain_toy() -> Toy:
    seed_all(SEED)
    return Toy(Model(plain=True), noise=0.0)


def batch_of(*place: int, rows: int | None = None) -> Batch:
    """One batch as a pure function of its place; the number of rows and of valid ones is uneven."""
    rng = numpy_rng(SEED, "toy", *place)
    rows = rows or int(rng.integers(4, 9))
    states = rng.standard_normal((rows, 4)).astype(np.float32)
    actions = np.stack([np.sin(states[:, 0]), states[:, 1] * states[:, 2]], -1).astype(np.float32)
    valid = rng.random((rows, 1)) < 0.7
    valid[0] = True
    return Batch(
        states=torch.from_numpy(states),
        actions=torch.from_numpy(actions[:, None]),
        actions_valid=torch.from_numpy(valid),
        ids=tuple(f"sample-{'-'.join(map(str, place))}-{row}" for row in range(rows)),
        token_counts={"toy/action": int(valid.sum()), "toy/text": rows},
    )


def batches_from(position: int, accumulate: int, stage: int = 0, end: int = 10_000) -> Iterator[list[Batch]]:
    """The micro-batches of steps `position`, `position + 1`, ... of a stage."""
    for step in range(position, end):
        yield [batch_of(stage, step, micro) for micro in range(accumulate)]


def stages(steps: int = 30, save_every: int = 4) -> tuple[StageConfig, StageConfig]:
    common = {"steps": steps, "save_every": save_every, "warmup_steps": 3, "accumulate": 2}
    first = StageConfig(name="vision", learn=("vision", "action"), lr=1e-2, **common)
    second = StageConfig(
        name="joint", learn=("*", "!language.layers.0-1"), lr=3e-3, lr_groups={"vision": 1e-3}, **common
    )
    return first, second


def build(index: int, model: Model) -> Toy:
    """The objective of one stage; its own head is drawn from a key of its own, so that a resume draws it again."""
    seed_all(key(SEED, "init", index))
    return Toy(model)


def train(
    folder: Path,
    plan: Sequence[StageConfig],
    every: Sequence[Hook] = (),
    forget: str = "",
    log: list[Reading] | None = None,
) -> bool:
    """What `run.py` does, in small: find, restore, go on through the list of stages.

    `forget` leaves one part of the state out of what is restored; `log` takes what every step showed.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    saved = checkpoints.find()
    state = saved.state if saved else State(Rng(SEED))
    resumed = state.stage_index if saved else -1
    seed_all(key(SEED, "model"))
    model = Model()
    with Guard() as stop, Meter(folder, state) as meter, stop.holding():
        for index, stage in enumerate(plan):
            if index < resumed:
                continue
            objective = build(index, model)
            everything = nn.ModuleDict({"model": model, "objective": objective})
            optimizer, _ = stage.build(objective)
            if saved and index == resumed:
                _restore(saved, everything, optimizer, forget)
            state.begin_stage(stage.name, index)
            meter.begin(state, stage.steps)

            def record(state: State, reading: Reading) -> None:
                meter.record(state, reading)
                if log is not None:
                    log.append(reading)

            save = partial(checkpoints.save, module=everything, optimizer=optimizer)
            batches = batches_from(state.data_position, stage.accumulate, index)
            if not run_stage(objective, batches, optimizer, state, stage, save, record, every, stop):
                return False
    return True


def _restore(saved: Saved, everything: nn.Module, optimizer: Optimizer, forget: str) -> None:
    if forget == "model":
        everything = copy.deepcopy(everything)
    saved.restore(everything, None if forget == "optimizer" else optimizer)
    if forget == "rng":
        saved.state.rng.step = 0
    if forget in ("step", "data_position"):
        setattr(saved.state, forget, 0)


def train_alone(folder: Path) -> bool:
    return train(folder, stages())


def uneven_batches() -> Iterator[list[Batch]]:
    """Two micro-batches a step, of which the second has no action to learn from."""
    for first, second in batches_from(0, 2):
        yield [first, replace(second, actions_valid=torch.zeros_like(second.actions_valid), token_counts={})]


def train_together(folder: Path, rank: int, size: int, poison: int = -1) -> bool:
    """One of `size` processes that share the micro-batches of every step; `poison` puts a NaN into a step of rank 1."""
    if size > 1:
        soon = timedelta(seconds=20)  # ranks that wait for each other shall fail, not hang
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=soon)
    assert parallel.from_all_ranks([f"rank {rank}"] * rank) == [f"rank {r}" for r in range(size) for _ in range(r)]
    objective = plain_toy()
    stage = stages()[1].replace(steps=6)
    optimizer, _ = stage.build(objective)
    state = State(Rng(SEED))
    state.begin_stage(stage.name, 0)

    def share() -> Iterator[list[Batch]]:
        for step, batches in enumerate(uneven_batches()):
            if step == poison:
                batches[-1].states[0, 0] = torch.nan
            yield batches[rank::size]

    with Meter(folder, state) as meter:
        meter.begin(state, stage.steps)
        asked = lambda: rank == size - 1 and state.step == 5  # noqa: E731
        done = run_stage(objective, share(), optimizer, state, stage, lambda _: None, meter.record, stop=asked)
    save_file(dict(objective.named_parameters()), folder / f"rank-{rank}.safetensors")
    assert not done
    assert state.step == 5
    return True


TASKS = {"alone": train_alone, "together": train_together}


def serve() -> None:
    """Read one JSON request a line, answer with one: torch is imported once, and every run is a fork of its own."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _child(**request)
        print(json.dumps(answer), flush=True)


def _child(task: str, folder: str, **settings: int) -> None:
    code = 1
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        code = 0 if TASKS[task](Path(folder), **settings) else EXIT_RESUME
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports 800 modules at its first use: once here, not in every fork
    serve()
