"""open_clip's losses and torchvision's and timm's ResNets agree with ours.

Point OPEN_CLIP_PYTHON at a Python with open_clip 3.3.0 and timm 1.0.31. Both import torchvision, which has no CPU
build: pip install torch==2.13.0, then --no-deps torchvision==0.28.0 open_clip_torch timm. The script below keeps
torchvision from registering operators that are not there.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from trivium.vision.contrastive import clip_losses, siglip_losses
from trivium.vision.encoder import normalise
from trivium.vision.resnet import ResnetConfig

PYTHON = os.environ.get("OPEN_CLIP_PYTHON", "")
SCRIPT = """
import json, sys, torch
register = torch.library.register_fake
skip = lambda f: f
skip = lambda f: f
torch.library.register_fake = lambda op, *a, **k: skip if "torchvision::" in op else register(op, *a, **k)
import torchvision, timm
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import load_file, save_file
folder = sys.argv[1]
given = load_file(folder + "/given.safetensors")
found = {}
for name in ("float32", "float64"):
    x, y = given["x"].to(getattr(torch, name)), given["y"].to(getattr(torch, name))
    scale, bias = given["scale"].to(x), given["bias"].to(x)
    found["clip " + name] = ClipLoss()(x, y, scale).item()
    found["siglip " + name] = SigLipLoss()(x, y, scale, bias).item()
states, logits = {}, {}
for depth in (18, 50):
    state = {key.split("/")[1]: v for key, v in given.items() if key.startswith(str(depth) + "/")}
    for maker in (getattr(torchvision.models, f"resnet{depth}"), lambda **k: timm.create_model(f"resnet{depth}", **k)):
        model = maker()
        model.load_state_dict(state)
        with torch.no_grad():
            logits[f"{depth}/{len(logits)}"] = model.eval()(given["pixels"])
save_file(logits, folder + "/logits.safetensors")
print(json.dumps(found))
"""


def torchvision_names(depth, encoder, head):
    """Return our weights under torchvision's names (timm has the same)."""
    state = {"conv1.weight": encoder.stem.weight, "fc.weight": head.weight, "fc.bias": head.bias}
    state |= {f"bn1.{name}": value for name, value in encoder.norm.state_dict().items()}
    place = iter(encoder.blocks)
    for stage, number in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], start=1):
        for i in range(number):
            block, name = next(place), f"layer{stage}.{i}"
            for j, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True), start=1):
                state[f"{name}.conv{j}.weight"] = conv.weight
                state |= {f"{name}.bn{j}.{key}": value for key, value in norm.state_dict().items()}
            if block.shortcut is not None:
                state |= {f"{name}.downsample.{key}": value for key, value in block.shortcut.state_dict().items()}
    return {f"{depth}/{name}": value.detach().contiguous() for name, value in state.items()}


def networks():
    torch.manual_seed(0)
    for depth in (18, 50):
        encoder = ResnetConfig(image_size=96, depth=depth).build()
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):  # gains, biases and statistics that matter
                module.weight.data.uniform_(0.5, 1.0)
                module.bias.data.normal_(std=0.1)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.8, 1.5)
        yield depth, encoder.eval(), nn.Linear(encoder.width, 1000)


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON, reason="OPEN_CLIP_PYTHON names no Python that has open_clip and timm")
def test_losses_and_logits_equal_the_peers(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(16, 8, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2))
    images = torch.from_numpy(np.random.default_rng(0).integers(256, size=(2, 3, 96, 96), dtype=np.uint8))
    scale, bias = torch.tensor(14.3, dtype=torch.float64), torch.tensor(-7.0, dtype=torch.float64)
    given = {"x": x, "y": y, "scale": scale, "bias": bias, "pixels": normalise(images)}
    ours = {}
    for depth, encoder, head in networks():
        given |= torchvision_names(depth, encoder, head)
        with torch.no_grad():
            ours[depth] = head(encoder(images).mean(1))
    save_file(given, tmp_path / "given.safetensors")
    ran = subprocess.run([PYTHON, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    for name, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
        dtype = getattr(torch, name)
        parts = [part.to(dtype) for part in (x, y, scale, bias)]
        assert abs(clip_losses(*parts[:3]).mean().item() - found[f"clip {name}"]) <= tolerance
        assert abs(siglip_losses(*parts).mean().item() - found[f"siglip {name}"]) <= tolerance
    for name, logits in load_file(tmp_path / "logits.safetensors").items():
        expected = ours[int(name.split("/")[0])]
        assert (logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max()), name
