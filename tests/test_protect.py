"""A language model that forgets raises an alarm that says what to do; replay, frozen weights and noise raise none."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_run

from trivium import curriculum, protect
from trivium.core.errors import ConfigError
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.text import TextConfig
from trivium.language.continual import ContinualConfig
from trivium.language.heldout import HeldOutConfig, summarise
from trivium.protect import check_protected, watch
from trivium.report.stability import Alarm
from trivium.run import ProtectConfig, Run, Stage

STEPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("protect")
    small_run.write_set(folder / "set", 8)
    for name, sentence in (("prose", "The arm moves {} cm, then the hand opens."), ("other", "zq{0}xj wv{0}kk 77#{0}")):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(40):
                file.write(json.dumps({"id": str(i), "text": sentence.format(i), "license": "MIT"}) + "\n")
    return folder


def run(place: Path, second: dict[str, float], frozen: bool = False, eval_every: int = 1000) -> Run:
    """Learn prose, then a mixture of prose and something else, or motions alone."""
    base = small_run.small_run(place / "set", workers=0, save_every=100)
    source = {name: TextConfig(path=str(place / f"{name}.jsonl")) for name in ("prose", "other")}

    def reading(name: str, shares: dict[str, float]) -> Stage:
        buckets = tuple(
            BucketConfig(name=text, source=source[text], weight=share, max_epochs=200, val_share=0.3)
            for text, share in shares.items()
        )
        return Stage(
            name=name,
            steps=STEPS,
            learn=("language",),
            lr=3e-3,
            eval_every=eval_every,
            objective=ContinualConfig(),
            mixture=MixtureConfig(buckets=buckets, row_length=256, rows_per_batch=1, max_images_per_row=0, workers=0),
        )

    later = base.stages[0].replace(name="later") if frozen else reading("later", second)
    held = HeldOutConfig(name="prose", source=source["prose"], num_tokens=400)
    guard = ProtectConfig(watch="text.prose", tolerance=0.02)
    return base.replace(
        stages=(reading("prose", {"prose": 1.0}), later),
        health=base.health.replace(texts=(held,), protect=(guard,)),
        rollout=None,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)


def alarms(folder: Path) -> list[dict]:
    path = folder / "alarms.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_model_that_forgets_raises_an_alarm_with_advice(place: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(protect, "warn", said.append)
    config = run(place, {"other": 1.0}, eval_every=4)
    curriculum.execute(config, place / "forgets")
    found = alarms(place / "forgets")
    assert found
    assert {alarm["stage"] for alarm in found} == {"later"}
    assert found[-1]["step"] is None
    last = found[-1]
    assert last["worse"] > 0.02
    assert 0 < last["low"] < last["worse"] < last["high"]
    assert last["now"] - last["before"] == pytest.approx(last["worse"])
    assert last["advice"] == [
        f"Replay it: a bucket on {place}/prose.jsonl with 5 to 25 % of the stage's tokens (now 0 %).",
        "Lower the rate of language (now 0.003): lr_groups={'language': 0.0006}.",
        'Freeze its lower half: learn "!language.layers.0-0".',
        "Learn adapters in place of its weights: lora.",
    ]
    assert Alarm.model_validate(last).text.startswith("NEGATIVE TRANSFER at the end of later: held-out text 'prose'")
    assert f"({last['worse']:+.3f} [{last['low']:+.3f}, {last['high']:+.3f}], tolerated +0.020)" in last["text"]
    assert said == [alarm["text"] for alarm in found]
    # The same check again, as after a resume, writes nothing twice.
    watch(config, place / "forgets", "later")
    assert alarms(place / "forgets") == found


def test_replay_and_frozen_weights_raise_none(place: Path):
    curriculum.execute(run(place, {"other": 0.5, "prose": 0.5}), place / "replays")
    curriculum.execute(run(place, {}, frozen=True), place / "frozen")
    assert alarms(place / "replays") == alarms(place / "frozen") == []
    bits = [json.loads((place / f"frozen/text/{n}.json").read_text())["texts"][0] for n in ("prose", "later")]
    assert bits[0]["nats"] == bits[1]["nats"]


def write_text(folder: Path, label: str, nats: np.ndarray, size: np.ndarray, step: int | None = None) -> None:
    score = summarise("prose", 100, nats, size).model_dump(mode="json")
    path = folder / "text" / (f"{label}.json" if step is None else f"{label}-{step:06d}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stage": label, "step": step, "texts": [score]}))


def test_noise_raises_none_and_a_small_steady_loss_does(place: Path, tmp_path: Path):
    """Documents differ by a bit a byte among themselves; pairs find a hundredth."""
    config, rng, size = run(place, {"other": 1.0}), np.random.default_rng(0), np.full(50, 100)
    guard = config.health.replace(protect=(ProtectConfig(watch="text.prose", tolerance=0.0),))
    config, raised = config.replace(health=guard), 0
    level = rng.normal(140, 70, 50).clip(10)
    for trial in range(60):
        folder = tmp_path / str(trial)
        write_text(folder, "prose", level, size)
        write_text(folder, "later", level + rng.normal(0, 10, 50), size)
        raised += len(watch(config, folder, "later"))
    assert raised <= 1
    write_text(tmp_path, "prose", level, size)
    write_text(tmp_path, "later", level + 2 + rng.normal(0, 1, 50), size)
    found = watch(config, tmp_path, "later")
    assert len(found) == 1, "a hundredth of a bit a byte, the same in every document"
    assert found[0]["worse"] == pytest.approx(2 / 100 / np.log(2), rel=0.15)


def test_what_is_tolerated_raises_none(place: Path, tmp_path: Path):
    config, size = run(place, {"other": 1.0}), np.full(50, 100)
    level = np.random.default_rng(0).normal(140, 30, 50)
    write_text(tmp_path, "prose", level, size)
    write_text(tmp_path, "later", level + 0.019 * 100 * np.log(2), size)
    assert watch(config, tmp_path, "later") == []
    write_text(tmp_path, "later", level + 0.021 * 100 * np.log(2), size)
    assert len(watch(config, tmp_path, "later")) == 1


def test_the_best_earlier_end_of_a_stage_counts_and_since_when_is_said(place: Path, tmp_path: Path):
    config, size = run(place, {"other": 1.0}), np.full(50, 100)
    noise = np.random.default_rng(0).normal(0, 5, (5, 50))
    levels = [
        ("untrained", None, 300),
        ("prose", None, 100),
        ("later", 4, 100),
        ("later", 8, 130),
        ("later", None, 150),
    ]
    for (label, step, level), wobble in zip(levels, noise, strict=True):
        write_text(tmp_path, label, level + wobble, size, step)
    assert watch(config, tmp_path, "prose") == []
    assert watch(config, tmp_path, "later", 4) == []
    (first,) = watch(config, tmp_path, "later", 8)
    (second,) = watch(config, tmp_path, "later")
    assert first["before"] == second["before"] == pytest.approx(1.44, abs=0.05)
    assert (first["held"], first["when"]) == ("at step 4 of later", "at step 8 of later")
    assert "It was still held at step 4 of later." in second["text"]
    assert [alarm["step"] for alarm in alarms(tmp_path)] == [8, None]


def health(folder: Path, label: str, score: float, half: float) -> None:
    curve = {
        "encoder": "aligned",
        "probe": "linear",
        "scores": [{"value": score, "low": score - half, "high": score + half}],
    }
    record = {"subject": "aligned", "targets": [{"name": "object position", "curves": [curve]}]}
    (folder / "health").mkdir(exist_ok=True)
    (folder / f"health/{label}.json").write_text(json.dumps(record))


def test_a_probe_that_falls_beyond_both_intervals(place: Path, tmp_path: Path):
    config = run(place, {"other": 1.0})
    guards = (ProtectConfig(watch="probe.object", tolerance=0.05),)
    config = config.replace(health=config.health.replace(protect=guards))
    health(tmp_path, "untrained", 0.88, 0.03)
    health(tmp_path, "prose", 0.82, 0.03)
    assert watch(config, tmp_path, "prose") == [], "beyond the tolerance, within three standard errors"
    health(tmp_path, "later", 0.70, 0.03)
    (alarm,) = watch(config, tmp_path, "later")
    assert "the probe of object position went from 0.880 to 0.700 (-0.180 [-0.245, -0.115]" in alarm["text"]
    assert alarm["advice"] == [
        "vision is frozen in this stage: what reads or feeds it has moved; lower the stage's lr."
    ]


def test_held_out_losses_and_insulation(place: Path, tmp_path: Path):
    base = small_run.small_run(place / "set")
    guards = (ProtectConfig(watch="loss.action_token", tolerance=0.0),)
    again = base.stages[1].replace(name="again")
    config = base.replace(stages=(*base.stages, again), health=base.health.replace(protect=guards))
    check_protected(config)
    (tmp_path / "ablation").mkdir()
    for label, level in (("vla", 2.0), ("again", 2.5)):
        sums = [[level * 10 + i % 2, 10] for i in range(12)]
        record = {"by_episode": {"action_token": sums}}
        (tmp_path / f"ablation/{label}.json").write_text(json.dumps(record))
    (alarm,) = watch(config, tmp_path, "again")
    assert alarm["worse"] == pytest.approx(0.5)
    assert alarm["advice"] == [
        "Raise its weight in the objective (now 1), or the share of its samples.",
        "Lower the rate of language (now 0.01): lr_groups={'language': 0.002}.",
        'Freeze its lower half: learn "!language.layers.0-0".',
        "Learn adapters in place of its weights: lora.",
        "Keep the action head's gradient out of the trunk: objective.insulate=true.",
    ]


@pytest.mark.parametrize("name", ["text.poems", "probe.object", "loss.regress"])
def test_what_nothing_measures_is_refused_before_the_first_step(place: Path, name: str):
    config = run(place, {"other": 1.0})
    guard = config.health.replace(protect=(ProtectConfig(watch=name, tolerance=0.0),), target=None)
    with pytest.raises(ConfigError, match=rf"health\.protect\.0\.watch: found '{name}'; expected one of text\.prose, "):
        curriculum.execute(config.replace(health=guard), place / f"refused-{name}")


def test_a_protected_probe_is_taken_before_the_first_stage(place: Path, monkeypatch: pytest.MonkeyPatch):
    class StopError(Exception):
        pass

    def first(world: curriculum.World, stage: str, step: int | None = None) -> None:
        raise StopError(stage)

    monkeypatch.setattr(curriculum, "check_health", first)
    config = run(place, {"other": 1.0})
    guard = config.health.replace(protect=(ProtectConfig(watch="probe.object", tolerance=0.05),), texts=())
    with pytest.raises(StopError, match="untrained"):
        curriculum.execute(config.replace(health=guard), place / "probed")
