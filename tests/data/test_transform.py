from typing import get_args

import numpy as np
import pytest

from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Image, Sample, Segment, State, Text, Video
from trivium.data.blank import blank, is_blank
from trivium.data.chain import Chain
from trivium.data.column import QUANTILES, ColumnStats
from trivium.data.transform import (
    Normalize,
    NormalizeConfig,
    RandomShiftConfig,
    ResizeConfig,
    SelectViewsConfig,
    TransformConfig,
    build_chain,
)


def column(values: np.ndarray) -> ColumnStats:
    quantiles = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))
    names = tuple(f"d{j}" for j in range(values.shape[1]))
    moments = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    return ColumnStats(names=names, count=len(values), **quantiles, **moments)


def sample(*segments: Segment, embodiment: str = "toy") -> Sample:
    return Sample(id="s/0/0", segments=segments, source="s", license="CC0-1.0", embodiment=embodiment)


def action(values: np.ndarray) -> Action:
    return Action(values=values.astype(np.float32), valid=np.ones(len(values), bool), names=("d0", "d1"))


def picture(height: int, width: int, view: str = "front") -> Image:
    rng = np.random.default_rng(height)
    return Image(pixels=rng.integers(0, 255, (height, width, 3), np.uint8), view=view)


@pytest.fixture
def data() -> np.ndarray:
    """One dimension moves, one is constant."""
    return np.stack([np.linspace(-3, 5, 1000), np.full(1000, 0.7)], 1)


def test_inverse_of_forward_is_the_identity(data):
    stats = {"toy": {"action": column(data), "state": column(data)}}
    configs = (SelectViewsConfig(views={"a": "front"}), ResizeConfig(size=16), RandomShiftConfig(pixels=2))
    chain = build_chain((*configs, NormalizeConfig()), stats)
    chunk = data[[0, 17, 500, 999]].astype(np.float32)
    out = chain.forward(sample(picture(20, 20), action(chunk)), np.random.default_rng(0)).of(Action)[0].values
    np.testing.assert_allclose(chain.inverse(out, sample(picture(20, 20))), chunk, rtol=1e-6, atol=1e-6)
    assert abs(out).max() > 1, "nothing may be clipped, or the inverse is a lie"


def test_a_chain_is_undone_backwards(data):
    chain = Chain([Normalize({"toy": {"action": column(values)}}) for values in (data, 4 * data - 1)])
    chunk = data[[3, 400]].astype(np.float32)
    out = chain.forward(sample(action(chunk)), None).of(Action)[0].values
    np.testing.assert_allclose(chain.inverse(out, sample())[:, 0], chunk[:, 0], rtol=1e-5)


def test_quantiles_become_minus_one_and_one(data):
    stats = column(data)
    out = Normalize({"toy": {"action": stats}}).forward(sample(action(np.stack([stats.q01, stats.q99]))), None)
    np.testing.assert_allclose(out.of(Action)[0].values[:, 0], [-1, 1], atol=1e-6)


def test_a_dimension_that_never_moved(data):
    step = Normalize({"toy": {"action": column(data)}})
    noisy = np.array([[0.0, 5.0], [0.0, -5.0]], np.float32)
    assert np.allclose(step.inverse(noisy, sample())[:, 1], 0.7)
    assert (step.forward(sample(action(np.array([[0.0, 9.9]]))), None).of(Action)[0].values[:, 1] == 0).all()


def test_a_rare_event_is_not_a_constant():
    rare = np.zeros((1000, 1))
    rare[:3] = 1.0
    stats = column(rare)
    assert stats.constant() == ()
    out = Normalize({"": {"action": stats}}).forward(sample(action(np.array([[0.0], [1.0]])), embodiment=""), None)
    assert out.of(Action)[0].values[:, 0].tolist() == [-1, 1]


def test_robots_keep_their_own_scales(data):
    stats = {"toy": {"action": column(data)}, "big": {"action": column(10 * data)}}
    step = Normalize(stats)
    one = np.ones((1, 2))
    big, toy = (step.inverse(one, sample(embodiment=robot))[0, 0] for robot in ("big", "toy"))
    assert big == pytest.approx(10 * toy)
    with pytest.raises(DataError, match="found action of robot 'other'; expected a robot with statistics"):
        step.forward(sample(action(data[:1]), embodiment="other"), None)
    with pytest.raises(DataError, match="found action with 3 dimensions; expected 2"):
        step.inverse(np.ones((1, 3)), sample())


