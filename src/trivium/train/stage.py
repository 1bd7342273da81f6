"""A stage: how long, how fast, and which parameters learn."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.rng import isolated
from trivium.core.schema import suggest
from trivium.train.optim import Group, Optimizer, without_decay
from trivium.train.schedule import lr_share

RANGE = re.compile(r"(\d*)-(\d*)")


class StageConfig(Config):
    """How one stage learns; `run.py` adds what it learns from: an objective and a mixture."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Names the stage in folders, plots and overrides (`stages.NAME.steps=5`): lower case, digits, `-`, `_`;
    no two stages of a run may share one."""
    steps: Annotated[int, Field(gt=0)]
    """Optimizer steps, from one to millions. Too few: the loss curve in the report still falls at its end."""
    learn: tuple[str, ...]
    """Patterns of the parameters that learn; all others are frozen. "connect", "language.layers.0-3" (both ends in),
    "vision.blocks.2-" (to the last), "language.layers.*.mlp", "*"; "!vision.norm" takes some out again.
    A pattern that fits no parameter is refused."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate: 1e-3 to 1e-4 for parts from scratch, 1e-4 to 1e-5 for pretrained ones. Too high: spikes,
    skipped steps; too low: a straight, slow loss curve."""
    lr_groups: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Peak learning rate by pattern, for parameters that differ from `lr` (Molmo: connector 2e-4, vision 6e-6,
    language 2e-5). The first pattern that fits a parameter wins."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decay of matrices, 0 to 0.2; biases, norms, gains, embeddings, position tables never decay. Too high:
    weights shrink and the loss stops falling."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's memory of gradient and squared gradient. A second value near 1 is smooth but slow to see a spike."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise to the peak, 1 to 3 % of `steps`, at least 10 with fresh weights. Too few: early spikes."""
    final_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the peak that the cosine falls to, 0 to 0.1; 1 keeps the rate constant after the warm-up."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global gradient norm, 0.5 to 1 as a rule; longer gradients are scaled down to it. `metrics.jsonl` has
    the norm before: when it lies above `clip` all the time, `clip` is a learning rate in disguise."""
    average: bool = False
    """Whether the stage ends with the running average of its weights (Diffusion Policy's EMA) in place of the last;
    evaluations before the end see the last. Steadier diffusion and flow heads for 4 bytes a weight; a stage of a few
    hundred steps is too short for it: the average lags behind."""
    accumulate: Annotated[int, Field(gt=0)] = 1
    """Micro-batches per step: more tokens a step in the same memory, at the same result and proportionally slower."""
    save_every: Annotated[int, Field(gt=0)] = 500
    """Steps between checkpoints, besides the one at the end: a crash costs at most that much work, a checkpoint
    about 12 bytes a parameter on disk."""
    eval_every: Annotated[int, Field(gt=0)] = 1000
    """Steps between evaluations. They cannot change training by a bit, only its time."""

    def lr_share(self, step: int) -> float:
        """Return the share of every peak rate at the step counted from 0."""
        return lr_share(step, self.steps, self.warmup_steps, self.final_lr_share)

    def build(self, objective: nn.Module) -> tuple[Optimizer, list["Learner"]]:
        """Freeze what does not learn and make the optimizer of what does, with fresh moments.

        Raises:
            ConfigError: a pattern fits nothing, or nothing would learn.
        """
        groups, table = self.freeze(objective)
        return Optimizer(objective, groups, self.betas, self.clip, self.average), table

    def freeze(self, objective: nn.Module) -> tuple[list[Group], list["Learner"]]:
        """Freeze what does not learn; return what does, in groups of one rate, and the table that says so.

        Raises:
            ConfigError: a pattern fits nothing, or nothing would learn.
        """
        where = f"stages.{self.name}"
        table = apply_freeze(objective, self.learn, f"{where}.learn")
        return self._groups(objective, f"{where}.lr_groups"), table

    def _groups(self, objective: nn.Module, where: str) -> list[Group]:
        left = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
        chosen: list[tuple[str, float, set[str]]] = []
        for pattern, lr in self.lr_groups.items():
            names = select(objective, [pattern], where) & left
            if not names:
                raise ConfigError(
                    f"{where}.{pattern}",
                    "a learning rate for parameters that do not learn, or that an earlier pattern takes",
                    "at least one parameter that learns",
                    "Leave it out, or name its parameters in `learn`.",
                )
            chosen.append((pattern, lr, names))
            left -= names
        spared = without_decay(objective)
        groups: list[Group] = []
        for label, lr, names in [*chosen, ("base", self.lr, left)]:
            groups.append(Group(label, lr, self.weight_decay, tuple(sorted(names - spared))))
            groups.append(Group(label, lr, 0.0, tuple(sorted(names & spared))))
        return [group for group in groups if group.names]


class Learner(NamedTuple):
    """A row of the table that says who learns."""

    pattern: str
    parameters: int
    elements: int


def select(module: nn.Module, patterns: Sequence[str], where: str = "learn") -> set[str]:
    """Return the names of the parameters that the patterns fit, tied ones once, under their first name.

    A pattern is compared word by word with the start of a dotted name; a word is itself, `*`, or a range of numbers.
    Patterns after `!` take out, wherever they stand in the list.

    Raises:
        ConfigError: a pattern fits nothing, or its range goes past the last layer.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        if not pattern.startswith("!"):
            chosen |= _fitting(module, pattern, where)
    for pattern in patterns:
        if pattern.startswith("!"):
            chosen -= _fitting(module, pattern[1:], where)
    return chosen


def apply_freeze(objective: nn.Module, learn: Sequence[str], where: str = "learn") -> list[Learner]:
    """Let the chosen parameters learn and freeze all others; return who learns, the frozen ones in the last row.

    A module whose parameters are all frozen goes to eval mode, whatever stands around it: else its dropout would
    disturb and its running statistics would move although no weight learns.

    Raises:
        ConfigError: a pattern fits nothing, or nothing would learn.
    """
    chosen = select(objective, learn, where)
    if not chosen:
        raise ConfigError(
            where,
            f"patterns that choose no parameter: {', '.join(learn) or 'none'}",
            "at least one parameter that learns",
            'Write for example learn=("connect",), or ("*",) for everything.',
        )
    for name, parameter in objective.named_parameters():
        parameter.requires_grad_(name in chosen)
        parameter.grad = None  # a gradient of zero would still decay the weight and move it by old momentum
    _set_modes(objective)
    return list(_table(objective, learn, chosen))


@contextmanager
def undisturbed(objective: nn.Module, seed: int) -> Iterator[None]:
    """Run an evaluation so that training cannot tell: own random numbers, eval mode, every mode put back."""
    modes = {module: module.training for module in objective.modules()}
    objective.eval()
    try:
        with isolated(seed):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _table(objective: nn.Module, learn: Sequence[str], chosen: set[str]) -> Iterator[Learner]:
    elements = {name: parameter.numel() for name, parameter in objective.named_parameters()}
    left = set(chosen)
    for pattern in learn:
        if not pattern.startswith("!"):
            mine = select(objective, [pattern]) & left
            left -= mine
            yield Learner(pattern, len(mine), sum(elements[name] for name in mine))
    frozen = elements.keys() - chosen
    yield Learner("(frozen)", len(frozen), sum(elements[name] for name in frozen))


def _set_modes(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    module.training = True
    for inner in module.children():
        _set_modes(inner)


def _fitting(module: nn.Module, pattern: str, where: str) -> set[str]:
    """Narrow all names down word by word; the word at which none is left is the one to complain about."""
    names = _first_names(module)
    left = {name: name.split(".") for name in names}
    words = pattern.split(".")
    for depth, word in enumerate(words):
        known = list(dict.fromkeys(parts[depth] for parts in left.values() if len(parts) > depth))
        left = {name: parts for name, parts in left.items() if len(parts) > depth and _fits(word, parts[depth])}
        if not left or _ends_outside(word, known):
            raise _fits_nothing(where, pattern, words[:depth], word, known)
    return {names[name] for name in left}


def _first_names(module: nn.Module) -> Mapping[str, str]:
    """Map every name of every parameter to its first one: a tied weight has several names and is one weight."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def _fits(word: str, part: str) -> bool:
    if word in ("*", part):
        return True
    span = RANGE.fullmatch(word)
    if span is None or word == "-" or not part.isdecimal():
        return False
    return int(span[1] or 0) <= int(part) <= int(span[2] or part)


def _ends_outside(word: str, known: Sequence[str]) -> bool:
    span = RANGE.fullmatch(word)
    last = max((int(part) for part in known if part.isdecimal()), default=-1)
    return span is not None and bool(span[2]) and int(span[2]) > last


def _fits_nothing(where: str, pattern: str, before: Sequence[str], word: str, known: Sequence[str]) -> ConfigError:
    numbers = sorted(int(part) for part in known if part.isdecimal())
    path = ".".join(before)
    if numbers:
        expected = f"numbers from {numbers[0]} to {numbers[-1]} below {path!r}"
    elif known:
        expected = f"one of {', '.join(known)}" + (f" below {path!r}" if path else "")
    else:
        expected = f"nothing more after {path!r}, which is a parameter"
    todo = suggest(word, known, 'Patterns look like "connect", "language.layers.0-3", "vision.blocks.2-", "*".')
    return ConfigError(where, f"the pattern {pattern!r}, whose {word!r} fits no parameter", expected, todo)
