"""Looking at every stage before the first one trains: what could only fail, or learn nothing, is refused at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import numpy as np
from torch.compiler import set_stance

from trivium.assemble import World, build_objective
from trivium.core.batch import Batch
from trivium.core.errors import ConfigError, DataError
from trivium.core.objective import Losses, Objective
from trivium.core.rng import key
from trivium.data.index import Index
from trivium.data.plan import Plan
from trivium.data.row import Layout, Row, collate
from trivium.language.continual import ContinualConfig
from trivium.policy.objective import VlaConfig
from trivium.policy.unified import UnifiedConfig
from trivium.run import Stage
from trivium.start import fresh_names
from trivium.train.stage import select, undisturbed
from trivium.vision.cache import FeatureCache
from trivium.vision.supervised import SupervisedConfig

WEIGHTS = {
    VlaConfig: ("text_weight", "action_token_weight", "flow_weight"),
    UnifiedConfig: ("text_weight", "image_weight", "action_token_weight"),
}
"""Weights whose losses need something of the data; each is compared with what the buckets hold."""
NEEDS = {"text_weight": "learned words", "image_weight": "pictures"}
"""What else than actions a weight needs."""


def check_stages(world: World) -> None:
    """Plan every stage and take its gradient once, on a few samples with blank pictures.

    A run learns in seconds what its last stage would say after days: a pattern that fits nothing, a bucket that is too
    small, a loss without data, a pattern that no loss reaches. Nothing is decoded, no optimizer is made, one stage is
    held at a time, and weights, modes and random numbers are as before.

    Raises:
        TriviumError: the first thing that is wrong; the text names the stage and the field.
    """
    for stage in world.config.stages:
        try:
            # Compiled blocks would be compiled once more for these few samples.
            with undisturbed(world.model, key(world.config.seed, "preflight", stage.name)), set_stance("force_eager"):
                _check(world, stage)
        except ConfigError as error:
            if not error.where.startswith(("mixture", "objective")):
                raise
            where = f"stages.{stage.name}.{error.where}"
            raise ConfigError(where, error.found, error.expected, error.todo) from error


def _check(world: World, stage: Stage) -> None:
    _check_rows(world, stage)
    plan, layout = world.plan(stage), world.layout(stage.objective)
    rows = [row for bucket in plan.mixture.buckets for row in _cheapest(world, plan, layout, bucket.name)]
    for name in WEIGHTS.get(type(stage.objective), ()):
        rows += _taught(world, stage, plan, layout, rows, name)
    objective = build_objective(stage.objective, world.model, world.config).to(world.device)
    with _frozen(stage, objective):
        _check_fresh(world, stage, objective)
        _check_cache(world, stage)
        objective.eval()  # no dropout: what a batch may lack by chance is there
        batch = _batch(rows).to(world.device)
        if isinstance(stage.objective, UnifiedConfig):
            # Its image tokenizer may learn in a stage before: any code stands for a picture here, as the row has it.
            batch = replace(batch, images=None, images_document=None)
        losses = objective(batch)
        _check_losses(stage, losses)
        losses.total(losses.counts()).backward()
        _check_patterns(stage, objective, losses)


@contextmanager
def _frozen(stage: Stage, objective: Objective) -> Iterator[None]:
    """Freeze as the stage will, and put everything back: who learns, gradients, and the places of adapters."""
    before = [(parameter, parameter.requires_grad) for parameter in objective.parameters()]
    try:
        stage.freeze(objective)
        yield
    finally:
        stage.take_out(objective)
        for parameter, learns in before:
            parameter.requires_grad_(learns)
            parameter.grad = None


def _check_rows(world: World, stage: Stage) -> None:
    longest, here = world.model.language.max_length, stage.mixture.row_length
    if isinstance(stage.objective, VlaConfig | UnifiedConfig | ContinualConfig) and here > longest:
        raise ConfigError(
            f"stages.{stage.name}.mixture.row_length",
            str(here),
            f"at most {longest}, the window of the language model",
            "Shorten the rows or choose another language model.",
        )


def _check_fresh(world: World, stage: Stage, objective: Objective) -> None:
    """Refuse new random weights that would stay random."""
    learning = {id(parameter) for parameter in objective.parameters() if parameter.requires_grad}
    chosen = fresh_names(world.model, world.config, stage)
    idle = sorted(name for name in chosen if id(world.model.get_parameter(name)) not in learning)
    if idle:
        raise ConfigError(
            f"stages.{stage.name}.fresh",
            f"{idle[0]}, which would get new random weights and not learn",
            "parameters that learn in this stage",
            f"Add it to stages.{stage.name}.learn, or take it out of fresh.",
        )


def _check_cache(world: World, stage: Stage) -> None:
    """Refuse a cache of features that would be old, or that nobody asks."""
    where = f"stages.{stage.name}.cache_gb"
    if not stage.cache_gb:
        return
    if world.chain.draws:
        kinds = [step.kind for step in world.config.transforms if step.build(world.stats).draws]
        raise ConfigError(
            where,
            f"{stage.cache_gb:g} with transforms that change a picture each time: {', '.join(kinds)}",
            "pictures that come again as they were",
            f"Take them out of transforms, or set {where}=0.",
        )
    if not isinstance(stage.objective, VlaConfig | SupervisedConfig):
        found = f"{stage.cache_gb:g} for an objective of kind {stage.objective.kind!r}"
        raise ConfigError(where, found, "vla or supervised, which encode whole pictures", f"Set {where}=0.")
    with FeatureCache(world.model.vision, stage.cache_gb).attached(where):
        pass


def _check_losses(stage: Stage, losses: Losses) -> None:
    """Refuse a loss that costs a forward pass and teaches nobody."""
    for name, loss in losses.items():
        # A codebook commits in training alone; only weights that a recipe gives are asked for here.
        if type(stage.objective) in WEIGHTS and loss.weight * loss.scale and not loss.sum.requires_grad:
            raise ConfigError(
                f"stages.{stage.name}.learn",
                f"{', '.join(stage.learn)}, to which no gradient of the loss {name!r} comes",
                "something that every loss with a weight can teach",
                f"Let more learn, or set the weight of {name!r} to 0.",
            )


def _check_patterns(stage: Stage, objective: Objective, losses: Losses) -> None:
    reached = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    learning = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    for pattern in stage.learn:
        chosen = set() if pattern.startswith("!") else select(objective, [pattern]) & learning
        if chosen and not chosen & reached:
            said = ", ".join(name for name, loss in losses.items() if loss.count) or "none"
            raise ConfigError(
                f"stages.{stage.name}.learn",
                f"the pattern {pattern!r}, to which no gradient comes (losses: {said})",
                "a loss with a weight that reaches every pattern, and data that it is taken on",
                f"Take {pattern!r} out of learn, give such a loss a weight, or add a bucket with what it needs.",
            )


def _cheapest(world: World, plan: Plan, layout: Layout, bucket: str) -> list[Row]:
    """Return the shortest sample of a bucket that has each modality: together they use every part of the model."""
    index, chosen = plan.index(bucket), dict[int, None]()
    for column in index.tokens.values():
        place = _shortest(index, column)
        if place is not None:
            chosen[place] = None
    source = world.source(next(one.source for one in plan.mixture.buckets if one.name == bucket))
    return [layout.build(world.chain.forward(source.peek(int(index.samples[place])), None)) for place in sorted(chosen)]


def _shortest(index: Index, column: np.ndarray) -> int | None:
    """Return the place of the shortest sample with this modality, of the first block that has any."""
    for block in index.blocks():
        here = np.flatnonzero(column[block]) + (block.start or 0)
        if len(here):
            return int(here[index.lengths_at(here).argmin()])
    return None


def _taught(world: World, stage: Stage, plan: Plan, layout: Layout, rows: list[Row], name: str) -> list[Row]:
    """Return a sample on which a weighted loss is taken, [] where `rows` has one or the loss has no weight.

    A few hundred samples of every bucket are looked at first, and all of them before anything is refused.
    """
    config = stage.objective
    if not getattr(config, name):
        return []
    alone = config.replace(**{other: 0.0 for other in WEIGHTS[type(config)] if other != name})
    objective = build_objective(alone, world.model, world.config)
    for row in chain(rows, _spread(world, plan, layout)):
        if sum(objective.counts(_batch([row])).values()):
            return [] if any(row is known for known in rows) else [row]
    raise ConfigError(
        f"stages.{stage.name}.objective.{name}",
        f"{getattr(config, name):g}, and no sample in its buckets that this loss is taken on",
        f"0.0, or a bucket with {NEEDS.get(name, 'actions')}",
        f"Set stages.{stage.name}.objective.{name}=0.0, or add such a bucket.",
    )


def _spread(world: World, plan: Plan, layout: Layout, few: int = 256) -> Iterator[Row]:
    """Yield samples of all buckets, a few of each and then all; bad ones are left to the loader, which lists them."""
    indexes = [(bucket, plan.index(bucket.name)) for bucket in plan.mixture.buckets]
    for steps in (lambda size: max(size // few, 1), lambda size: 1):
        for bucket, index in indexes:
            source = world.source(bucket.source)
            for place in range(0, len(index.samples), steps(len(index.samples))):
                if not index.lengths_at(np.array([place]))[0]:
                    continue
                try:
                    yield layout.build(world.chain.forward(source.peek(int(index.samples[place])), None))
                except DataError:
                    continue


def _batch(rows: list[Row]) -> Batch:
    return collate([[("", row)] for row in rows], max(row.length for row in rows))
