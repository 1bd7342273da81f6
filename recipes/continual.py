"""A language model goes on learning on a domain and on code, and replay keeps what it knew.

Commands    python recipes/continual.py && trivium demo-data data/quickstart --episodes 150
            trivium train recipes/continual.py
Hardware    2 CPU cores, no GPU, 4 GB; not timed as a whole, see bench/continual.py for the experiment
Expected    bits a byte fall on the robot's manual and on code; the report draws what happens to general text

The first command gathers text that is on every machine: the documentation that Python ships (PSF-2.0) and the
descriptions of installed packages (each under its own licence, kept with the text) are the old domain; the packages of
Python's standard library (PSF-2.0) are the code. All 30 layers are kept, since a model cut short has little to forget,
and the upper ones learn. For adapters instead: lora=LoraConfig() and learn=("language.lora",) in the stage.
"""

import json
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from trivium.action.fast import FastConfig
from trivium.action.flow import FlowConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.core.files import write_atomic
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.code import CodeConfig, FileRows
from trivium.data.source.lerobot import LeRobotConfig
from trivium.data.source.text import TextConfig
from trivium.data.transform import NormalizeConfig
from trivium.language.continual import ContinualConfig
from trivium.language.heldout import HeldOutConfig
from trivium.language.model import PretrainedLanguageConfig
from trivium.policy.vla import ModelConfig
from trivium.run import CheckConfig, RobotConfig, Run, Stage
from trivium.vision.vit import VitConfig

DATA = Path("data/continual")
ROBOT = LeRobotConfig(path="data/quickstart/robot", views=("top",), horizon=8)
MANUAL = TextConfig(path="data/quickstart/text/corpus.jsonl", max_chars=600)
GENERAL = TextConfig(path=str(DATA / "general.jsonl"), max_chars=600)
CODE = CodeConfig(path=str(DATA / "code.jsonl"), max_chars=700, rows=FileRows(fim=0.5, metadata=0.5))
FIM = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")
"""SmolLM2 has <repo_name> and <file_sep>; these it learns here."""
REPLAY = 0.2
"""Share of general text: 0 forgets, 0.05 to 0.3 is usual."""


def recipe() -> Run:
    """One stage; the parts that it does not train are small."""
    return Run(
        name="continual",
        robot=RobotConfig(source=ROBOT, state_dim=4, action_dim=4),
        transforms=(NormalizeConfig(),),
        model=ModelConfig(
            vision=VitConfig(image_size=112, patch_size=14, width=96, depth=2, heads=3),
            connect=MlpConnectorConfig(shuffle=2),
            language=PretrainedLanguageConfig(
                path="build/weights/smollm2-135m", num_layers=30, num_extra_tokens=258, sentinels=FIM
            ),
            action=FlowConfig(horizon=8, width=96, depth=2, heads=3),
            tokenizer=FastConfig(vocab_size=256),
        ),
        stages=(read(),),
        health=CheckConfig(
            num_samples=100,
            texts=(
                HeldOutConfig(name="manual", source=MANUAL, num_tokens=4000),
                HeldOutConfig(name="code", source=CODE, num_tokens=4000),
                HeldOutConfig(name="general", source=GENERAL, num_tokens=4000),
            ),
        ),
        rollout=None,
    )


def read() -> Stage:
    """Domain, code and replay; the upper layers and the words learn."""
    shares = (("manual", MANUAL, 0.5), ("code", CODE, 0.5 - REPLAY), ("general", GENERAL, REPLAY))
    buckets = tuple(
        BucketConfig(name=name, source=source, weight=share, max_epochs=10) for name, source, share in shares if share
    )
    return Stage(
        name="read",
        steps=200,
        learn=("language.layers.24-29", "language.norm", "language.embedding"),
        lr=3e-4,
        lr_groups={"language.embedding": 1e-4},
        warmup_steps=10,
        eval_every=50,
        objective=ContinualConfig(),
        mixture=MixtureConfig(buckets=buckets, row_length=512, rows_per_batch=2, max_images_per_row=0, workers=0),
    )


def gather(folder: Path) -> None:
    """Write general.jsonl and code.jsonl from what is installed here, with licences."""
    for name, rows in (("general", general()), ("code", code())):
        write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def general() -> Iterator[dict]:
    """Yield Python's own documentation and the descriptions of packages."""
    from pydoc_data.topics import topics  # half a megabyte that nobody else needs

    for name, text in sorted(topics.items()):
        yield {"id": f"python/{name}", "text": text, "license": "PSF-2.0"}
    packages = {package.metadata["Name"]: package for package in metadata.distributions()}
    for name, package in sorted(packages.items()):
        about = package.metadata.json  # the headers by name, and the text below them as "description"
        license = str(about.get("license_expression") or about.get("license") or "unknown").splitlines()[0]
        body = str(about.get("description", ""))
        if len(body) > 500:
            yield {"id": name, "text": body, "license": license}


def code() -> Iterator[dict]:
    """Yield the files of the standard library's packages; each package is a repository."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.glob("*/*.py")):
        package = file.parent.name
        if package not in ("site-packages", "test", "idlelib") and 200 < file.stat().st_size < 60_000:
            row = {"repo_name": f"python/{package}", "path": f"{package}/{file.name}", "content": file.read_text()}
            yield row | {"detected_licenses": ["PSF-2.0"]}


if __name__ == "__main__":
    gather(DATA)
