import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from small_vision import model, sample, train

from trivium.core.batch import Batch
from trivium.core.errors import ConfigError, DataError
from trivium.data.row import collate
from trivium.vision.resnet import ResnetConfig
from trivium.vision.supervised import SupervisedConfig

CONFIG = SupervisedConfig(classes=("cup", "block", "door"))


def test_fake_batch_runs_and_counts_agree():
    learner = CONFIG.build(model())
    batch = learner.fake_batch()
    losses = learner(batch)
    assert learner.counts(batch) == losses.counts() == {"supervised": 4.0}
    assert abs(losses["supervised"].sum.item() / 4 - math.log(3)) < 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_hand(smoothing):
    learner = CONFIG.replace(smoothing=smoothing).build(model()).eval()
    batch = learner.fake_batch()
    with torch.no_grad():
        logp = learner.classify(learner.vision(batch.images).mean(1)).log_softmax(-1)
        expected = sum(-(1 - smoothing) * logp[i, i % 3] - smoothing * logp[i].mean() for i in range(4))
        assert abs(learner(batch)["supervised"].sum - expected) <= 1e-5


def test_labels_follow_their_pictures_however_they_are_packed():
    learner = CONFIG.build(model()).eval()
    layout = pickle.loads(pickle.dumps(CONFIG.layout(16)))
    rows = []
    for i, name in enumerate(("door", "cup", "block", "cup")):
        row = layout.build(sample(name))
        row.images[0][:] = i * 60
        rows.append(("web", row))
    together, apart = collate([rows[:3], rows[3:]], 60), collate([[row] for row in rows], 20)
    with torch.no_grad():
        scores = learner.classify(learner.vision(apart.images).mean(1))
        expected = F.cross_entropy(scores, torch.tensor([2, 0, 1, 0]), reduction="sum")
        for batch in (together, apart):
            assert abs(learner(batch)["supervised"].sum - expected) <= 1e-5


def test_overfits_sixty_four_pictures_with_a_resnet():
    learner = CONFIG.build(model(ResnetConfig(image_size=40).build()))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (64,), generator=generator)
    images = torch.randint(256, (64, 3, 4, 4), generator=generator).repeat_interleave(10, 2).repeat_interleave(10, 3)
    documents = torch.arange(64).unsqueeze(0)
    batch = Batch(images=images.to(torch.uint8), tokens=labels.unsqueeze(0), documents=documents)
    assert train(learner, batch, 20, 3e-3)["supervised"] < 0.1
    scores = learner.classify(learner.vision(batch.images).mean(1))
    assert torch.equal(scores.argmax(1), labels)


def test_layout_costs_a_picture_and_one_token():
    layout = CONFIG.layout(16)
    assert layout.count(sample("block")) == {"image": 16, "text": 1}
    row = layout.build(sample("block"))
    assert (row.tokens.tolist(), row.length, row.targets.tolist()) == ([1], 17, [-100])
    assert layout.count(sample(views=())) == layout.count(sample("block", role="instruction")) == {}


@pytest.mark.parametrize(
    ("caption", "todo"), [("blocks", "Did you mean 'block'?"), ("zebra", "Add it to objective.classes")]
)
def test_a_caption_that_is_no_class_is_refused(caption, todo):
    with pytest.raises(DataError) as error:
        CONFIG.layout(16).count(sample(caption))
    assert str(error.value).startswith(
        f"sample s: found the caption '{caption}'; expected one of the 3 names in objective.classes (cup, block, door)."
    )
    assert todo in str(error.value)


def test_several_pictures_are_refused():
    with pytest.raises(DataError, match="sample s: found 2 pictures"):
        CONFIG.layout(16).count(sample("cup", views=("front", "side")))


@pytest.mark.parametrize(("classes", "found"), [(("cup",), "1 classes"), (("cup", "door", "cup"), "'cup' twice")])
def test_impossible_lists_are_refused(classes, found):
    with pytest.raises(ConfigError, match=rf"objective\.classes: found {found}"):
        SupervisedConfig(classes=classes).build(model())
