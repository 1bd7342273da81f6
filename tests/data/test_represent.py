from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Sample, State, Text
from trivium.data.chain import Chain
from trivium.data.circle import HALF
from trivium.data.embodiment import Kind
from trivium.data.motion import Motion
from trivium.data.represent import Represent, RepresentConfig
from trivium.data.stats import measure
from trivium.data.transform import NormalizeConfig, ResizeConfig, build_chain, front

To = Literal["delta", "relative", "absolute"]
NAMES = ("reach", "roll", "grip", "speed")
STATES = ("grip", "arm", "roll")
ABSOLUTE: dict[str, Kind] = {"reach": "position", "roll": "angle", "grip": "gripper", "speed": "velocity"}
STEPS: dict[str, Kind] = {**ABSOLUTE, "reach": "delta", "roll": "turn"}
REFERENCE = {"reach": "arm"}
FORMS = [(ABSOLUTE, "delta"), (ABSOLUTE, "relative"), (STEPS, "absolute"), (STEPS, "relative")]


def step(kinds: dict[str, Kind], to: To) -> Represent:
    return RepresentConfig(to=to, kinds=kinds, reference=REFERENCE).build({})


def sample(chunk: np.ndarray, state: np.ndarray, robot: str = "toy", names: tuple[str, ...] = NAMES) -> Sample:
    values = np.asarray(chunk, np.float32)
    action = Action(values=values, valid=np.ones(len(values), bool), names=names)
    return observed(state, robot, action)


def observed(state: np.ndarray, robot: str = "toy", *more: Action) -> Sample:
    seen = State(values=np.asarray(state, np.float32), names=STATES)
    segments = (Text(text="go", role="instruction"), seen, *more)
    return Sample(id="s/0/0", segments=segments, source="s", license="CC0-1.0", embodiment=robot)


CHUNK = np.array([[5, 3.0, 1, 0.1], [7, -3.0, 0, 0.2], [6, 3.0, 1, 0.3]])
STATE = np.array([0.4, 4.0, 2.5])
TURN = 2 * np.pi


@pytest.mark.parametrize(
    ("kinds", "to", "reach", "roll"),
    [
        (ABSOLUTE, "delta", [1, 2, -1], [0.5, TURN - 6, 6 - TURN]),
        (ABSOLUTE, "relative", [1, 3, 2], [0.5, TURN - 5.5, 0.5]),
        (STEPS, "absolute", [9, 16, 22], [5.5 - TURN, 2.5, 5.5 - TURN]),
        (STEPS, "relative", [5, 12, 18], [3, 0, 3]),
    ],
)
def test_forms_by_hand(kinds, to, reach, roll):
    [out] = step(kinds, to).forward(sample(CHUNK, STATE), None).of(Action)
    np.testing.assert_allclose(out.values[:, 0], reach, atol=1e-6)
    np.testing.assert_allclose(out.values[:, 1], roll, atol=1e-5)
    assert (out.values[:, 2:] == CHUNK[:, 2:].astype(np.float32)).all(), "grippers and velocities stay"
    assert out.names == NAMES


@pytest.mark.parametrize(("kinds", "to"), FORMS)
@given(seed=st.integers(0, 10**6), horizon=st.integers(1, 64), size=st.sampled_from([1e-3, 1.0, 300.0]))
def test_inverse_of_forward_is_the_identity(kinds, to, seed, horizon, size):
    rng = np.random.default_rng(seed)
    chunk = np.stack(
        [size * rng.normal(size=horizon), rng.uniform(-np.pi, np.pi, horizon), *rng.normal(size=(2, horizon))], 1
    )
    state = np.array([0.5, size * rng.normal(), rng.uniform(-np.pi, np.pi)])
    one = step(kinds, to)
    [out] = one.forward(sample(chunk, state), None).of(Action)
    back = one.inverse(out.values, observed(state))
    assert back.dtype == out.values.dtype == np.float32
    largest = max(np.abs(chunk).max(), np.abs(state).max(), np.abs(out.values).max())
    off = np.abs(back - chunk.astype(np.float32))
    assert np.abs(back[:, 1]).max() <= HALF + 1e-6
    off[:, 1] = np.minimum(off[:, 1], TURN - off[:, 1])  # at the seam -pi and pi are one angle
    assert off.max() <= (horizon + 2) * np.spacing(np.float32(largest))
    assert (back[:, 2:] == chunk[:, 2:].astype(np.float32)).all()


@pytest.mark.parametrize(("kinds", "to"), FORMS)
def test_many_chunks_at_once_are_what_each_is_alone(kinds, to):
    rng = np.random.default_rng(1)
    chunks, states = rng.uniform(-3, 3, (20, 5, 4)), rng.uniform(-3, 3, (20, 3))
    motion = Motion(
        embodiment="toy",
        action=chunks.astype(np.float32),
        valid=np.ones((20, 5), bool),
        action_names=NAMES,
        state=states.astype(np.float32),
        state_names=STATES,
    )
    together = step(kinds, to).motion(motion).action
    for chunk, state, found in zip(chunks, states, together, strict=True):
        [alone] = step(kinds, to).forward(sample(chunk, state), None).of(Action)
        assert (alone.values == found).all()


