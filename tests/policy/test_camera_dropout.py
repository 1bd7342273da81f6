"""Single cameras are lost by themselves, chances follow the stage, and a dead camera is what dropout has shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trivium.core.batch import Batch, Kind
from trivium.core.errors import ConfigError
from trivium.core.sample import Image, Sample
from trivium.data.row import collate
from trivium.data.transform import Transform
from trivium.policy.act import VlaPolicy
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.visible import (
    DARK,
    Lost,
    ModalityDropoutConfig,
    drop_modalities,
    everything,
    leave_out,
    nothing,
    prompt,
    without_dark,
)
from trivium.policy.vla import ModelConfig
from trivium.vision.resnet import ResnetConfig

VIEW = 0.4


@pytest.fixture
def batch(layout, make) -> Batch:
    """Two robots with two and three cameras, one with a single one, and a question with two pictures, in two packs."""
    three = make("three", ("instruction", "go"), images=3)
    rows = [layout.build(sample) for sample in (make("two", ("instruction", "push"), images=2), three)]
    rows += [layout.build(make("talk", ("question", "what?"), ("answer", "red"), images=2, state=False, action=False))]
    rows += [layout.build(make("one", ("instruction", "go")))]
    packs = [[("x", row) for row in rows[:2]], [("x", row) for row in rows[2:]]]
    return collate(packs, max(sum(row.length for _, row in pack) for pack in packs) + 3)


@pytest.fixture
def pair(layout, make) -> Batch:
    """Two robots with two cameras each, as many as the action head has places for."""
    rows = [layout.build(make(name, ("instruction", "push"), images=2)) for name in ("left", "right")]
    return collate([[("x", row) for row in rows]], sum(row.length for row in rows) + 2)


def taken(batch: Batch, *pictures: int) -> Lost:
    lost = nothing(batch)
    return replace(lost, images=lost.images.index_fill(0, torch.tensor(pictures), True))


def losses(objective: VlaObjective, batch: Batch, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: loss.sum.detach() for name, loss in objective(batch).items()}


def test_rates_of_single_cameras_and_never_all_of_them(batch: Batch) -> None:
    torch.manual_seed(0)
    trials, per_picture = 1500, 4
    draws = [drop_modalities(batch, ModalityDropoutConfig(view=VIEW)) for _ in range(trials)]
    lost = ~torch.stack([seen.images for seen in draws])
    for seen in draws[:50]:
        gone = ((batch.documents >= 0) & (seen.documents < 0))[batch.kinds == Kind.IMAGE].view(-1, per_picture)
        assert torch.equal(gone, ~seen.images[:, None].expand(-1, per_picture)), "a picture is lost whole or not at all"
        assert not ((seen.documents < 0) & (batch.documents >= 0) & (batch.kinds != Kind.IMAGE)).any()
    two, three, others = lost[:, :2], lost[:, 2:5], lost[:, 5:]
    assert not two.all(1).any()
    assert not three.all(1).any()
    assert not others.any(), "a question or a robot with one eye lost a picture"
    for cameras in (two, three):
        expected = VIEW - VIEW ** cameras.shape[1]
        bound = 3.3 * (expected * (1 - expected) / trials) ** 0.5  # 99.9 %
        assert ((cameras.float().mean(0) - expected).abs() < bound).all(), (cameras.float().mean(0), expected)
    assert {tuple(row) for row in three.int().tolist()} == {
        *((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)),
        *((0, 1, 1), (1, 0, 1), (1, 1, 0)),
    }


def test_something_is_always_left(batch: Batch) -> None:
    torch.manual_seed(0)
    chances = ModalityDropoutConfig(image=0.8, view=0.8, state=0.8, text=0.8)
    robots = torch.tensor([0, 1, 3])
    seen_pictures = torch.zeros(2)
    for _ in range(300):
        seen = drop_modalities(batch, chances)
        left = prompt(batch) & (seen.documents >= 0)
        assert torch.isin(robots, seen.documents[left]).all()
        seen_pictures[int((seen.images[:2]).any())] += 1
    assert (seen_pictures > 20).all()


@pytest.mark.parametrize(("camera", "other"), [(0, 1), (1, 0)])
def test_a_lost_camera_has_no_influence_and_no_gradient(model, pair: Batch, camera: int, other: int) -> None:
    """Bitwise, in losses and gradients: through masks, positions, the head's places and the packed neighbour."""
    found = []
    for content in (pair.images, pair.images.clone()):
        if found:
            content[camera] = 255 - content[camera]
        changed = replace(pair, images=content.clone())
        objective = VlaConfig().build(model).train()
        objective.zero_grad(set_to_none=True)
        thought = model(changed, leave_out(changed, taken(changed, camera)))
        documents = torch.arange(2)
        context = model.gather_context(thought, changed, documents)
        torch.manual_seed(0)
        error = model.action.loss(changed.actions, changed.actions_valid, context).sum()
        kept = thought.hidden[thought.visible.documents >= 0]
        (error + kept.square().sum()).backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((error.detach(), kept.detach(), grads))
    (error, kept, grads), (error2, kept2, grads2) = found
    assert torch.equal(error, error2)
    assert torch.equal(kept, kept2)
    assert grads.keys() == grads2.keys()
    assert all(torch.equal(grads[name], grads2[name]) for name in grads)
    place = grads["context.place"]
    assert place[other].any()
    assert place[camera].any(), "the packed neighbour still has both cameras"


