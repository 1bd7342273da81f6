"""A unified model at work: frames and commands that follow an observation."""

import numpy as np
import pytest
import torch
from unified_parts import CODES, SIDE, TOKENS, build, caption, picture, robot

from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample
from trivium.data.chain import Chain
from trivium.data.row import collate
from trivium.data.transform import Transform
from trivium.policy.foresight import measure
from trivium.policy.unified import UnifiedObjective
from trivium.policy.unified_layout import UnifiedLayout
from trivium.policy.world import WorldModel


class Tenfold(Transform):
    """Physical commands are ten times the normalised ones."""

    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        return sample

    def inverse(self, action: np.ndarray, observation: Sample) -> np.ndarray:
        return action * 10


def observe(sample: Sample) -> Sample:
    now = tuple(part for part in sample.segments if not isinstance(part, Action) and part.time_s == 0)
    return Sample(**{**vars(sample), "segments": now})


@pytest.fixture(scope="module")
def taught() -> tuple[UnifiedObjective, UnifiedLayout]:
    """Learn two samples by heart: what follows each is then known."""
    objective, layout = build()
    batch = collate([[("x", layout.build(robot(i)))] for i in (0, 1)], 48)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(100):
        losses = objective(batch)
        optimizer.zero_grad()
        losses.total(losses.counts()).backward()
        optimizer.step()
    return objective, layout


@pytest.fixture
def world(taught) -> WorldModel:
    return WorldModel(taught[0], Tenfold(), taught[1])


def test_the_next_frame_follows_from_what_is_done(world: WorldModel) -> None:
    painter, samples = world.objective.tokenizer, [robot(0), robot(1)]
    truth = torch.from_numpy(np.stack([sample.of(Image)[1].pixels for sample in samples])).permute(0, 3, 1, 2)
    assert torch.equal(world.foresee_ids(samples), painter.encode(truth))
    painted = world.foresee(samples)
    assert torch.equal(painted, painter.decode(painter.encode(truth)))
    assert painted.shape == (2, 3, SIDE, SIDE)


def test_the_true_future_is_not_looked_at(world: WorldModel) -> None:
    for sample in (robot(0), robot(5)):
        blind = Sample(**{**vars(sample), "segments": sample.segments[:-1]})
        other = Sample(**{**vars(sample), "segments": (*sample.segments[:-1], picture(77, 0.5))})
        assert torch.equal(world.foresee_ids([sample]), world.foresee_ids([blind]))
        assert torch.equal(world.foresee_ids([sample]), world.foresee_ids([other]))


def test_commands_follow_the_instruction_and_come_back_in_their_units(world: WorldModel) -> None:
    samples = [robot(0), robot(1)]
    found = world.act([observe(sample) for sample in samples])
    tokenizer = world.layout.tokenizer
    learned = [sample.of(Action)[0].values for sample in samples]
    expected = np.stack([10 * tokenizer.decode(tokenizer.encode(chunk)) for chunk in learned])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_whatever_is_drawn_is_a_picture_and_a_chunk(taught) -> None:
    wild = WorldModel(taught[0], Tenfold(), taught[1], temperature=20.0, seed=3)
    samples = [robot(i) for i in range(2, 6)]
    ids = wild.foresee_ids(samples)
    assert ids.shape == (4, TOKENS)
    assert 0 <= int(ids.min()) <= int(ids.max()) < CODES
    chunks = wild.act([observe(sample) for sample in samples])
    assert chunks.shape == (4, 4, 2)
    assert np.isfinite(chunks).all()
    wild.reset(3)
    assert torch.equal(wild.foresee_ids(samples), ids)
    wild.reset(4)
    assert not torch.equal(wild.foresee_ids(samples), ids)


def test_the_modes_are_left_as_they_were(world: WorldModel) -> None:
    world.objective.train()
    world.foresee([robot(0)])
    assert world.objective.language.training
    assert all(module.training for module in world.objective.modules())


def test_what_cannot_be_asked_is_refused(world: WorldModel) -> None:
    with pytest.raises(DataError, match="observation robot0: found an action"):
        world.act([robot(0)])
    with pytest.raises(DataError, match="sample caption2: found no picture or no action"):
        world.foresee([caption(2)])


def test_foresight_is_the_closed_form(taught) -> None:
    objective, layout = taught
    objective.eval()
    training, heldout = [robot(i) for i in range(10, 30)], [robot(i) for i in (0, 1, 6, 7, 8)]
    found, painted = measure("world", objective, layout, training, heldout, np.array([0, 0, 1, 2, 3]), 3)
    losses = objective(collate([[("x", layout.build(sample))] for sample in heldout], 48))
    mean = losses["next_image"].sum.item() / losses["next_image"].count
    assert found.bits.value == pytest.approx(mean / np.log(2), rel=1e-5)
    alone = losses["image"].sum.item() / losses["image"].count
    assert found.alone_bits.value == pytest.approx(alone / np.log(2), rel=1e-5)
    encode = objective.tokenizer.encode
    later = [torch.from_numpy(s.of(Image)[1].pixels).permute(2, 0, 1)[None] for s in (*training, *heldout)]
    now = [torch.from_numpy(s.of(Image)[0].pixels).permute(2, 0, 1)[None] for s in heldout]
    ids = torch.cat([encode(image)[0][None] for image in later])
    chance = (torch.bincount(ids[:20].flatten(), minlength=CODES) + 1.0) / (ids[:20].numel() + CODES)
    assert found.histogram_bits.value == pytest.approx(-chance[ids[20:]].log2().mean().item(), rel=1e-6)
    same = (torch.cat([encode(image) for image in now]) == ids[20:]).double().mean().item()
    assert found.copied.value == pytest.approx(same)
    assert found.copy_bits.value <= found.place_bits.value + 1e-9
    assert found.bits.low <= found.bits.value <= found.bits.high
    assert (found.samples, found.episodes, found.tokens, found.codes) == (5, 4, TOKENS, CODES)
    assert painted.shape == (3 * SIDE, 4 * SIDE, 3)
    for i, shown in enumerate(found.shown):
        row = painted[i * SIDE : (i + 1) * SIDE]
        cells = [row[:, j * SIDE : (j + 1) * SIDE] for j in range(4)]
        assert np.array_equal(cells[0], heldout[i].of(Image)[0].pixels)
        assert np.array_equal(cells[1], heldout[i].of(Image)[1].pixels)
        assert np.array_equal(cells[2], objective.tokenizer.decode(ids[20 + i][None])[0].permute(1, 2, 0).numpy())
        assert shown.id == heldout[i].id
    assert found.shown[0].right == found.shown[1].right == 1.0
    assert np.array_equal(painted[:SIDE, 2 * SIDE : 3 * SIDE], painted[:SIDE, 3 * SIDE :])


def test_chance_is_chance_and_copying_is_found_out(taught) -> None:
    """Frames in which nothing moves: a mixture with copying has to see it, a histogram cannot."""
    objective, layout = taught
    objective.eval()

    def still(seed: int) -> Sample:
        sample = robot(seed)
        return Sample(**{**vars(sample), "segments": (*sample.segments[:-1], picture(seed, 0.5))})

    training, heldout = [still(i) for i in range(20)], [still(i) for i in range(20, 30)]
    found, _ = measure("world", objective, layout, training, heldout, np.arange(10), 1)
    assert found.copied.value == 1.0
    assert found.copy_bits.value < 0.1 < found.place_bits.value
    assert found.right_where_moved.value == 0.0


def test_the_empty_chain_is_the_road_of_what_is_transformed() -> None:
    sample = robot(0)
    assert Chain([]).forward(sample, None) is sample