def test_relative_commands_and_normalisation_come_back_through_a_chain(toy_set):
    from trivium.data.source.lerobot import LeRobotConfig

    source = LeRobotConfig(path=str(toy_set), views=(), horizon=4).build()
    relative = RepresentConfig(to="relative", kinds={"a": "position", "b": "gripper"})
    configs = (ResizeConfig(size=16), relative, NormalizeConfig())
    stats = measure([(source, np.arange(len(source)))], front(configs))
    chain = build_chain(configs, stats)
    for i in range(len(source)):
        whole = source.read(i)
        out = chain.forward(whole, None)
        seen = Sample(**{**whole.__dict__, "segments": tuple(s for s in whole.segments if not isinstance(s, Action))})
        [recorded], [normal] = whole.of(Action), out.of(Action)
        np.testing.assert_allclose(chain.inverse(normal.values, seen), recorded.values, rtol=1e-5, atol=1e-3)
        motion = chain.motion(source.motion(np.array([i])))
        assert (motion.action[0] == normal.values).all()
        assert (motion.state[0] == out.of(State)[0].values).all()
    # Relative to the state at t, the toy's command of step t + j is 1000 * episode + j, whatever t.
    assert stats["toy"]["action"].min[0] == 0
    assert stats["toy"]["action"].max[0] == 2003
    assert stats["toy"]["action"].count == 4 * 28 - 3 * 6, "commands behind an episode's end are not measured"
    assert stats["toy"]["state"].max[0] == 13


def test_what_cannot_be_rewritten_is_refused():
    one = step(ABSOLUTE, "delta")
    bare = sample(CHUNK, STATE)
    bare = Sample(**{**bare.__dict__, "segments": tuple(s for s in bare.segments if not isinstance(s, State))})
    with pytest.raises(DataError, match="sample s/0/0: found 0 states beside an action; expected one"):
        one.forward(bare, None)
    with pytest.raises(DataError, match="sample s/0/0: found 0 states"):
        one.inverse(CHUNK, bare)
    lost = RepresentConfig(to="delta", kinds=ABSOLUTE).build({})
    with pytest.raises(
        DataError, match="no 'reach' in the state, which action dimension 'reach' moves; expected one of g"
    ):
        lost.forward(sample(CHUNK, STATE), None)
    wide = CHUNK + np.array([0, 2.0, 0, 0])
    with pytest.raises(DataError, match=r"found 5 in the action, for the angle 'roll'; expected radians within \(-pi"):
        one.forward(sample(wide, STATE), None)
    with pytest.raises(DataError, match=r"found 9 in the state, for the angle 'roll'"):
        one.forward(sample(CHUNK, np.array([0, 0, 9.0])), None)
    with pytest.raises(DataError, match=r"found 3 dimensions of action \(reach, roll, grip\); expected 4"):
        one.forward(sample(CHUNK[:, :3], STATE, names=NAMES[:3]), None)
    with pytest.raises(
        ConfigError, match="'delta', which changes nothing: the action of robot 'toy' is delta, gripper, tu"
    ):
        step(STEPS, "delta").forward(sample(CHUNK, STATE), None)
    with pytest.raises(ConfigError, match=r"transforms\.1: found represent behind normalize; expected represent in"):
        build_chain((NormalizeConfig(), RepresentConfig(to="delta")), {})


def test_registered_robots_need_no_kinds():
    names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    chunk = np.tile(np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 1.0], np.float32), (3, 1))
    action = Action(values=chunk, valid=np.ones(3, bool), names=names)
    pose = State(values=np.arange(7, dtype=np.float32) / 10, names=names)
    bridge = Sample(id="b/0/0", segments=(pose, action), source="b", license="", embodiment="widowx")
    [out] = RepresentConfig(to="absolute").build({}).forward(bridge, None).of(Action)
    np.testing.assert_allclose(out.values[2, :6], pose.values[:6] + 3 * chunk[0, :6], atol=1e-6)
    assert out.values[2, 6] == 1
    sawyer = Sample(**{**bridge.__dict__, "embodiment": "panda"})
    with pytest.raises(ConfigError, match="'absolute' for x, in units of a controller"):
        RepresentConfig(to="absolute").build({}).forward(sawyer, None)
    [summed] = RepresentConfig(to="relative").build({}).forward(sawyer, None).of(Action)
    np.testing.assert_allclose(summed.values[2, :6], 3 * chunk[0, :6], atol=1e-6)


def test_samples_without_an_action_pass_unchanged():
    web = Sample(id="w", segments=(Text(text="a cat", role="caption"),), source="w", license="")
    assert step(ABSOLUTE, "delta").forward(web, None) is web
    seen = observed(STATE)
    assert step(ABSOLUTE, "delta").forward(seen, None) is seen
    assert Chain([step(ABSOLUTE, "delta")]).rewrites
    assert not Chain([ResizeConfig(size=16).build({})]).rewrites
