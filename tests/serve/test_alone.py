import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import serve_alone
import transformers
from language_sizes import COMMON

from trivium import curriculum
from trivium.cli.handover import export_run
from trivium.core.errors import SetupError
from trivium.core.sample import Action, Sample
from trivium.language.model import PretrainedLanguageConfig
from trivium.language.vocab import byte_tokenizer
from trivium.run import Run
from trivium.vision.pretrained import PretrainedVisionConfig

NUMBER = 100


def recorded(folder: Path, number: int) -> tuple[curriculum.World, list[Sample]]:
    """Read observations of the set, evenly spread, their actions left out."""
    world, _ = curriculum.reopen(folder)
    chosen = np.linspace(0, len(world.robot) - 1, number).astype(int)
    samples = []
    for i in chosen:
        sample = world.robot.read(int(i))
        kept = tuple(segment for segment in sample.segments if not isinstance(segment, Action))
        samples.append(Sample(**{**sample.__dict__, "segments": kept}))
    return world, samples


def act_alone(export: Path, place: Path) -> None:
    """Act on what was recorded, in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(Path(curriculum.__file__).parents[1])}
    words = [sys.executable, serve_alone.__file__, str(export), str(place)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def compare(folder: Path, export: Path, place: Path, number: int = NUMBER) -> list[str]:
    """Act in a fresh process and in this one; every bit must be the same. Return the modules of ours it imported.

    Batches are compared with batches and single observations with single ones: the sums of a matrix product may
    depend on the number of its rows.
    """
    world, samples = recorded(folder, number)
    serve_alone.record(samples, place)
    act_alone(export, place)
    policy = world.policy()
    together = policy.act(samples)
    policy.reset(policy.seed)
    alone = np.concatenate([policy.act([sample]) for sample in samples])
    with np.load(place / "actions.npz", allow_pickle=False) as found:
        assert np.array_equal(found["together"], together)
        assert np.array_equal(found["alone"], alone)
    assert together.shape == (number, 4, 2)
    assert together.std(0).min() > 0, "answers that are all the same would hide a mistake"
    return json.loads((place / "modules.json").read_text())


def test_a_fresh_process_without_the_code_that_trains_acts_alike_to_the_bit(
    run: Path, export: Path, tmp_path: Path
) -> None:
    loaded = compare(run, export, tmp_path)
    assert "trivium.serve.policy" in loaded
    assert not [name for name in loaded if name.split(".")[1:2] == ["train"]]


def test_the_wall_is_one(export: Path, tmp_path: Path) -> None:
    code = "import serve_alone, sys; sys.meta_path.insert(0, serve_alone.Wall()); import trivium.train.loop"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(serve_alone.__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "RuntimeError: serving imports trivium.train" in done.stderr


def pretrained(place: Path) -> Callable[[Run], Run]:
    """Make parts that learned elsewhere, deeper and for larger pictures than the run takes, and take them."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = transformers.Dinov2WithRegistersConfig(**sizes, image_size=64, patch_size=8)
    transformers.Dinov2WithRegistersModel(vision).save_pretrained(place / "dino")
    transformers.AutoModelForCausalLM.from_config(transformers.Qwen2Config(**COMMON)).save_pretrained(place / "words")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>")
    tokenizer.save_pretrained(place / "words")
    growth = {"num_extra_tokens": 102, "spans": {"image": 9}, "sentinels": ("<fim_prefix>",)}

    def change(config: Run) -> Run:
        model = config.model.replace(
            vision=PretrainedVisionConfig(path=str(place / "dino"), num_layers=1, image_size=32),
            language=PretrainedLanguageConfig(path=str(place / "words"), num_layers=2, **growth),
        )
        return config.replace(model=model, precision="bfloat16")

    return change


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pretrained_parts_in_bfloat16_whose_folders_are_gone(train, tmp_path: Path) -> None:
    folder = train(pretrained(tmp_path))
    export = export_run(folder, tmp_path / "export")
    serve_alone.record(recorded(folder, 24)[1], tmp_path)
    for name in ("dino", "words"):
        shutil.move(tmp_path / name, tmp_path / f"{name} elsewhere")
    with pytest.raises(SetupError, match="no folder"):
        curriculum.reopen(folder)
    act_alone(export, tmp_path)
    for name in ("dino", "words"):  # the run that it is compared with needs them
        shutil.move(tmp_path / f"{name} elsewhere", tmp_path / name)
    compare(folder, export, tmp_path, 24)
