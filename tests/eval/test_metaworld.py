import ctypes
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from trivium.core.errors import SetupError
from trivium.core.sample import Image, State, Text
from trivium.eval.sim import metaworld
from trivium.eval.sim.metaworld import MetaWorld, MetaWorldConfig

pytestmark = pytest.mark.sim
TASK = "handle-press-v3"


@pytest.fixture(scope="module")
def world():
    made = MetaWorld(TASK, MetaWorldConfig(image_size=64))
    yield made
    made.close()


def play(world: MetaWorld, seed: int, num_steps: int = 12) -> np.ndarray:
    world.reset(seed)
    seen = [world.simulator_state().copy()]
    for _ in range(num_steps):
        world.step(world.expert())
        seen.append(world.simulator_state().copy())
    return np.stack(seen)


def test_an_episode_is_a_function_of_its_seed(world: MetaWorld):
    first = play(world, 5)
    play(world, 6, 40)  # leaves things moved, and the random state elsewhere
    np.testing.assert_array_equal(play(world, 5), first)
    fresh = MetaWorld(TASK, MetaWorldConfig(views=()))
    np.testing.assert_array_equal(play(fresh, 5), first)
    assert np.abs(play(world, 7)[0] - first[0]).max() > 0.01


def test_the_first_picture_shows_this_episode_and_not_the_one_before():
    world = MetaWorld("drawer-open-v3", MetaWorldConfig(image_size=64))  # moves the drawer last in its own reset
    world.reset(5)
    picture = world.picture("top")
    world.reset(6)
    assert np.abs(world.picture("top").astype(int) - picture).max() > 50
    world.reset(5)
    np.testing.assert_array_equal(world.picture("top"), picture)
    world.close()


def test_the_expert_succeeds_and_a_still_arm_does_not(world: MetaWorld):
    for seed in (1, 2):
        world.reset(seed)
        assert any(world.step(world.expert()) for _ in range(60))
        assert world.success
        world.reset(seed)
        assert not any(world.step(np.zeros(4)) for _ in range(20))


def test_an_observation_holds_what_a_policy_may_see(world: MetaWorld):
    world.reset(3)
    world.step(np.zeros(4))
    sample = world.observation()
    assert [type(segment) for segment in sample.segments] == [Image, Text, State]
    assert sample.id == f"{TASK}/3/1"
    image, text, state = sample.segments
    assert (image.view, image.pixels.shape, image.time_s) == ("top", (64, 64, 3), 1 / 40)
    assert (text.text, text.role) == ("press the handle down", "instruction")
    assert state.names == ("x", "y", "z", "opening")
    np.testing.assert_allclose(state.values[:3], [0, 0.6, 0.2], atol=0.05)
    assert set(sample.truth) == {"object", "goal"}


@pytest.mark.parametrize("view", ["top", "corner2"])
def test_a_point_is_drawn_where_it_is_projected(view: str):
    made = MetaWorld(TASK, MetaWorldConfig(views=(view,), image_size=128))
    made.reset(1)
    before = made.picture(view).astype(int)
    point = made.truth()["object"] + np.array([0, 0, 0.1])
    site = made._env.data.site("goalPress")
    site.xpos[:] = point  # a bright mark, drawn without another step of the simulator
    changed = np.abs(made.picture(view).astype(int) - before).sum(2)
    made.close()
    u, v = made.project(point, view)
    row, column = round(v * 128), round(u * 128)
    assert changed[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7].max() > 60


def test_hiding_the_base_changes_no_pixel_of_the_close_view(monkeypatch: pytest.MonkeyPatch):
    pictures = []
    for unseen in (metaworld.BASE, ()):
        monkeypatch.setitem(metaworld.VIEWS, "top", replace(metaworld.VIEWS["top"], unseen=unseen))
        made = MetaWorld(TASK, MetaWorldConfig(image_size=64))
        made.reset(4)
        pictures.append(made.picture("top"))
        made.close()
    np.testing.assert_array_equal(*pictures)


def test_a_lower_rate_holds_each_command_longer():
    moved = []
    for rate in (80, 40, 20):
        made = MetaWorld(TASK, MetaWorldConfig(views=(), control_hz=rate))
        made.reset(1)
        start = made.state()[0]
        for _ in range(rate // 10):
            made.step(np.array([1.0, 0, 0, -1]))
        moved.append(made.state()[0] - start)
    np.testing.assert_allclose(moved, moved[0], rtol=1e-6)


def test_spread_widens_the_range_of_objects():
    def width(spread: float) -> float:
        made = MetaWorld(TASK, MetaWorldConfig(views=(), spread=spread))
        places = []
        for seed in range(6):
            made.reset(seed)
            places.append(made.truth()["object"][0])
        return float(np.ptp(places))

    assert width(2.0) == pytest.approx(2 * width(1.0), rel=1e-3)


def test_without_a_gl_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str):
        raise OSError(name)

    monkeypatch.setattr(metaworld, "ctypes", SimpleNamespace(CDLL=missing))
    with pytest.raises(SetupError, match=r"neither libEGL\.so\.1 nor libOSMesa\.so\.8.*sudo apt-get install"):
        metaworld._offscreen_gl()
    monkeypatch.setattr(metaworld, "ctypes", SimpleNamespace(CDLL=lambda name: missing(name) if "EGL" in name else 1))
    assert metaworld._offscreen_gl() == "osmesa"
    assert ctypes.CDLL is not None
