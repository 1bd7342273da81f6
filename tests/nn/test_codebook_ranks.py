"""Two processes over gloo teach one codebook: the same buffers on both, from the vectors of both."""

from pathlib import Path

import both_ranks
import codebook_ranks
import pytest
import torch
from codebook_ranks import SIZE, STEPS, WIDTH, vectors
from safetensors.torch import load_file

from trivium.nn.codebook import DEAD, MEMORY, VqConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    both_ranks.run(codebook_ranks, folder)
    return folder


@pytest.mark.parametrize("moment", ["before", "after", "end", "revived"])
def test_both_ranks_hold_the_same_bits(folder: Path, moment: str):
    first, second = (load_file(folder / f"{moment}-{rank}.safetensors") for rank in range(2))
    assert first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_codes_lie_where_either_rank_has_vectors(folder: Path):
    codes = load_file(folder / "end-0.safetensors")["levels.0.codes"]
    places = codes.mean(-1)
    assert 4 <= (places < 1.5).sum() <= 12, "half of the codes for the vectors around 0, half for those around 3"


def test_a_dead_code_starts_again_at_a_vector_of_one_of_them(folder: Path):
    codes = load_file(folder / "revived-0.safetensors")["levels.0.codes"][:4]
    near = [torch.cdist(codes, vectors(STEPS, rank)).amin(1) for rank in range(2)]
    assert [float(distance) for distance in torch.minimum(*near)] == pytest.approx([0.0] * 4, abs=1e-3)
    assert all((distance < 1e-3).any() for distance in near), "both ranks have proposed"


def test_running_means_are_over_the_vectors_of_both(folder: Path):
    saved = load_file(folder / "before-0.safetensors")
    quantizer = VqConfig(size=SIZE, num_levels=2).build(WIDTH).eval()
    quantizer.load_state_dict({name.removeprefix("before."): value for name, value in saved.items()})
    book, after = quantizer.levels[0], load_file(folder / "after-0.safetensors")
    every = torch.cat([vectors(20, 0), vectors(20, 1)])
    ids = quantizer(every).ids[:, 0]
    counts = MEMORY * book.counts + (1 - MEMORY) * torch.bincount(ids, minlength=SIZE)
    sums = MEMORY * book.sums + (1 - MEMORY) * torch.zeros(SIZE, WIDTH).index_add_(0, ids, every)
    alive = counts >= DEAD * counts.mean()
    assert alive.sum() > 8
    torch.testing.assert_close(after["levels.0.counts"][alive], counts[alive], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after["levels.0.sums"][alive], sums[alive], atol=1e-4, rtol=1e-5)
    assert counts.sum() == pytest.approx(160, rel=0.05), "counted in vectors of both ranks from the first step on"
