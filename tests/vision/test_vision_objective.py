import math
import pickle

import numpy as np
import pytest
import torch
from small_vision import CONFIG, encode, model, sample, train

from trivium.core.batch import IGNORE
from trivium.core.errors import ConfigError, DataError
from trivium.data.row import collate

BOTH = {"contrastive": 4.0, "mae": 4.0 * 12}


@pytest.mark.parametrize(
    ("weights", "counts"),
    [((1.0, 1.0), BOTH), ((1.0, 0.0), {"contrastive": 4.0}), ((0.0, 2.0), {"mae": 48.0})],
)
def test_fake_batch_runs_and_counts_agree(weights, counts):
    learner = CONFIG.replace(contrastive=weights[0], mae=weights[1]).build(model())
    batch = learner.fake_batch()
    losses = learner(batch)
    assert learner.counts(batch) == losses.counts() == counts
    assert [losses[name].scale for name in losses] == [weight for weight in weights if weight]


def test_losses_start_where_they_should():
    learner = CONFIG.build(model())
    learner.contrast.log_scale.data.zero_()  # four pictures do not average the temperature's noise out
    losses = learner(learner.fake_batch())
    assert abs(losses["contrastive"].sum.item() / 4 - math.log(4)) < 0.5
    assert abs(losses["mae"].sum.item() / 48 - 1.0) < 0.5


def test_overfits_one_batch_through_a_frozen_reader():
    learner = CONFIG.replace(mae=0.0).build(model())
    before = {name: value.clone() for name, value in learner.language.state_dict().items()}
    found = train(learner, learner.fake_batch(), 30, 3e-3)
    assert found["contrastive"] < 0.05
    assert all(torch.equal(value, before[name]) for name, value in learner.language.state_dict().items())


def test_mae_overfits_eight_pictures():
    learner = CONFIG.replace(contrastive=0.0).build(model())
    batch = learner.fake_batch()
    ramp = torch.linspace(0, 1, 32)
    slope = torch.randn(8, 3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    images = torch.sigmoid(3 * (slope[:, :, 0] * ramp + slope[:, :, 1] * ramp[:, None]))
    batch = type(batch)(images=(images * 255).to(torch.uint8))
    assert train(learner, batch, 200, 3e-3)["mae"] < 0.1


def test_captions_are_read_alone_however_they_are_packed():
    learner = CONFIG.replace(mae=0.0).build(model()).eval()
    layout = CONFIG.layout(learner.vision.num_patches, encode)
    rng = np.random.default_rng(0)
    rows = []
    for caption in ("a cup", "two", "a cup", "x"):
        row = layout.build(sample(caption))
        row.images[0][:] = rng.integers(256, size=(32, 32, 3))
        rows.append(("web", row))
    together, apart = collate([rows], 120), collate([[row] for row in rows], 30)
    found, expected = learner(together)["contrastive"].sum, learner(apart)["contrastive"].sum
    assert abs(found.item() - expected.item()) <= 1e-5
    captions = learner._captions(together)
    texts = learner._read(captions)
    by_hand = torch.stack([learner.language.embedding(torch.tensor(encode("two")[: i + 1])).mean(0) for i in range(3)])
    torch.testing.assert_close(texts[1], by_hand.mean(0))
    assert captions.tolist() == [[*encode("a cup")], *([*encode("two"), -1, -1],), [*encode("a cup")], [120, *[-1] * 4]]


def test_layout_counts_patches_and_a_cut_caption():
    layout = pickle.loads(pickle.dumps(CONFIG.layout(model().vision.num_patches, encode)))
    assert layout.count(sample("a cup")) == {"image": 16, "text": 5}
    assert layout.count(sample("a cup of tea")) == {"image": 16, "text": 6}
    row = layout.build(sample("a cup of tea"))
    assert row.tokens.tolist() == encode("a cup ")
    assert (row.targets == IGNORE).all()
    assert (row.length, row.counts) == (22, {"image": 16, "text": 6})


def test_layout_drops_what_has_nothing_for_the_stage():
    layout = CONFIG.layout(model().vision.num_patches, encode)
    assert layout.count(sample(views=())) == {}
    assert layout.count(sample(role="instruction")) == {}
    pixels = CONFIG.replace(contrastive=0.0).layout(model().vision.num_patches, encode)
    assert pixels.count(sample(role="instruction")) == {"image": 16}
    assert len(pixels.build(sample()).tokens) == 0


def test_several_pictures_are_refused():
    with pytest.raises(DataError, match=r"sample s: found 2 pictures \(front, side\); .* Add SelectViews"):
        CONFIG.layout(model().vision.num_patches, encode).count(sample(views=("front", "side")))


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0)])
def test_weights_that_leave_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match=r"objective\.contrastive: found weights"):
        CONFIG.replace(contrastive=weights[0], mae=weights[1]).build(model())
