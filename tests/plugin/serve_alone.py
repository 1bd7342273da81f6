"""Act from an exported folder in a process where the code that trains cannot be imported; `python serve_alone.py`."""

import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np

REFUSED = (
    *("train", "run", "assemble", "curriculum", "assess", "lineage", "weights", "forecast", "explain"),
    *("eval", "probe", "report", "cli", "clean", "data.source", "data.audit", "data.loader", "data.plan", "data.stats"),
)
"""Below `trivium`; what a robot has no use for."""


class Wall(MetaPathFinder):
    """Refuses to import what serving must not need."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Fail loudly; an ImportError might be caught by someone who can do without."""
        for name in REFUSED:
            if f"{fullname}.".startswith(f"trivium.{name}."):
                raise RuntimeError(f"serving imports {fullname}")
        return None


def record(samples: list, folder: Path) -> None:
    """Keep recorded samples as plain arrays and words, their actions left out."""
    from trivium.core.sample import Image, State, Text

    views = {image.view for sample in samples for image in sample.of(Image)}
    arrays = {
        view: np.stack([i.pixels for sample in samples for i in sample.of(Image) if i.view == view]) for view in views
    }
    states = np.stack([sample.of(State)[0].values for sample in samples])
    np.savez(folder / "observations.npz", states=states, **{f"image {view}": values for view, values in arrays.items()})
    (folder / "words.json").write_text(json.dumps([sample.of(Text)[0].text for sample in samples]))


def observations(folder: Path) -> list[dict]:
    """Give what `record` kept, as a robot's client would."""
    with np.load(folder / "observations.npz", allow_pickle=False) as kept:
        states, images = kept["states"], {k.removeprefix("image "): kept[k] for k in kept.files if k != "states"}
    words = json.loads((folder / "words.json").read_text())
    return [
        {"images": {view: values[i] for view, values in images.items()}, "state": states[i], "instruction": words[i]}
        for i in range(len(words))
    ]


def main(export: str, folder: str) -> None:
    """Act on all observations in one batch, then one by one, each time from the policy's own seed."""
    sys.meta_path.insert(0, Wall())
    import torch

    from trivium.serve.policy import load_policy

    torch.set_num_threads(1)
    policy, seen = load_policy(export), observations(Path(folder))
    together = policy.act(seen)
    policy.reset(policy.policy.seed)
    alone = np.stack([policy.act(observation) for observation in seen])
    np.savez(Path(folder) / "actions.npz", together=together, alone=alone)
    loaded = sorted(name for name in sys.modules if name.startswith("trivium"))
    (Path(folder) / "modules.json").write_text(json.dumps(loaded))


if __name__ == "__main__":
    main(*sys.argv[1:])
