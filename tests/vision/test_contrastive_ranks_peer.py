"""open_clip's losses over two ranks, in every way that it exchanges rows, are ours of the rows of one rank.

OPEN_CLIP_PYTHON as in test_vision_peer.py.
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.vision.contrastive import Others, clip_losses, siglip_losses

PYTHON = os.environ.get("OPEN_CLIP_PYTHON", "")
SCRIPT = """
import datetime, sys, torch
register = torch.library.register_fake
skip = lambda f: f
torch.library.register_fake = lambda op, *a, **k: skip if "torchvision::" in op else register(op, *a, **k)
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import load_file, save_file
folder, rank = sys.argv[1], int(sys.argv[2])
soon = datetime.timedelta(seconds=60)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=soon)
ranks = {"rank": rank, "world_size": 2}
losses = {"clip": ClipLoss(local_loss=True, gather_with_grad=True, **ranks)}
losses |= {way: SigLipLoss(dist_impl=way, **ranks) for way in ("bidir", "shift", "reduce", "gather")}
found = {}
for kind in (torch.float32, torch.float64):
    given = {name: value.to(kind) for name, value in load_file(folder + "/given.safetensors").items()}
    for name, loss in losses.items():
        x, y = (given[side].chunk(2)[rank].clone().requires_grad_() for side in ("x", "y"))
        value = loss(x, y, given["scale"], *([] if name == "clip" else [given["bias"]]))
        value.backward()
        found |= {f"{kind}/{name}/loss": value.detach(), f"{kind}/{name}/x": x.grad, f"{kind}/{name}/y": y.grad}
save_file(found, f"{folder}/found-{rank}.safetensors")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(12, 8, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2))
    given = {"x": x, "y": y, "scale": torch.tensor(5.0), "bias": torch.tensor(-3.0)}
    save_file(given, folder / "given.safetensors")
    command = [PYTHON, "-c", SCRIPT, str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON, reason="OPEN_CLIP_PYTHON names no Python that has open_clip and timm")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", ["clip", "bidir", "shift", "reduce", "gather"])
def test_every_exchange_of_the_peer_gives_our_losses_and_gradients(
    folder: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    given = {key: value.to(dtype) for key, value in load_file(folder / "given.safetensors").items()}
    theirs = [load_file(folder / f"found-{rank}.safetensors") for rank in range(2)]
    images, texts = given["x"].requires_grad_(), given["y"].requires_grad_()
    parts = [slice(0, 6), slice(6, 12)]

    def losses(part: slice) -> Tensor:
        rows = images[part], texts[part]
        others = Others(images, texts, part.start)
        if name == "clip":
            return clip_losses(*rows, given["scale"], None, others)
        return siglip_losses(*rows, given["scale"], given["bias"], None, others)

    ours = [losses(part).mean() for part in parts]
    sum(ours[1:], ours[0]).backward()
    assert images.grad is not None
    assert texts.grad is not None
    for rank, part in enumerate(parts):
        found = {what: theirs[rank][f"{dtype}/{name}/{what}"] for what in ("loss", "x", "y")}
        assert abs(found["loss"] - ours[rank]) <= tolerance
        assert (found["x"] - images.grad[part]).abs().max() <= tolerance
        assert (found["y"] - texts.grad[part]).abs().max() <= tolerance
