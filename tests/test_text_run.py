"""A run that reads: adapters, code with middles told last, held-out text around every stage; no crash changes a bit."""

import json
from pathlib import Path

import pytest
import small_run
import torch

from trivium import curriculum
from trivium.assemble import build_model
from trivium.core.errors import ConfigError
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.code import CodeConfig, FileRows
from trivium.data.source.text import TextConfig
from trivium.language.continual import ContinualConfig
from trivium.language.heldout import HeldOutConfig
from trivium.language.lora import LoraConfig
from trivium.language.model import TinyLanguageConfig
from trivium.run import Run, Stage
from trivium.train.checkpoint import FILES, read_weights

pytest.importorskip("peft", reason="the extra `lora` is not installed")

FIM = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>", "<repo_name>")
STEPS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("read")
    small_run.write_set(folder / "set", 8)
    with (folder / "prose.jsonl").open("w") as file:
        for i in range(40):
            file.write(
                json.dumps({"id": str(i), "text": f"The arm moves {i} cm, then the hand opens.", "license": "MIT"})
                + "\n"
            )
    with (folder / "code.jsonl").open("w") as file:
        for i in range(60):
            row = {"repo_name": f"r{i // 2}", "path": f"f{i}.py", "content": f"def f{i}(x):\n    return x + {i}\n"}
            file.write(json.dumps(row) + "\n")
    return folder


def reading(place: Path, texts: bool = True, eval_every: int = 1000, lora: bool = True) -> Run:
    """Adapters on prose and code, then a stage on the plain weights."""
    base = small_run.small_run(place / "set", workers=0, save_every=2)
    prose = TextConfig(path=str(place / "prose.jsonl"))
    code = CodeConfig(path=str(place / "code.jsonl"), max_chars=512, rows=FileRows(fim=1.0, metadata=1.0))
    buckets = (
        BucketConfig(name="prose", source=prose, weight=0.2, max_epochs=20, val_share=0.3),
        BucketConfig(name="code", source=code, weight=0.8, max_epochs=20, val_share=0.3),
    )
    common = {
        "steps": STEPS,
        "lr": 1e-2,
        "save_every": 2,
        "eval_every": eval_every,
        "objective": ContinualConfig(),
        "mixture": MixtureConfig(buckets=buckets, row_length=256, rows_per_batch=1, max_images_per_row=0, workers=0),
    }
    read = Stage(name="read", learn=("language.lora",), lora=LoraConfig(rank=4), **common)
    whole = Stage(name="whole", learn=("language.layers",), **common)
    held = (
        HeldOutConfig(name="prose", source=prose, num_tokens=200),
        HeldOutConfig(name="code", source=code, num_tokens=200),
    )
    language = TinyLanguageConfig(width=32, num_layers=2, heads=2, num_extra_tokens=102, sentinels=FIM)
    return base.replace(
        model=base.model.replace(language=language),
        stages=(read if lora else read.replace(lora=None, learn=("language",)), whole),
        health=base.health.replace(texts=held if texts else ()),
        rollout=None,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "check_health", small_run.no_health)
        curriculum.execute(reading(place), place / "whole")
    return place / "whole"


def steps(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("tokens_per_s", "data_wait")} for line in lines
    ]


def outcome(folder: Path) -> tuple:
    latest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    return steps(folder), {name: (latest / name).read_bytes() for name in FILES}


def texts(folder: Path) -> dict[str, dict]:
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "text").glob("*.json")}
    return {label: {score["name"]: score for score in record["texts"]} for label, record in found.items()}


def test_text_is_measured_before_and_after_every_stage_and_falls(whole: Path):
    found = texts(whole)
    assert set(found) == {"untrained", "read", "whole"}
    for name in ("prose", "code"):
        bits = [found[label][name]["bits_per_byte"] for label in ("untrained", "read", "whole")]
        assert bits[0] > bits[1] > bits[2]
        assert len({tuple(found[label][name]["bytes"]) for label in found}) == 1, "the same documents each time"


