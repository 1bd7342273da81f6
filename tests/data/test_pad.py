import numpy as np
import pytest

from trivium.core.errors import ConfigError
from trivium.core.sample import ABSENT, CIRCLE, LINE, Action, Sample, State, Text
from trivium.data.column import QUANTILES, ColumnStats
from trivium.data.motion import Motion
from trivium.data.pad import PadConfig
from trivium.data.transform import NormalizeConfig, build_chain

NAMES = ("x", "yaw")


def column(values: np.ndarray, names: tuple[str, ...]) -> ColumnStats:
    quantiles = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))
    moments = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    return ColumnStats(names=names, count=len(values), **quantiles, **moments)


def stats(turn: float = 3.0) -> dict[str, dict[str, ColumnStats]]:
    ramp = np.linspace(-1, 1, 500)[:, None]
    small = column(ramp * [4.0, turn], NAMES)
    large = column(ramp * [1.0, 2.0, 3.0], ("a", "b", "c"))
    return {"small": {"state": small, "action": small}, "large": {"state": large, "action": large}}


def observation(robot: str, width: int, *more: Action) -> Sample:
    state = State(values=np.full(width, 0.5, np.float32), names=("n",) * width)
    return Sample(id=f"{robot}/0", segments=(state, *more), source="s", license="MIT", embodiment=robot)


def chunk(values: list[list[float]]) -> Action:
    array = np.array(values, np.float32)
    return Action(values=array, valid=np.ones(len(array), bool), names=("n",) * array.shape[1])


STEPS = (NormalizeConfig(circular=("yaw",)), PadConfig(state_dim=4, action_dim=5))


def test_two_robots_have_one_shape_and_say_what_is_theirs():
    chain = build_chain(STEPS, stats())
    small = chain.forward(observation("small", 2, chunk([[4.0, np.pi / 2]])), None)
    large = chain.forward(observation("large", 3, chunk([[1.0, 2.0, 3.0]])), None)
    assert small.of(Action)[0].values.shape == large.of(Action)[0].values.shape == (1, 5)
    assert small.of(State)[0].values.shape == large.of(State)[0].values.shape == (4,)
    assert small.dims.tolist() == [LINE, CIRCLE, ABSENT, ABSENT, ABSENT]
    assert large.dims.tolist() == [LINE, LINE, LINE, ABSENT, ABSENT]
    assert small.of(Action)[0].values[0, 1] == pytest.approx(0.5), "pi is 1, whatever the quantiles"
    assert not small.of(Action)[0].values[0, 2:].any()
    assert small.of(Action)[0].names == ("n", "n", "", "", "")
    asked = chain.forward(observation("small", 2), None)
    assert asked.dims.tolist() == small.dims.tolist(), "a policy is asked without an action"


def test_the_inverse_gives_the_robots_own_commands_back():
    chain = build_chain(STEPS, stats())
    values = [[4.0, 3.0], [-1.0, -3.1]]
    seen = observation("small", 2)
    padded = chain.forward(observation("small", 2, chunk(values)), None).of(Action)[0].values
    np.testing.assert_allclose(chain.inverse(padded, seen), values, atol=1e-5)
    beyond = padded.copy()
    beyond[0, 1] += 2.0  # a whole turn more is the same angle
    assert chain.inverse(beyond, seen)[0, 1] == pytest.approx(3.0, abs=1e-5)


def test_many_chunks_are_padded_like_one():
    chain = build_chain(STEPS, stats())
    action = np.array([[[4.0, 3.0], [1.0, -2.0]]], np.float32)
    motion = Motion(
        embodiment="small",
        action=action,
        valid=np.ones((1, 2), bool),
        action_names=NAMES,
        state=np.array([[0.5, 0.5]], np.float32),
        state_names=NAMES,
    )
    found = chain.motion(motion)
    alone = chain.forward(observation("small", 2, chunk(action[0].tolist())), None)
    assert np.array_equal(found.action[0], alone.of(Action)[0].values)
    assert np.array_equal(found.state[0], alone.of(State)[0].values)


def test_a_caption_passes_unchanged():
    caption = Sample(id="c", segments=(Text(text="red", role="caption"),), source="s", license="MIT")
    passed = build_chain(STEPS, stats()).forward(caption, None)
    assert passed.segments == caption.segments
    assert passed.dims is None


def test_too_narrow_is_refused_by_name():
    for name, sizes in (("action_dim", (4, 2)), ("state_dim", (2, 4))):
        config = PadConfig(state_dim=sizes[0], action_dim=sizes[1])
        with pytest.raises(ConfigError, match=rf"pad.{name}: found 2; expected at least 3, as robot 'large' has"):
            build_chain((NormalizeConfig(), config), stats())


def test_pad_in_front_of_normalize_is_refused():
    with pytest.raises(ConfigError, match=r"transforms.0: found pad in front of normalize"):
        build_chain(STEPS[::-1], stats())


def test_circular_names_are_checked():
    with pytest.raises(ConfigError, match=r"normalize.circular: found 'yav'; expected one of a, b, c, x, yaw.*yaw"):
        NormalizeConfig(circular=("yav",)).build(stats())
    with pytest.raises(ConfigError, match=r"normalize.circular: found 'yaw', which reaches 180; expected .*radians"):
        NormalizeConfig(circular=("yaw",)).build(stats(180.0))
