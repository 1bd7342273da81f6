"""Commands written another way: absolute, step by step, or relative to the state that the robot was in."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator

from trivium.core.config import Config
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Sample, State
from trivium.data.chain import Transform
from trivium.data.circle import HALF, wrap
from trivium.data.column import Stats
from trivium.data.embodiment import CONTROLLER, Dimension, Kind, dimensions, plain
from trivium.data.motion import Motion

ROUND = 1e-5
"""Radians that an angle may lie beyond pi by the rounding of whoever wrote it."""


class RepresentConfig(Config):
    """Write commands another way; stands in front of normalize, and its inverse needs the robot's state."""

    kind: Literal["represent"] = "represent"
    to: Literal["delta", "relative", "absolute"]
    """delta: each command less the one before it in its chunk, the first less the state. relative: each less the state
    at the time of the observation. absolute: deltas added up onto that state. Grippers and velocities stay."""
    kinds: dict[str, Kind] = {}
    """What each dimension of the action is, by name and in the set's order, as in `kinds` of a source; {} takes it from
    the registry of robots. A dimension called gripper or velocity is left alone."""
    reference: dict[str, str] = {}
    """Dimension of the state that a dimension of the action moves, by name; the one of the same name where it is not
    said. A wrong one subtracts apples from pears, and only the statistics show it."""

    def build(self, stats: Stats) -> "Represent":
        """Make the step."""
        return Represent(self)


@dataclass(frozen=True, eq=False)
class _Rule:
    """What is done to which dimensions of an action: indexes and masks over its dimensions."""

    state: Int[np.ndarray, " a"]
    """Dimension of the state to start from, -1 for zero."""
    differ: Bool[np.ndarray, " a"]
    """Each less the one before it."""
    shift: Bool[np.ndarray, " a"]
    """Each less the start."""
    add: Bool[np.ndarray, " a"]
    """All up to it, added to the start."""
    circle: Bool[np.ndarray, " a"]
    """What goes in or comes out is an angle within (-pi, pi]."""


