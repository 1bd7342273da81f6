"""A whole run on real parts and real loader workers: what it leaves, what it refuses; and no kill changes a bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_run
import torch
from safetensors.torch import load_file

from trivium import curriculum
from trivium.assemble import build_model
from trivium.core.errors import CheckpointError
from trivium.core.files import lock_folder
from trivium.train.checkpoint import FILES
from trivium.train.guard import EXIT_RESUME

KILLS = 10
CLOCKS = ("tokens_per_s", "data_wait")
TOTAL = sum(small_run.STEPS)

Asker = Callable[..., int]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in memory where there is such a place: these runs save some hundred files, each flushed to disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="trivium-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return small_run.write_set(place / "set")


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    """A process that has everything imported and forks one run a request: a restart costs no imports."""
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, small_run.__file__], env=environment, **pipes)

    def ask(**request: object) -> int:
        process.stdin.write(json.dumps(request, default=str) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()


@pytest.fixture(scope="module")
def whole(place: Path, data: Path) -> Path:
    """One run to its end, in this process; health checks are real, the simulator alone is not there."""
    folder = place / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "roll_out", small_run.no_simulator)
        curriculum.execute(small_run.small_run(data), folder)
    return folder


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def outcome(folder: Path) -> tuple:
    """All that must not depend on how often a run was stopped: every metric of every step, every final byte."""
    lines = [{name: value for name, value in line.items() if name not in CLOCKS} for line in metrics(folder)]
    latest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    return lines, latest.name, {name: (latest / name).read_bytes() for name in FILES}


def log(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text()


def test_a_run_leaves_everything_that_a_person_needs(whole: Path):
    there = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert there >= {
        *("config.yaml", "metrics.jsonl", "times.json", "statistics.json", "tokenizer.json", "environment.json"),
        *("plan/prior.json", "plan/vla.json", "health/prior.json", "health/vla.json"),
        *("eval/untrained.json", "eval/vla.json", "samples/samples.json", "samples/0.png"),
        *(f"checkpoints/vla/step-000008/{name}" for name in (*FILES, "manifest.json")),
    }
    assert any(name.startswith("tensorboard/") for name in there)
    assert not [name for name in there if ".tmp" in name]
    assert [(line["stage"], line["step"]) for line in metrics(whole)] == [
        *(("prior", step + 1) for step in range(6)),
        *(("vla", step + 1) for step in range(8)),
    ]
    assert set(json.loads((whole / "times.json").read_text())) == {
        *("prepare", "rollouts: untrained", "rollouts: trained"),
        *(f"{work}: {stage}" for work in ("plan", "train", "health") for stage in ("prior", "vla")),
        "ablation: vla",
    }
    health = json.loads((whole / "health/vla.json").read_text())
    assert {target["name"] for target in health["targets"]} == {"object position", "next actions", "task identity"}


def test_the_plan_says_what_was_asked_and_what_came(whole: Path):
    plan = json.loads((whole / "plan/vla.json").read_text())
    (bucket,) = plan["buckets"]
    assert (bucket["bucket"], bucket["asked"], bucket["planned"]) == ("robot", 1.0, 1.0)
    assert plan["num_batches"] == 8 * 2  # steps times accumulate
    realised = sum(sum(line["tokens"].values()) for line in metrics(whole) if line["stage"] == "vla")
    assert realised == bucket["tokens"]
    assert [row["pattern"] for row in plan["learners"]] == ["*", "(frozen)"]
    frozen = sum(weight.numel() for name, weight in fresh(whole).items() if name.startswith("language.layers.0."))
    assert plan["learners"][1]["elements"] == frozen


def fresh(whole: Path) -> dict[str, torch.Tensor]:
    """Weights as they were before the first stage."""
    return build_model(curriculum.open_run(whole)).state_dict()


def test_weights_pass_from_stage_to_stage(place: Path, data: Path, ask: Asker, whole: Path):
    config = small_run.small_run(data)
    first = place / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "roll_out", small_run.no_simulator)
        patch.setattr(curriculum, "check_health", small_run.no_health)
        curriculum.execute(config.replace(stages=config.stages[:1]), first)
    after, before = load_file(first / "checkpoints/prior/step-000006/model.safetensors"), fresh(whole)
    moved = {name for name in before if not torch.equal(after[f"model.{name}"], before[name])}
    assert {name.split(".")[0] for name in moved} == {"action"}
    # The second stage begins where the first ended: with its weights, not with fresh ones, on the very same batch.
    resumed, alone = place / "resumed", place / "alone"
    assert ask(wait=ask(folder=resumed, data=data)) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "roll_out", small_run.no_simulator)
        patch.setattr(curriculum, "check_health", small_run.no_health)
        curriculum.execute(config.replace(stages=config.stages[1:]), alone)
    with_prior = next(line for line in metrics(resumed) if line["stage"] == "vla")
    without = metrics(alone)[0]
    assert with_prior["tokens"] == without["tokens"]
    assert with_prior["loss"]["flow"] < 0.6 * without["loss"]["flow"]
    final = load_file(whole / "checkpoints/vla/step-000008/model.safetensors")
    assert all(torch.equal(final[f"model.{name}"], before[name]) for name in before if "layers.0." in name)


def test_a_second_run_in_the_same_folder_is_refused(whole: Path, data: Path):
    before = (whole / "metrics.jsonl").read_bytes()
    with lock_folder(whole), pytest.raises(CheckpointError, match=rf"a run in progress \(process {os.getpid()}\)"):
        curriculum.execute(small_run.small_run(data), whole)
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_another_config_in_the_folder_is_refused_by_the_line_that_differs(whole: Path, data: Path):
    other = small_run.small_run(data).replace(seed=5)
    with pytest.raises(CheckpointError, match=r"first difference: 'seed: 5'.*take the changes back"):
        curriculum.execute(other, whole)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, data: Path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CheckpointError, match=r"thesis.tex and no config.yaml"):
        curriculum.execute(small_run.small_run(data), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}


def test_a_run_that_has_ended_is_left_as_it_is(whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> None:
        raise AssertionError("nothing is left to measure")

    monkeypatch.setattr(curriculum, "roll_out", never)
    monkeypatch.setattr(curriculum, "check_health", never)
    spared = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    curriculum.execute(small_run.small_run(data), whole)
    changed = {path.name for path, content in spared.items() if path.read_bytes() != content}
    assert changed <= {"times.json", ".lock"}


@pytest.fixture(scope="module")
def reference(place: Path, data: Path, ask: Asker) -> tuple:
    """What a run gives that nobody disturbs."""
    folder = place / "reference"
    assert ask(wait=ask(folder=folder, data=data)) == 0, log(folder)
    found = outcome(folder)
    assert [line["run_step"] for line in found[0]] == list(range(1, TOTAL + 1))
    return found


def test_workers_and_processes_do_not_change_a_bit(reference: tuple, whole: Path, place: Path, data: Path, ask: Asker):
    assert outcome(whole) == reference  # another process, health checks in between
    folder = place / "workers"
    assert ask(wait=ask(folder=folder, data=data, workers=2)) == 0, log(folder)
    assert outcome(folder) == reference


def wait_for_steps(folder: Path, steps: int) -> None:
    end = time.monotonic() + 30
    path = folder / "metrics.jsonl"
    while (not path.exists() or path.read_bytes().count(b"\n") < steps) and time.monotonic() < end:
        time.sleep(0.002)


@pytest.mark.parametrize("steps", [2, 8])
def test_sigterm_saves_and_leaves_with_its_own_code(reference: tuple, place: Path, data: Path, ask: Asker, steps: int):
    folder = place / f"stopped-{steps}"
    process = ask(folder=folder, data=data)
    wait_for_steps(folder, steps)
    os.kill(process, signal.SIGTERM)
    assert ask(wait=process) == EXIT_RESUME, log(folder)
    lines, latest, _ = outcome(folder)
    assert steps <= len(lines) < TOTAL
    assert latest == f"step-{lines[-1]['step']:06d}"  # nothing that was computed is lost
    assert "The same command goes on from here" in log(folder)
    assert ask(wait=ask(folder=folder, data=data)) == 0, log(folder)
    assert outcome(folder) == reference


def test_kill_nine_at_ten_random_moments(reference: tuple, place: Path, data: Path, ask: Asker):
    folder = place / "killed"
    dice = random.Random(2)
    kills, seen = 0, set()
    while kills < KILLS:
        # Up to five steps past the last checkpoint (they lie three apart), and a moment more: it may fall anywhere.
        goal = min(saved_steps(folder) + dice.randrange(6), TOTAL)
        process = ask(folder=folder, data=data)
        wait_for_steps(folder, goal)
        time.sleep(dice.choice([0.0, dice.uniform(0.0, 0.02), dice.uniform(0.0, 0.2)]))
        os.kill(process, signal.SIGKILL)
        code = ask(wait=process)
        assert code in (0, -signal.SIGKILL), log(folder)
        if code == 0:  # quicker than the murderer: begin another one
            assert outcome(folder) == reference
            shutil.rmtree(folder)
        else:
            kills += 1
            seen.add(saved_steps(folder))
    assert len(seen) >= 3, f"the kills all fell on the same place: {seen}"
    assert ask(wait=ask(folder=folder, data=data)) == 0, log(folder)
    assert outcome(folder) == reference
    assert [*folder.rglob("*.tmp"), *folder.rglob("*.old")] == []


def saved_steps(folder: Path) -> int:
    """Return the steps of the whole run that the last checkpoint holds."""
    latest = folder / "checkpoints/latest"
    state = latest.parent / latest.read_text().strip() / "state.json" if latest.exists() else None
    return json.loads(state.read_text())["rng"]["step"] if state else 0


@pytest.mark.parametrize("omit", ["", "optimizer", "schedule", "rng", "data_position"])
def test_a_resume_that_forgets_something_is_seen(reference: tuple, place: Path, data: Path, ask: Asker, omit: str):
    folder = place / f"forgets-{omit}"
    process = ask(folder=folder, data=data)
    wait_for_steps(folder, 8)
    os.kill(process, signal.SIGTERM)
    assert ask(wait=process) == EXIT_RESUME, log(folder)
    assert ask(wait=ask(folder=folder, data=data, omit=omit)) == 0, log(folder)
    assert (outcome(folder) == reference) == (omit == "")


def test_a_bad_record_is_replaced_listed_and_survives_a_kill(place: Path, data: Path, ask: Asker, whole: Path):
    """Whatever the workers and the kills: the tokens are those of the plan, and each bad sample has one line."""
    group = json.loads((whole / "samples/samples.json").read_text())[0]["id"].split("/")  # of the training side
    folders = [place / name for name in ("bad", "bad-workers", "bad-killed")]
    bad = (int(group[1]), int(group[2]))
    assert ask(wait=ask(folder=folders[0], data=data, bad=bad)) == 0, log(folders[0])
    assert ask(wait=ask(folder=folders[1], data=data, bad=bad, workers=2)) == 0, log(folders[1])
    process = ask(folder=folders[2], data=data, bad=bad)
    wait_for_steps(folders[2], 11)
    os.kill(process, signal.SIGKILL)
    ask(wait=process)
    assert ask(wait=ask(folder=folders[2], data=data, bad=bad)) == 0, log(folders[2])
    (line,) = [json.loads(line) for line in (folders[0] / "quarantine.jsonl").read_text().splitlines()]
    assert (line["stage"], line["bucket"], line["found"]) == ("vla", "robot", "a spoilt picture")
    assert line["where"] == f"episode {bad[0]}, frame {bad[1]}"
    tokens = [[one["tokens"] for one in metrics(folder)] for folder in (whole, folders[0])]
    assert tokens[0] == tokens[1]
    for folder in folders[1:]:
        assert outcome(folder) == outcome(folders[0])
        assert (folder / "quarantine.jsonl").read_bytes() == (folders[0] / "quarantine.jsonl").read_bytes()
    assert outcome(folders[0])[0] != outcome(whole)[0]  # another sample was trained on