def test_left_out_is_as_if_never_there(model, layout, make) -> None:
    """The trunk makes of a row without its first picture's tokens what it makes of one that never had them."""
    sample = make("two", ("instruction", "push"), images=2)
    alone = replace(sample, segments=(*sample.segments[:-2], sample.segments[-1]))
    rows = [layout.build(version) for version in (sample, alone)]
    both, one = (collate([[("x", row)]], row.length) for row in rows)
    assert (len(both.images), len(one.images)) == (2, 1)
    blind, never = model.eval()(both, leave_out(both, taken(both, 0))), model(one)
    assert torch.equal(blind.visible.positions[blind.visible.documents >= 0], one.positions.flatten())
    torch.testing.assert_close(blind.hidden[blind.visible.documents >= 0], never.hidden.flatten(0, 1))
    assert not torch.allclose(model(both).hidden[blind.visible.documents >= 0], never.hidden.flatten(0, 1))


def test_the_place_belongs_to_the_camera(model, pair: Batch) -> None:
    """With the first camera gone, the second's patches reach the action head exactly as they were."""
    documents = torch.arange(2)
    whole = model.gather_context(model(pair), pair, documents)
    blind = model.gather_context(model(pair, leave_out(pair, taken(pair, 0))), pair, documents)
    patches = model.vision.num_patches
    assert torch.equal(blind.tokens[0, patches : 2 * patches], whole.tokens[0, patches : 2 * patches])
    assert blind.mask[0, : 2 * patches].tolist() == [False] * patches + [True] * patches
    assert torch.equal(blind.tokens[1, : 2 * patches], whole.tokens[1, : 2 * patches])


def test_running_statistics_do_not_remember_a_lost_picture(config: ModelConfig, make, fast) -> None:
    torch.manual_seed(0)
    model = config.replace(vision=ResnetConfig(image_size=64), connect=config.connect.replace(shuffle=1)).build(2, 3)
    rng = torch.Generator().manual_seed(0)
    objective = VlaConfig().build(model)
    fake = objective.fake_batch()
    states = []
    for _ in range(2):
        images = torch.randint(0, 256, fake.images.shape, generator=rng, dtype=torch.uint8)
        images[1] = 200
        batch = replace(fake, images=images)
        statistics = {name: buffer.clone() for name, buffer in model.vision.named_buffers()}
        model.train()
        model(batch, leave_out(batch, taken(batch, 0)))
        states.append({name: buffer.clone() for name, buffer in model.vision.named_buffers()})
        for name, buffer in model.vision.named_buffers():
            buffer.copy_(statistics[name])
    assert any(not torch.equal(states[0][name], statistics[name]) for name in statistics)
    assert all(torch.equal(states[0][name], states[1][name]) for name in statistics)