@pytest.mark.parametrize(("fit", "filled"), [("pad", 8 * 16), ("stretch", 16 * 16)])
def test_resize(fit, filled):
    white = Image(pixels=np.full((20, 40, 3), 255, np.uint8))
    out = ResizeConfig(size=16, fit=fit).build({}).forward(sample(white), None).of(Image)[0].pixels
    assert out.shape == (16, 16, 3)
    assert (out[..., 0] == 255).sum() == filled


def test_blank_pictures_stay_blank_and_change_shape():
    chain = Chain([ResizeConfig(size=16).build({}), RandomShiftConfig(pixels=2).build({})])
    out = chain.forward(sample(Image(pixels=blank(30, 20))), np.random.default_rng(0)).of(Image)[0].pixels
    assert is_blank(out)
    assert out.shape == (16, 16, 3)
    assert chain.pixels


def test_random_shift_moves_a_view_as_one_and_only_in_training():
    frames = [picture(16, 16, "a"), picture(16, 16, "a"), picture(16, 16, "b")]
    step = RandomShiftConfig(pixels=3).build({})
    assert step.forward(sample(*frames), None).of(Image)[0] is frames[0]
    moved = 0
    for seed in range(8):
        first, second, other = step.forward(sample(*frames), np.random.default_rng(seed)).of(Image)
        assert (first.pixels == second.pixels).all()
        moved += int((first.pixels != other.pixels).any())
        inner = first.pixels[3:-3, 3:-3]
        windows = [frames[0].pixels[y : y + 10, x : x + 10] for y in range(7) for x in range(7)]
        assert any((inner == window).all() for window in windows)
    assert moved


def test_select_views_orders_and_renames():
    state = State(values=np.zeros(2, np.float32), names=("d0", "d1"))
    mixed = sample(picture(8, 8, "left"), Text(text="go", role="instruction"), picture(9, 9, "wrist"), state)
    out = SelectViewsConfig(views={"hand": "wrist", "front": "left"}).build({}).forward(mixed, None)
    assert [(i.view, i.pixels.shape[0]) for i in out.of(Image)] == [("hand", 9), ("front", 8)]
    assert [type(segment) for segment in out.segments] == [Image, Image, Text, State]
    with pytest.raises(ConfigError, match=r"select_views.views.front: found view 'top'; expected .*left, wrist"):
        SelectViewsConfig(views={"front": "top"}).build({}).forward(mixed, None)
    web = sample(picture(8, 8, "image"), embodiment="")
    assert SelectViewsConfig(views={"front": "top"}).build({}).forward(web, None) is web


def test_what_is_counted_is_what_is_read():
    """Every step gives a blank picture the shape, and a sample the segments, that it gives the real ones."""
    chosen = {"represent": {"to": "delta", "kinds": {"d0": "position", "d1": "gripper"}}, "resize": {"size": 16}}
    chosen |= {"random_shift": {"pixels": 2}, "select_views": {"views": {"front": "front"}}}
    chosen |= {"tile": {"size": 16, "robots": True}, "pad": {"state_dim": 4, "action_dim": 5}}
    [union, _] = get_args(TransformConfig)
    state = State(values=np.zeros(2, np.float32), names=("d0", "d1"))
    both = {
        "toy": {
            column_name: column(np.random.default_rng(0).normal(size=(9, 2))) for column_name in ("state", "action")
        }
    }
    frames = np.stack([picture(20, 50).pixels] * 2)
    for config in get_args(union):
        kind = config.model_fields["kind"].default
        step = config(**chosen.get(kind, {})).build(both)
        for robot in (True, False):
            seen = [picture(20, 30), picture(50, 20), Text(text="go", role="caption")]
            peeked = [Image(pixels=blank(*one.pixels.shape[:2]), view="front") for one in seen[:2]] + [seen[2]]
            clip = [Video(frames=frames, times_s=np.arange(2.0), view="front")]
            still = [Video(frames=np.broadcast_to(blank(20, 50), frames.shape), times_s=np.arange(2.0), view="front")]
            more = [state, action(np.zeros((3, 2)))] if robot else []
            made = [
                step.forward(sample(*pictures, *video, *more), rng)
                for pictures, video, rng in ((seen, clip, np.random.default_rng(0)), (peeked, still, None))
            ]
            shapes = [
                [getattr(one, "pixels", getattr(one, "frames", np.zeros(0))).shape for one in m.segments] for m in made
            ]
            assert shapes[0] == shapes[1], kind
            assert [type(one) for one in made[0].segments] == [type(one) for one in made[1].segments], kind
            assert all(is_blank(image.pixels) for image in made[1].of(Image)), kind
