"""The real lerobot package reads what we write; it needs an environment of its own (it pins an older torch).

Point LEROBOT_PYTHON at a Python with lerobot 0.4.4 (see docs of the package; torchvision may lack its C++ part).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from trivium.core.sample import Action, Image, State
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.lerobot_schema import SetSpec
from trivium.data.source.lerobot_write import Episode, LeRobotWriter

PYTHON = os.environ.get("LEROBOT_PYTHON", "")
FPS = 40
SCRIPT = """
import json, sys, torch
library = torch.library.Library("torchvision", "DEF")  # its CUDA build does not load beside a CPU torch
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import av
import lerobot.datasets.lerobot_dataset as peer

def decode(path, timestamps, tolerance, backend=None):
    with av.open(str(path)) as container:
        frames = [(f.time, torch.from_numpy(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    found = [min(frames, key=lambda pair: abs(pair[0] - at)) for at in timestamps]
    assert all(abs(time - at) < tolerance for (time, _), at in zip(found, timestamps))
    return torch.stack([pixels.permute(2, 0, 1).float() / 255 for _, pixels in found])

peer.decode_video_frames = decode
steps = {"action": [0, 1 / 40, 2 / 40]}
data = peer.LeRobotDataset("local/set", root=sys.argv[1], video_backend="pyav", delta_timestamps=steps)
rows = []
for i in range(len(data)):
    row = data[i]
    pixels = (row["observation.images.top"] * 255).round().int()
    rows.append({"task": row["task"], "state": row["observation.state"].tolist(), "action": row["action"].tolist(),
                 "is_pad": row["action_is_pad"].tolist(), "pixels": pixels.permute(1, 2, 0).tolist()})
print(json.dumps({"episodes": data.meta.total_episodes, "rows": rows}))
"""


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON, reason="LEROBOT_PYTHON names no Python that has lerobot")
def test_lerobot_reads_our_set_as_we_do(tmp_path: Path):
    rng = np.random.default_rng(0)
    spec = SetSpec(FPS, "toy", {"top": (32, 32)}, {"observation.state": ("x",), "action": ("dx", "dy")}, "MIT")
    writer = LeRobotWriter(tmp_path / "staging", spec)
    for number, length in enumerate((4, 7)):
        columns = {
            "observation.state": rng.random((length, 1), np.float32),
            "action": rng.random((length, 2), np.float32),
        }
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (length, 4, 4, 3), np.uint8), 8, 1), 8, 2)
        writer.add(str(number), Episode(("push", "pull")[number], columns, {"top": pixels}))
    writer.fill(tmp_path / "set", writer.keys())
    command = [PYTHON, "-c", SCRIPT, str(tmp_path / "set")]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr
    read = json.loads(ran.stdout.splitlines()[-1])
    ours = LeRobotConfig(path=str(tmp_path / "set"), views=("top",), horizon=3, paraphrase=False).build()
    assert (read["episodes"], len(read["rows"])) == (2, len(ours))
    for i, row in enumerate(read["rows"]):
        sample = ours.read(i)
        np.testing.assert_array_equal(np.array(row["state"], np.float32), sample.of(State)[0].values)
        np.testing.assert_array_equal(np.array(row["action"], np.float32), sample.of(Action)[0].values)
        np.testing.assert_array_equal(row["is_pad"], ~sample.of(Action)[0].valid)
        np.testing.assert_array_equal(row["pixels"], sample.of(Image)[0].pixels)
        assert row["task"] == ("push" if i < 4 else "pull")
