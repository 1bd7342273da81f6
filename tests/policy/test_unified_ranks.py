"""Two processes over gloo, one of which has no robot, learn what one process does."""

import json
from pathlib import Path

import both_ranks
import pytest
import torch
import unified_ranks
from safetensors.torch import load_file
from unified_ranks import SHARES, step


def test_two_ranks_and_micro_batches_are_one_batch(tmp_path: Path) -> None:
    both_ranks.run(unified_ranks, tmp_path)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    seen = json.loads((tmp_path / "0.json").read_text())
    for shares in ((SHARES[0] + SHARES[1],), SHARES, ((0,), (1,), (2,), (3,))):
        weights, alone = step(*shares)
        assert alone["tokens"] == seen["tokens"]
        assert alone["total"] == pytest.approx(seen["total"], rel=1e-6)
        assert alone["loss"] == pytest.approx(seen["loss"], rel=1e-6)
        assert alone["norm"] == pytest.approx(seen["norm"], rel=1e-5)
        for name, weight in weights.items():
            assert torch.equal(first[name], second[name]), "the ranks have drifted apart"
            # Adam's first step is the gradient's sign: where that is all but zero, rounding decides.
            assert (first[name] - weight).abs().mean() <= 1e-6