class Represent(Transform):
    """Rewrites action chunks, exactly but for float32: `inverse` brings back every command.

    Sums are taken in float64, so what comes back is off by at most the horizon times half a unit in the last place of
    the largest number involved. An angle of exactly -pi comes back as pi. Rotations are treated axis by axis, which is
    exact as a rewriting but no composition of rotations (where that matters, use a set with joint commands).
    """

    numeric = False
    rewrites = True

    def __init__(self, config: RepresentConfig) -> None:
        """Hold the settings; the robot is known with the first sample."""
        self.config = config

    def forward(self, sample: Sample, rng: Generator | None) -> Sample:
        """Rewrite the action; a sample without one (a web picture, an observation) passes unchanged.

        Raises:
            DataError: the action has no state beside it, or its dimensions are not known.
        """
        if not sample.of(Action):
            return sample
        [action], state = sample.of(Action), _state(sample)
        motion = Motion(
            embodiment=sample.embodiment,
            action=action.values[None],
            valid=action.valid[None],
            action_names=action.names,
            state=state.values[None],
            state_names=state.names,
        )
        values = self._rewrite(motion, f"sample {sample.id}").action[0]
        segments = (
            replace(segment, values=values) if isinstance(segment, Action) else segment for segment in sample.segments
        )
        return replace(sample, segments=tuple(segments))

    def motion(self, motion: Motion) -> Motion:
        """Rewrite many chunks.

        Raises:
            DataError: the dimensions of the action are not known.
        """
        return self._rewrite(motion, f"actions of robot {motion.embodiment!r}")

    def inverse(self, action: Float[np.ndarray, "k a"], observation: Sample) -> Float[np.ndarray, "k a"]:
        """Return the commands as the set wrote them.

        Raises:
            DataError: the observation has no state.
        """
        state, where = _state(observation), f"observation {observation.id}"
        rule = self._rule(observation.embodiment, action.shape[1], None, state.names, where)
        out, start = action.astype(np.float64), _start(state.values[None], rule.state)
        out[:, rule.differ] = start[:, rule.differ] + np.cumsum(out[:, rule.differ], 0)
        out[:, rule.shift] += start[:, rule.shift]
        out[:, rule.add] = np.diff(out[:, rule.add], axis=0, prepend=start[:, rule.add])
        out[:, rule.circle] = wrap(out[:, rule.circle])
        return out.astype(np.float32)

    def _rewrite(self, motion: Motion, where: str) -> Motion:
        width = motion.action.shape[2]
        rule = self._rule(motion.embodiment, width, motion.action_names, motion.state_names, where)
        _check_circles(motion, rule, where)
        out, start = motion.action.astype(np.float64), _start(motion.state, rule.state)[:, None]
        out[..., rule.differ] = np.diff(out[..., rule.differ], axis=1, prepend=start[..., rule.differ])
        out[..., rule.shift] -= start[..., rule.shift]
        out[..., rule.add] = start[..., rule.add] + np.cumsum(out[..., rule.add], 1)
        out[..., rule.circle] = wrap(out[..., rule.circle])
        return replace(motion, action=out.astype(np.float32))

    def _rule(
        self, robot: str, width: int, names: tuple[str, ...] | None, states: tuple[str, ...], where: str
    ) -> _Rule:
        about, to = dimensions(robot, width, names, self.config.kinds, where), self.config.to
        kinds = np.array([one.kind for one in about])
        place, step = np.isin(kinds, ("position", "angle")), np.isin(kinds, ("delta", "turn"))
        differ, shift = place & (to == "delta"), place & (to == "relative")
        add = step & (to != "delta")
        if not (differ | shift | add).any():
            raise ConfigError(
                "transforms: represent.to",
                f"{to!r}, which changes nothing: the action of robot {robot!r} is {', '.join(sorted(set(kinds)))}",
                "another form than it has",
                "Leave the step out, or correct `kinds`.",
            )
        based = differ | shift | (add & (to == "absolute"))
        pairs = zip(about, based, strict=True)
        state = np.array([self._reference(one, states, where) if uses else -1 for one, uses in pairs])
        circle = ((kinds == "angle") & (differ | shift)) | ((kinds == "turn") & based)
        return _Rule(state, differ, shift, add, circle)

    def _reference(self, about: Dimension, states: tuple[str, ...], where: str) -> int:
        """Return the place in the state of what a dimension of the action moves."""
        if about.unit == CONTROLLER:
            raise ConfigError(
                "transforms: represent.to",
                f"{self.config.to!r} for {about.name}, in units of a controller ({where})",
                "commands in the units of the state",
                "Use 'relative', which only adds the commands up, or leave the step out.",
            )
        name = self.config.reference.get(about.name, about.state)
        known = [plain(state) for state in states]
        if plain(name) not in known:
            raise DataError(
                where,
                f"no {name!r} in the state, which action dimension {about.name!r} moves",
                f"one of {', '.join(states) or 'none'}",
                f"Say which in `reference` of represent, or call {about.name} a gripper in `kinds` to leave it alone.",
            )
        return known.index(plain(name))


def _state(sample: Sample) -> State:
    states = sample.of(State)
    if len(states) != 1:
        todo = "Leave `represent` out for this source, or use one that has a state."
        raise DataError(f"sample {sample.id}", f"{len(states)} states beside an action", "one", todo)
    return states[0]


def _start(state: Float[np.ndarray, "n s"], index: Int[np.ndarray, " a"]) -> Float[np.ndarray, "n a"]:
    """Return what each dimension of the action starts from: its dimension of the state, or zero."""
    padded = np.concatenate([state.astype(np.float64), np.zeros((len(state), 1))], 1)
    return padded[:, index]


def _check_circles(motion: Motion, rule: _Rule, where: str) -> None:
    """Refuse angles beyond a half turn: they would come back a whole turn away."""
    limit = HALF + ROUND
    for j in np.flatnonzero(rule.circle):
        for what, values in (("action", motion.action[..., j]), ("state", motion.state[:, rule.state[j]])):
            if (np.abs(values) > limit).any():
                raise DataError(
                    where,
                    f"{np.abs(values).max():.4g} in the {what}, for the angle {motion.action_names[j]!r}",
                    "radians within (-pi, pi]",
                    "Call it a position in `kinds` if it is no angle, or a joint that turns further.",
                )
