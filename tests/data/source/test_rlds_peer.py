"""A set that tensorflow_datasets writes is read as it reads it itself.

Point TFDS_PYTHON at a Python with tensorflow-cpu 2.21 and tensorflow-datasets 4.9.10.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recordings import BASE

from trivium.core.sample import Action, Image, State, Text
from trivium.data.source.rlds import RldsConfig

PYTHON = os.environ.get("TFDS_PYTHON", "")
SCRIPT = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import features as f

step = {"observation": {"image": f.Image(shape=(16, 24, 3), encoding_format="png"),
                        "raw": f.Tensor(shape=(2, 2), dtype=np.float64, encoding="bytes"),
                        "state": f.Tensor(shape=(3,), dtype=np.float32),
                        "wide": f.Tensor(shape=(1,), dtype=np.float64)},
        "action": {"move": f.Tensor(shape=(4,), dtype=np.float32), "open": f.Scalar(dtype=np.bool_),
                   "mode": f.Scalar(dtype=np.int32)},
        "language_instruction": f.Text(), "reward": f.Scalar(dtype=np.float32),
        **{flag: f.Scalar(dtype=np.bool_) for flag in ("is_first", "is_last", "is_terminal")}}

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict({"steps": f.Dataset(step)}))
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        rng = np.random.default_rng(0)
        for e, length in enumerate((3, 7, 1, 5)):
            yield e, {"steps": [{
                "observation": {"image": rng.integers(0, 256, (16, 24, 3), np.uint8), "raw": rng.random((2, 2)),
                                "state": rng.random(3, np.float32), "wide": rng.random(1)},
                "action": {"move": rng.random(4, np.float32), "open": bool(t % 2), "mode": -t},
                "language_instruction": f"do {e}, then {t}", "reward": 0.0, "is_first": t == 0,
                "is_last": t == length - 1, "is_terminal": t == length - 1} for t in range(length)]}

builder = Toy(data_dir=sys.argv[1])
builder.download_and_prepare()
rows = []
for e, episode in enumerate(tfds.as_numpy(builder.as_dataset(split="train"))):
    for s in episode["steps"]:
        o, a = s["observation"], s["action"]
        rows.append({"episode": e, "pixels": o["image"].tolist(), "text": s["language_instruction"].decode(),
            "state": [*o["state"].tolist(), *o["wide"].tolist(), *o["raw"].reshape(-1).tolist()],
            "action": [*a["move"].tolist(), float(a["open"]), float(a["mode"])]})
print(json.dumps({"path": str(builder.data_dir), "rows": rows}))
"""


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON, reason="TFDS_PYTHON names no Python that has tensorflow_datasets")
def test_tensorflow_datasets_reads_its_set_as_we_do(tmp_path: Path):
    hush = {"TF_CPP_MIN_LOG_LEVEL": "3", "NO_GCE_CHECK": "true", "CUDA_VISIBLE_DEVICES": ""}
    (tmp_path / "toy.py").write_text(SCRIPT)  # a builder wants to know the file it stands in
    command = [PYTHON, str(tmp_path / "toy.py"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **hush})
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout.splitlines()[-1])
    action = ("action/move", "action/open", "action/mode")
    asked = {"path": theirs["path"], "views": ("image",), "state": ("state", "wide", "raw"), "action": action}
    ours = RldsConfig(**asked | BASE).build()
    assert len(ours) == len(theirs["rows"]) == 16
    assert ours.groups().tolist() == [row["episode"] for row in theirs["rows"]]
    for i, row in enumerate(theirs["rows"]):
        sample = ours.read(i)
        assert (sample.of(Image)[0].pixels == np.array(row["pixels"])).all()
        assert sample.of(State)[0].values.tolist() == np.float32(row["state"]).tolist()
        assert sample.of(Action)[0].values[0].tolist() == np.float32(row["action"]).tolist()
        assert sample.of(Text)[0].text == row["text"]
