"""Saving survives death at every phase, a full disk and damage; what comes back is bit for bit what was saved."""

import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import Language, Model, plain_toy, stages

import trivium.core.files as files_module
import trivium.train.checkpoint as checkpoint_module
from trivium.core.errors import CheckpointError
from trivium.core.rng import Rng
from trivium.train.checkpoint import FILES, Checkpoints, load_weights, open_checkpoint, read_weights
from trivium.train.state import State


class Run:
    """Something to save: after `go(n)` every weight, moment and counter says n."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.module = plain_toy()
        self.optimizer, _ = stages()[1].replace(learn=("*",)).build(self.module)
        self.state = State(Rng(1), "joint", 1)
        self.checkpoints = Checkpoints(folder, keep)

    def go(self, step: int) -> None:
        self.state.step = step
        for name, parameter in self.module.named_parameters():
            parameter.grad = torch.full_like(parameter, step + len(name))
        self.optimizer.step(0.0, 1.0)

    def save(self) -> None:
        self.checkpoints.save(self.state, self.module, self.optimizer)

    def saved_at(self, *steps: int) -> "Run":
        for step in steps:
            self.go(step)
            self.save()
        return self

    def bits(self):
        return [value.clone() for value in [*self.module.state_dict().values(), *self.optimizer.tensors().values()]]

    def steps_kept(self):
        return sorted(int(path.name[-6:]) for path in self.folder.glob("joint/step-*"))


def same(left, right):
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_what_was_saved_comes_back_bit_for_bit(folder):
    run = Run(folder).saved_at(1, 2)
    other = Run(folder)
    saved = other.checkpoints.find()
    saved.restore(other.module, other.optimizer)
    assert same(run.bits(), other.bits())
    assert saved.state == run.state
    assert (folder / "latest").read_text() == "joint/step-000002\n"
    assert not saved.folder.is_symlink()


def test_a_run_that_never_saved_has_nothing_to_find(folder):
    assert Checkpoints(folder / "none").find() is None


def test_tied_weights_are_saved_once_and_come_back_tied(folder):
    run = Run(folder).saved_at(1)
    path = run.checkpoints.find().folder
    held = load_file(path / "model.safetensors")
    assert "language.embed.weight" in held
    assert "language.head.weight" not in held
    weights = read_weights(path)
    assert torch.equal(weights["language.head.weight"], weights["language.embed.weight"])
    other = Language()
    load_weights(other, path, prefix="language.")
    assert torch.equal(other.head.weight, run.module.language.embed.weight)
    other.embed.weight.data.zero_()
    assert not other.head.weight.any()  # still one tensor


def test_views_and_bf16_and_empty_tensors_are_kept_as_they_are(folder):
    module = nn.Module()
    big = torch.arange(12.0).reshape(3, 4)
    module.register_buffer("row", big[1])
    module.register_buffer("across", big.t())
    module.register_buffer("none", torch.empty(0))
    module.register_buffer("nothing", torch.empty(0))
    module.weight = nn.Parameter(torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16))
    run = Run(folder)
    run.module = module
    run.save()
    weights = read_weights(folder / "joint" / "step-000000")
    assert weights["weight"].dtype == torch.bfloat16
    assert weights.keys() == module.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())


def test_keeps_the_newest_and_never_one_of_a_future_that_was_given_up(folder):
    run = Run(folder, keep=2).saved_at(1, 2, 3, 4)
    assert run.steps_kept() == [3, 4]
    (folder / "latest").write_text("joint/step-000003\n")
    again = Run(folder, keep=3)
    assert again.checkpoints.find().state.step == 3
    again.state.step = 3
    again.go(4)
    again.state.step = 5
    again.save()
    assert again.steps_kept() == [3, 4, 5]
    again.state.step = 4
    again.save()
    assert again.steps_kept() == [3, 4]


def test_a_later_stage_is_newer_whatever_its_step_and_name(folder):
    run = Run(folder, keep=1).saved_at(900)
    run.state = State(Rng(1), "align", 2, step=3)
    run.save()
    (folder / "latest").unlink()
    assert Run(folder).checkpoints.find().state.stage == "align"
    assert run.steps_kept() == []


def break_file(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        path.unlink()


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
def test_damage_is_refused_by_name_and_an_older_one_taken_with_a_warning(folder, name, how, capsys):
    run = Run(folder).saved_at(1, 2)
    newest = folder / "joint" / "step-000002"
    if name == "manifest.json" and how != "missing":
        (newest / name).write_text("{" if how == "truncated" else '{"files": {}}')
    else:
        break_file(newest / name, how)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(newest)
    assert str(error.value).startswith(str(newest / name))
    assert "The checkpoint is damaged" in str(error.value)
    assert run.checkpoints.find().state.step == 1
    said = "".join(capsys.readouterr().out.split())  # rich breaks lines where the terminal ends
    assert f"warning:{newest / name}:found" in said
    assert "Nowtryinganoldercheckpoint." in said
    assert newest.exists()  # nothing is deleted on suspicion


def test_when_none_is_whole_the_first_trouble_is_raised(folder):
    run = Run(folder).saved_at(1, 2)
    for step in (1, 2):
        break_file(folder / "joint" / f"step-00000{step}" / "optimizer.safetensors", "changed")
    with pytest.raises(
        CheckpointError, match=r"step-000002/optimizer\.safetensors: found sha256 .*as the manifest says"
    ):
        run.checkpoints.find()


def test_without_latest_the_newest_whole_one_is_taken(folder):
    run = Run(folder).saved_at(1, 2)
    (folder / "latest").unlink()
    assert run.checkpoints.find().state.step == 2


def test_another_model_is_refused_by_name_and_left_untouched(folder):
    saved = Run(folder).saved_at(1).checkpoints.find()
    other = Model(plain=True)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: found 2 weights .* an unknown 'action\.bias'"):
        saved.restore(other)
    narrow = plain_toy()
    narrow.action = nn.Linear(16, 3)
    before = narrow.language.embed.weight.clone()
    with pytest.raises(CheckpointError, match=r"'action\.weight' as \(2, 16\) torch\.float32, not \(3, 16\)"):
        saved.restore(narrow)
    with pytest.raises(CheckpointError, match=r"torch\.float32, not .* torch\.bfloat16"):
        saved.restore(plain_toy().bfloat16())
    assert torch.equal(narrow.language.embed.weight, before)


@contextmanager
def small_disk(limit: int):
    """No file may grow past the limit: the kernel refuses the write in the middle, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [100, 4000, 8192])
