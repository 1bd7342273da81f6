"""Two processes that teach one codebook, each from its own vectors; `python codebook_ranks.py FOLDER` runs both."""

from pathlib import Path

import torch
from both_ranks import both
from safetensors.torch import save_file

from trivium.nn.codebook import VqConfig

STEPS, SIZE, WIDTH = 40, 16, 4


def vectors(step: int, rank: int) -> torch.Tensor:
    """Unevenly many on the two ranks, and from places of their own."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(60 + 40 * rank, WIDTH, generator=generator) + 3 * rank


def work(folder: Path, rank: int) -> None:
    quantizer = VqConfig(size=SIZE, num_levels=2).build(WIDTH)
    for step in range(STEPS):
        torch.manual_seed(10 * step + rank)  # as in training, ranks draw different numbers
        if step == 20:
            before = {f"before.{name}": value.clone() for name, value in quantizer.state_dict().items()}
            save_file(before, folder / f"before-{rank}.safetensors")
        quantizer(vectors(step, rank))
        if step == 20:
            save_file(quantizer.state_dict(), folder / f"after-{rank}.safetensors")
    save_file(quantizer.state_dict(), folder / f"end-{rank}.safetensors")
    quantizer.levels[0].counts[:4] = 0.0  # dead
    quantizer(vectors(STEPS, rank))
    save_file(quantizer.state_dict(), folder / f"revived-{rank}.safetensors")


if __name__ == "__main__":
    both(work)
