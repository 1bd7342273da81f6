"""Our quantizers beside vector-quantize-pytorch, whose defaults are not the paper's and are set to it here."""

import pytest
import torch

from trivium.nn.codebook import COMMITMENT, MEMORY, VectorQuantizer, VqConfig
from trivium.nn.fsq import FsqConfig

peer = pytest.importorskip("vector_quantize_pytorch", reason="needs the extra `dev`")
pytestmark = pytest.mark.peer

PAPER = {
    "decay": MEMORY,
    "commitment_weight": COMMITMENT,
    "eps": 1e-5,
    "rotation_trick": False,
    "kmeans_init": False,
    "sync_codebook": False,
}


def pair(size: int, num_levels: int = 1, width: int = 8) -> tuple[torch.nn.Module, VectorQuantizer]:
    """Both, with the same codes."""
    torch.manual_seed(0)
    if num_levels == 1:
        theirs = peer.VectorQuantize(dim=width, codebook_size=size, threshold_ema_dead_code=0, **PAPER)
        layers = [theirs]
    else:
        theirs = peer.ResidualVQ(
            dim=width, codebook_size=size, num_quantizers=num_levels, threshold_ema_dead_code=0, **PAPER
        )
        layers = theirs.layers
    ours = VqConfig(size=size, num_levels=num_levels).build(width)
    for book, layer in zip(ours.levels, layers, strict=True):
        codes = torch.randn(size, width)
        layer._codebook.embed.data.copy_(codes[None])
        layer._codebook.embed_avg.data.copy_(codes[None])
        book.codes.copy_(codes)
        book.sums.copy_(codes)
        book.started.fill_(True)
    return theirs, ours


@pytest.mark.parametrize("training", [True, False])
def test_ids_vectors_and_commitment_are_the_same(training: bool):
    theirs, ours = pair(64)
    x = torch.randn(4, 500, 8)
    theirs.train(training)
    ours.train(training)
    vectors, ids, commitment = theirs(x)
    found = ours(x)
    assert torch.equal(found.ids[..., 0], ids)
    assert (found.vectors - vectors).abs().max() <= 1e-6
    if training:
        assert abs(COMMITMENT * found.commitment.mean() - commitment.sum()) <= 1e-6


def test_one_update_of_the_running_means_is_the_same():
    theirs, ours = pair(64)
    (book,) = ours.levels
    for _ in range(3):
        x = torch.randn(2000, 8)  # so many that every code is in use: what becomes of a dead one differs on purpose
        theirs(x[None])
        ours(x)
        twin = theirs._codebook
        for mine, other in ((book.counts, twin.cluster_size), (book.sums, twin.embed_avg), (book.codes, twin.embed)):
            assert (mine - other[0]).abs().max() <= 1e-6 * max(1.0, float(other.abs().max()))


def test_residual_levels_are_the_same():
    theirs, ours = pair(64, num_levels=3)
    theirs.eval()
    x = torch.randn(4, 500, 8)
    vectors, ids, _ = theirs(x)
    found = ours.eval()(x)
    assert torch.equal(found.ids, ids)
    assert (found.vectors - vectors).abs().max() <= 1e-6
    theirs.train()
    _, _, commitments = theirs(x)
    assert abs(COMMITMENT * found.commitment.mean() - commitments.sum()) <= 1e-6


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5)])
def test_fsq_codes_and_ids_are_the_same(levels: tuple[int, ...]):
    theirs, ours = peer.FSQ(list(levels)), FsqConfig(levels=levels).build(0)
    torch.manual_seed(0)
    x = 2 * torch.randn(4, 2000, len(levels))
    codes, ids = theirs(x)
    found = ours(x)
    assert torch.equal(found.vectors, codes)
    assert torch.equal(found.ids[..., 0], ids.long())
    every = torch.arange(ours.size)
    assert torch.equal(ours.lookup(every[:, None]), theirs.indices_to_codes(every))


def test_the_gradient_through_fsq_is_the_same():
    theirs, ours = peer.FSQ([8, 5, 5, 5]), FsqConfig().build(0)
    x = torch.randn(1, 100, 4)
    gradients = []
    for module in (lambda x: theirs(x)[0], lambda x: ours(x).vectors):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6