def test_chances_rise_over_the_ramp(batch: Batch) -> None:
    config = ModalityDropoutConfig(view=0.5, state=0.6, ramp=0.5)
    assert [config.strength(share) for share in (0.0, 0.1, 0.25, 0.5, 0.9)] == [0.0, 0.2, 0.5, 1.0, 1.0]
    assert ModalityDropoutConfig(view=0.5).strength(0.0) == 1.0
    before = torch.get_rng_state()
    assert torch.equal(drop_modalities(batch, config, 0.0).documents, everything(batch).documents)
    assert torch.equal(torch.get_rng_state(), before)
    trials = 1200
    for share, state, view in ((0.25, 0.3, 0.25 - 0.25**2), (1.0, 0.6, 0.5 - 0.5**2)):
        seen = [drop_modalities(batch, config, share) for _ in range(trials)]
        rates = torch.stack([~s.state[:2] for s in seen]).float().mean(0), torch.stack([~s.images[:2] for s in seen])
        for rate, expected in ((rates[0], state), (rates[1].float().mean(0), view)):
            assert ((rate - expected).abs() < 3.3 * (expected * (1 - expected) / trials) ** 0.5).all()


def test_the_objective_follows_the_steps(model, batch: Batch, layout, make) -> None:
    row = layout.build(make("two", ("instruction", "push"), images=2))
    one = collate([[("x", row)]], row.length)
    objective = VlaConfig(dropout=ModalityDropoutConfig(state=0.9, ramp=0.8)).build(model).train()
    plain = losses(VlaConfig().build(model).train(), one)
    objective.begin_step(0.0)
    assert losses(objective, one) == plain
    objective.begin_step(0.9)
    assert any(losses(objective, one, seed) != losses(VlaConfig().build(model).train(), one, seed) for seed in range(3))
    assert losses(objective.eval(), one) == plain, "evaluation drops nothing, whatever the step"


def test_a_dead_camera_looks_like_one_that_dropout_took(pair: Batch) -> None:
    images = pair.images.clone()
    images[1] = DARK
    images[2] = DARK + 1
    seen = without_dark(replace(pair, images=images))
    expected = leave_out(pair, taken(pair, 1))
    assert torch.equal(seen.documents, expected.documents)
    assert torch.equal(seen.positions, expected.positions)
    assert torch.equal(seen.images, expected.images)
    assert torch.equal(without_dark(pair).documents, pair.documents)


def test_darkness_alone_is_kept(layout, make) -> None:
    rows = [layout.build(make("dark", images=2, state=False, action=False)) for _ in range(2)]
    batch = collate([[("x", row) for row in rows]], sum(row.length for row in rows))
    images = torch.zeros_like(batch.images)
    images[3] = 100
    seen = without_dark(replace(batch, images=images))
    assert seen.images.tolist() == [True, True, False, True]


class Same(Transform):
    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        return sample


def test_a_policy_leaves_a_dead_camera_out(model, layout, make) -> None:
    """What a dead camera sends does not matter, and the policy acts as if the camera had been taken out of its row."""
    sample = make("two", ("instruction", "push"), images=2, action=False)
    first, second = sample.of(Image)

    def act(*pictures: Image) -> np.ndarray:
        kept = [part for part in sample.segments if not isinstance(part, Image)]
        return VlaPolicy(model, Same(), layout, seed=1).act([replace(sample, segments=(*kept, *pictures))])

    black, dim = (replace(second, pixels=np.full_like(second.pixels, level)) for level in (0, DARK))
    lit = replace(second, pixels=np.full_like(second.pixels, DARK + 1))
    assert np.array_equal(act(first, black), act(first, dim))
    np.testing.assert_allclose(act(first, black), act(first), atol=1e-5)
    assert not np.allclose(act(first, lit), act(first, black), atol=1e-4)
    assert not np.allclose(act(first, second), act(first, black), atol=1e-4)


@pytest.mark.parametrize(
    ("chances", "message"),
    [
        (ModalityDropoutConfig(view=1.0), r"objective\.dropout\.view: found 1.0; expected a chance, 0 <= p < 1"),
        (ModalityDropoutConfig(ramp=0.5), r"objective\.dropout\.ramp: found 0.5 with all chances 0"),
    ],
)
def test_what_makes_no_sense_is_refused(model, chances: ModalityDropoutConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VlaConfig(dropout=chances).build(model)


def test_a_camera_cannot_fail_where_there_is_one(config: ModelConfig) -> None:
    model = config.replace(context=config.context.replace(num_views=1)).build(2, 3)
    with pytest.raises(ConfigError, match=r"dropout\.view: found 0.3 with context.num_views=1; expected several"):
        VlaConfig(dropout=ModalityDropoutConfig(view=0.3)).build(model)