def test_code_is_trained_with_its_sentinels_as_one_token(place: Path, whole: Path):
    world, _ = curriculum.reopen(whole)
    batches = [batch for step in world.stage(0).loader.batches(0, STEPS, 1) for batch in step]
    ids = {token for batch in batches for token in batch.tokens.flatten().tolist()}
    assert {world.model.language.vocab.sentinels[word] for word in FIM} <= ids


def test_the_base_is_frozen_and_the_next_stage_has_plain_names(place: Path):
    class StopError(Exception):
        pass

    folder, config = place / "first", reading(place, texts=False)
    with pytest.MonkeyPatch.context() as patch:
        meter = curriculum.Meter
        begin = meter.begin

        def only_the_first(self: curriculum.Meter, state: curriculum.State, num: int) -> None:
            if state.stage == "whole":
                raise StopError
            begin(self, state, num)

        patch.setattr(meter, "begin", only_the_first)
        with pytest.raises(StopError):
            curriculum.execute(config, folder)
    latest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    saved = read_weights(latest)
    fresh = build_model(config).state_dict()
    for name, value in fresh.items():
        stem, _, last = name.rpartition(".")
        there = f"model.{name}" if f"model.{name}" in saved else f"model.{stem}.base_layer.{last}"
        assert torch.equal(saved[there], value), name
    world, stage = curriculum.reopen(folder)
    assert stage == "read"
    assert world.model.state_dict().keys() == fresh.keys()
    moved = {name for name, value in world.model.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved
    assert all(name.startswith("language.layers.") and "norm" not in name for name in moved)


@pytest.mark.parametrize("crash", [3, 5, 6, 9])
def test_a_crash_in_either_stage_changes_no_bit(place: Path, whole: Path, crash: int):
    folder, config = place / f"crash{crash}", reading(place)
    with pytest.MonkeyPatch.context() as patch:
        record = curriculum.Meter.record

        def fail(self: curriculum.Meter, state: curriculum.State, reading: object) -> None:
            record(self, state, reading)
            if state.run_step == crash:
                raise RuntimeError("planted")

        patch.setattr(curriculum.Meter, "record", fail)
        with pytest.raises(RuntimeError, match="planted"):
            curriculum.execute(config, folder)
    curriculum.execute(config, folder)
    assert outcome(folder) == outcome(whole)
    assert texts(folder) == texts(whole)


def test_measuring_text_changes_no_bit_of_training(place: Path, whole: Path):
    curriculum.execute(reading(place, eval_every=2), place / "often")
    curriculum.execute(reading(place, texts=False), place / "never")
    assert outcome(place / "often") == outcome(whole) == outcome(place / "never")
    assert set(texts(place / "often")) == {
        "untrained",
        *(f"{s}{at}" for s in ("read", "whole") for at in ("", "-000002", "-000004", "-000006")),
    }
    assert not (place / "never/text").exists()
    # The adapters of the last step and the weights they were merged into say the same.
    last, merged = (texts(place / "often")[label]["code"]["bits_per_byte"] for label in ("read-000006", "read"))
    assert last == pytest.approx(merged, abs=1e-5)


@pytest.mark.parametrize(("split", "share"), [("all", 0.3), ("train", 0.0), ("val", 0.3)])
def test_text_that_is_trained_on_cannot_be_held_out(place: Path, split: str, share: float):
    config = reading(place, lora=False)
    stage = config.stages[0]
    first, *others = stage.mixture.buckets
    mixture = stage.mixture.replace(buckets=(first.replace(split=split, val_share=share), *others))
    config = config.replace(stages=(stage.replace(mixture=mixture),))
    with pytest.raises(ConfigError, match=rf"health\.texts\.prose: found buckets that train on it by split '{split}'"):
        curriculum.execute(config, place / f"leak-{split}-{share}")


def test_text_that_no_stage_trains_on_is_measured_whole(place: Path):
    config = reading(place, lora=False)
    stage = config.stages[0].replace(steps=1)
    mixture = stage.mixture.replace(buckets=stage.mixture.buckets[1:])
    held = config.health.texts[0].replace(num_tokens=10**6)
    curriculum.execute(
        config.replace(stages=(stage.replace(mixture=mixture),), health=config.health.replace(texts=(held,))),
        place / "apart",
    )
    assert len(texts(place / "apart")["read"]["prose"]["bytes"]) == 40
