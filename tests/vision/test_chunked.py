"""The gradient cache: chunks of a micro-batch give its loss and its gradient, in less memory."""

import pytest
import torch
from small_vision import CONFIG, model
from torch import nn

from trivium.core.errors import ConfigError


def step(chunk, **changes):
    learner = CONFIG.replace(chunk=chunk, **changes).build(model())
    learner.language.requires_grad_(True)
    batch = learner.fake_batch()
    saved = []
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        losses = learner(batch)
    total = losses.total(losses.counts())
    total.backward()
    room = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in saved}
    return total.item(), {name: p.grad for name, p in learner.named_parameters()}, sum(room.values())


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"loss": "siglip"}, {"frames": 2}])
def test_chunks_equal_the_whole_batch(chunk, changes):
    total, gradients, _ = step(1024, **changes)
    found, others, _ = step(chunk, **changes)
    assert found == pytest.approx(total, rel=1e-6)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        assert (others[name] - gradient).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name


def test_chunks_keep_little_in_memory():
    whole, chunked = step(1024)[2], step(1)[2]
    assert chunked < whole / 5


def test_batch_norm_cannot_be_chunked():
    learner = CONFIG.replace(chunk=2).build(model())
    learner.vision.norm = nn.BatchNorm1d(64)
    with pytest.raises(ConfigError, match=r"objective\.chunk: found 2, less than .* \(vision\.norm\).*norm='group'"):
        learner(learner.fake_batch())
