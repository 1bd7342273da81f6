"""What the demo rests on: its three tasks repeat and are solved, and the words of captions fit its pictures."""

import numpy as np
import pytest

from trivium.eval.demo import DemoDataConfig
from trivium.eval.demo_episode import scene_of
from trivium.eval.sim.metaworld import MetaWorld, MetaWorldConfig
from trivium.synth.caption import relation
from trivium.synth.scene import heading

pytestmark = pytest.mark.sim
VIEWS = ("top", "corner2", "corner", "corner3")
AHEAD, RIGHT, UP = np.eye(3)[[1, 0, 2]] * 0.1


@pytest.fixture(scope="module")
def world():
    env = MetaWorld("button-press-topdown-v3", MetaWorldConfig(views=VIEWS, image_size=64))
    yield env
    env.close()


@pytest.mark.parametrize("task", DemoDataConfig().tasks)
def test_the_expert_succeeds_and_leaves_no_trace_in_the_next_episode(task: str):
    env, fresh = (MetaWorld(task, MetaWorldConfig(views=(), spread=2.0)) for _ in range(2))
    env.reset(8)
    for _ in range(80):
        env.step(env.expert())
    assert env.success
    env.reset(7)
    fresh.reset(7)
    assert not env.success
    for _ in range(3):
        assert np.array_equal(env.simulator_state(), fresh.simulator_state())
        assert np.array_equal(env.expert(), fresh.expert())
        env.step(env.expert())
        fresh.step(fresh.expert())


def test_moves_are_clipped(world: MetaWorld):
    ends = []
    for move in ([9.0, -9.0, 2.0, 5.0], [1.0, -1.0, 1.0, 1.0]):
        world.reset(7)
        world.step(np.array(move))
        ends.append(world.simulator_state().copy())
    assert np.array_equal(*ends)


@pytest.mark.parametrize("view", VIEWS)
def test_a_projected_point_lies_where_it_is_drawn(world: MetaWorld, view: str):
    world.reset(1)
    red, green, blue = world.picture(view).astype(int).transpose(2, 0, 1)
    rows, columns = np.nonzero((red > 130) & (green > 90) & (blue < 60))  # the yellow lid around the red button
    assert len(rows) > 15
    lid = world.truth()["object"] - (UP if view != "top" else 0) * 0.6
    u, v = world.project(lid, view)
    assert (columns.mean() + 0.5) / 64 == pytest.approx(u, abs=0.05)
    assert (rows.mean() + 0.5) / 64 == pytest.approx(v, abs=0.07)


def test_pictures_stand_upright(world: MetaWorld):
    """Up is up, or away from the robot where the camera looks straight down; there the robot's right is right."""
    world.reset(1)
    point = world.truth()["object"]
    for view in VIEWS[1:]:
        assert world.project(point + UP, view)[1] < world.project(point, view)[1] - 0.02
    u, v = world.project(point, "top")
    assert world.project(point + AHEAD, "top") == pytest.approx((u, v - 0.17), abs=0.02)
    assert world.project(point + RIGHT, "top") == pytest.approx((u + 0.17, v), abs=0.02)


def test_a_move_in_the_named_direction_brings_the_hand_there(world: MetaWorld):
    """The words follow from the picture, and a hand that obeys them comes to lie over the object."""
    moves = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0)}
    world.reset(1)
    start = scene_of(world, "top")
    assert relation(start.gripper, start.object).startswith("below")
    for _ in range(60):
        words = heading(scene_of(world, "top"))
        if words == "straight on":
            break
        across, ahead = np.sum([moves[word] for word in words.split(" and ")], axis=0)
        rise = float(world.state()[2] < 0.38)  # over the box that carries the button
        world.step(np.array([0.5 * across, 0.5 * ahead, rise, 0.0]))
    end = scene_of(world, "top")
    assert heading(end) == "straight on"
    assert np.abs(np.subtract(end.gripper.xyz, end.object.xyz))[:2].max() < 0.05
