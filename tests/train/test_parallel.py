"""Two processes over gloo train as one does."""

import json

import pytest
import torch
from safetensors.torch import load_file

from trivium.train import parallel


def train(server, folder, size, **settings):
    folder.mkdir()
    processes = [server.start("together", folder, rank=rank, size=size, **settings) for rank in range(size)]
    codes = [server.wait(process) for process in processes]
    assert codes == [0] * size, folder.with_name(f"{folder.name}.log").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, [load_file(folder / f"rank-{rank}.safetensors") for rank in range(size)]


@pytest.mark.parametrize("poison", [-1, 2])
def test_two_ranks_equal_one_even_when_one_has_no_action_or_a_nan(server, folder, poison):
    """Rank 1 never has an action, so that its action head has no gradient; it alone sees the NaN, and the stop."""
    alone, (expected,) = train(server, folder / "one", 1, poison=poison)
    together, (first, second) = train(server, folder / "two", 2, poison=poison)
    assert [line["step"] for line in together] == [1, 2, 3, 4, 5]
    assert [line["skipped"] for line in together] == ([0] * 5 if poison < 0 else [0, 0, 1, 1, 1])
    for mine, theirs in zip(together, alone, strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert mine["total"] == pytest.approx(theirs["total"], abs=1e-6)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=1e-5)
    for name, weight in expected.items():
        assert torch.equal(first[name], second[name]), "the ranks have drifted apart"
        torch.testing.assert_close(first[name], weight, atol=1e-6, rtol=0)


def test_one_process_needs_no_backend():
    assert (parallel.rank(), parallel.world_size()) == (0, 1)
    assert parallel.sum_over_ranks({"a": 1.5}) == {"a": 1.5}
    assert parallel.from_all_ranks((1, 2)) == [1, 2]
    assert parallel.any_rank(True)
    assert not parallel.any_rank(False)
    weight = torch.ones(2, requires_grad=True)
    parallel.sum_gradients([weight])
    assert weight.grad is None
    parallel.barrier()
