"""robomimic's own SequenceDataset reads the same file as we do: observations, actions, padding, filter keys.

Point ROBOMIMIC_PYTHON at a Python with robomimic 0.3.0 (pip install --no-deps robomimic==0.3.0 termcolor tqdm h5py, and
a CPU torch: its other dependencies are not needed to read data).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recordings import BASE, LENGTHS, write_robomimic

from trivium.core.sample import Action, Image, State
from trivium.data.source.hdf5 import Hdf5Config

PYTHON = os.environ.get("ROBOMIMIC_PYTHON", "")
KEYS = ("eef_pos", "gripper_qpos")
SCRIPT = """
import json, sys
import numpy as np
import robomimic.utils.obs_utils as obs
from robomimic.utils.dataset import SequenceDataset
obs.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["eef_pos", "gripper_qpos"], "rgb": ["agentview_image"]}})
data = SequenceDataset(sys.argv[1], ("eef_pos", "gripper_qpos", "agentview_image"), ("actions",), frame_stack=2,
    seq_length=4, get_pad_mask=True, hdf5_cache_mode=None, hdf5_use_swmr=False,
    filter_by_attribute=sys.argv[2] or None)
rows = []
for i in range(len(data)):
    row = data[i]
    rows.append({"obs": {k: np.asarray(v[:2], float).tolist() for k, v in row["obs"].items() if k != "agentview_image"},
        "pixels": np.asarray(row["obs"]["agentview_image"][:2]).astype(int).tolist(),
        "actions": np.asarray(row["actions"][1:], float).tolist(),
        "mask": np.asarray(row["pad_mask"][1:, 0]).tolist()})
print(json.dumps(rows))
"""


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON, reason="ROBOMIMIC_PYTHON names no Python that has robomimic")
@pytest.mark.parametrize("mask", ["", "train", "valid"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_robomimic_reads_the_file_as_we_do(tmp_path: Path, mask: str, compression: str | None):
    path = write_robomimic(tmp_path / "toy.hdf5", (*LENGTHS, *[2] * 9), compression=compression)
    ran = subprocess.run([PYTHON, "-c", SCRIPT, str(path), mask], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout.splitlines()[-1])
    asked = {"path": str(path), "views": ("agentview_image",), "state": KEYS, "action": ("actions",), "history": 2}
    ours = Hdf5Config(**asked | BASE, mask=mask).build()
    assert len(rows) == len(ours) > 0
    for i, row in enumerate(rows):
        sample = ours.read(i)
        action = sample.of(Action)[0]
        # robomimic keeps the two frames of its stack in one list, and ends a row with the frames that follow.
        theirs = np.concatenate([np.float32(row["obs"][key][1]) for key in KEYS])
        assert sample.of(State)[0].values.tolist() == theirs.tolist()
        assert action.values.tolist() == np.float32(row["actions"]).tolist()
        assert action.valid.tolist() == [bool(flag) for flag in row["mask"]]
        images = np.stack([image.pixels for image in sample.of(Image)])
        assert (images == np.array(row["pixels"])).all()