def test_a_full_disk_is_said_and_costs_nothing(folder, limit):
    run = Run(folder).saved_at(1)
    sizes = {name: (folder / "joint" / "step-000001" / name).stat().st_size for name in FILES}
    assert sizes["model.safetensors"] < 8192 < sizes["optimizer.safetensors"]  # the last limit lets the first through
    run.go(2)
    with small_disk(limit), pytest.raises(CheckpointError) as error:
        run.save()
    assert str(error.value).startswith(str(folder / "joint" / "step-000002"))
    assert "File too large" in str(error.value)
    assert "the last complete file or checkpoint is untouched" in str(error.value)
    assert sorted(path.name for path in (folder / "joint").iterdir()) == ["step-000001"]
    assert run.checkpoints.find().state.step == 1
    run.save()
    assert run.checkpoints.find().state.step == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_death_at_every_phase_of_saving_leaves_the_old_or_the_new(folder, monkeypatch):
    """Die before the first, the second, ... operation on a file until a save gets through."""
    monkeypatch.setattr(checkpoint_module, "warn", lambda text: pytest.fail(f"damaged: {text}"))
    found_after: list[int] = []
    for fatal in range(100):
        place = folder / str(fatal)
        run = Run(place, keep=1).saved_at(1)
        old = run.bits()
        run.go(2)
        new = run.bits()
        code = die_in_save(run, fatal)
        other = Run(place, keep=1)
        saved = other.checkpoints.find()
        saved.restore(other.module, other.optimizer)
        assert same(other.bits(), {1: old, 2: new}[saved.state.step]), f"after death at operation {fatal}"
        assert list(place.rglob(".*")) == [], "a half checkpoint was left behind"
        assert open_checkpoint(place / (place / "latest").read_text().strip())
        for whole in place.glob("*/step-*"):
            assert open_checkpoint(whole), "half a checkpoint under a good name"
        run.save()
        assert Run(place).checkpoints.find().state.step == 2
        assert run.steps_kept() == [2]
        found_after.append(saved.state.step)
        if code == 0:
            break
    assert code == 0
    assert len(found_after) > 20  # writes, flushes, renames, deletions
    # Up to the move of `latest` the old one, from then on the new one: never neither.
    assert found_after == sorted(found_after)
    assert {1, 2} == set(found_after)


def die_in_save(run: Run, fatal: int) -> int:
    """Save in a forked process that dies before its file operation number `fatal`; 0 when it got through."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    count = 0

    def deadly(operation):
        def call(*arguments, **settings):
            nonlocal count
            if count == fatal:
                os._exit(9)
            count += 1
            return operation(*arguments, **settings)

        return call

    try:
        checkpoint_module.save_file = deadly(checkpoint_module.save_file)
        checkpoint_module.write_json = deadly(checkpoint_module.write_json)
        files_module.json.dumps = deadly(json.dumps)
        for name in ("fsync", "unlink", "rmdir", "open"):
            setattr(os, name, deadly(getattr(os, name)))
        for name in ("mkdir", "rename", "replace"):
            setattr(Path, name, deadly(getattr(Path, name)))
        run.save()
        os._exit(0)
    finally:
        os._exit(1)
