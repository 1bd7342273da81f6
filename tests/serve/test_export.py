import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from typer.testing import CliRunner

from trivium import curriculum
from trivium.cli import app
from trivium.cli.handover import export_run
from trivium.core.errors import CheckpointError, ConfigError
from trivium.core.files import lock_folder
from trivium.serve.card import Facts, Grid, escape, example, render
from trivium.serve.policy import load_policy

FILES = [
    *("LICENSES.json", "README.md", "action_tokenizer.json", "language", "model.safetensors", "policy.json"),
    "statistics.json",
]


def refused(*words: object) -> str:
    """Type a command that must be refused; return what it says, its line breaks undone."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def own(export: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(export, tmp_path / "own"))


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export")))


def test_an_export_may_act_by_the_tokens_that_its_trunk_writes(own: Path) -> None:
    policy = load_policy(own, speaking=True)
    picture = np.full((32, 32, 3), 90, np.uint8)
    seen = {"images": {"top": picture}, "state": [0.5, 0.4, 0.0], "instruction": "push the block"}
    chunk = policy.act(seen)
    assert chunk.shape == (4, 2)
    assert np.array_equal(policy.act(seen), chunk), "the likeliest tokens"
    assert not np.array_equal(load_policy(own).act(seen), chunk), "the head says otherwise"
    (own / "action_tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"action_tokenizer.json: found no such file; expected a whole export"):
        load_policy(own, speaking=True)


def test_what_is_written(export: Path, data: Path) -> None:
    assert sorted(path.name for path in export.iterdir()) == FILES, "no pickle, nothing else"
    for path in export.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(data) not in text, f"{path}: a path of the author's machine"
            assert str(Path.home()) not in text
    about = json.loads((export / "policy.json").read_text())
    assert (about["format"], about["version"]) == ("trivium-policy", 1)
    robot = about["robot"]
    assert (robot["rate_hz"], robot["horizon"], robot["views"]) == (20.0, 4, ["top"])
    assert robot["picture_sizes"] == {"top": [32, 32]}


def test_transformers_reads_the_trunk(export: Path, run: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(export / "language").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export / "language")
    world, _ = curriculum.reopen(run)
    language = world.model.language.eval()
    ids = torch.tensor([tokenizer.encode("push the block", add_special_tokens=False)])
    assert ids[0].tolist() == language.vocab.encode("push the block")
    place = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        ours = language.logits(language(language.embed(ids), torch.zeros_like(ids), place)[0])
        torch.testing.assert_close(model(ids).logits[0], ours, atol=1e-5, rtol=1e-4)


def test_the_four_lines_of_the_card_run(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (export / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code) == 1
    assert len(code[0].strip().splitlines()) == 4
    monkeypatch.chdir(export)
    scope: dict = {}
    exec(code[0], scope)
    assert scope["commands"].shape == (4, 2)


def test_the_card_says_what_the_run_knows(export: Path) -> None:
    text = (export / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "mit",
        "library_name": "trivium",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "vision-language-action", "trivium"],
        "datasets": ["set"],
    }
    for line in (
        "Weights: stage vla (2 of 2), step 8 of 8, in float32.",
        "| prior | prior | action | 6 of 6 | 0.01 |",
        "| vla | robot | 100.0% | 1,120 | 1,120 |",
        "| vla | reach-v3 | 0 of 1 | 0% to 80% |",
        "| stage vla | set | MIT | 100.0% |",
        "- The units of some commands are not known: they are those of the demonstrations.",
        "- In closed loop (vla) 100% of the episodes fail.",
    ):
        assert line in body
    assert re.search(r"After vla: On object position .*\n\n\| target \| probe", body)
    assert "not finished" not in body


def test_one_observation_several_and_the_same_again(export: Path) -> None:
    policy = load_policy(export)
    rng = np.random.default_rng(0)

    def observation(words: str) -> dict:
        picture = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
        return {"images": {"top": picture}, "state": rng.normal(size=3), "instruction": words}

    first, second = observation("push"), observation("open the drawer, please")
    policy.reset(3)
    alone = policy.act(first)
    assert alone.shape == (4, 2)
    policy.reset(3)
    assert np.array_equal(policy.act(first), alone)
    both = policy.act([first, second])
    assert both.shape == (2, 4, 2)
    assert policy.act([]).shape == (0, 4, 2)
    assert np.array_equal(policy.act(first, temperature=0.0), policy.act(first, temperature=0.0))
    drawn = policy.policy.draw(policy.samples([first, second]))
    assert drawn.log_prob.shape == (2,)
    assert policy.contract.action_names == ("dx", "dy")


def test_an_older_checkpoint_says_that_the_curriculum_was_not_finished(own_run: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_run / "checkpoints/vla/step-000008")
    (own_run / "checkpoints/latest").write_text("vla/step-000006\n")
    with lock_folder(own_run):  # someone trains it
        out = export_run(own_run, tmp_path / "out")
    text = (out / "README.md").read_text()
    assert "step 6 of 8" in text
    assert "The curriculum was not finished when this was exported." in text


def test_an_older_export_is_replaced_and_anything_else_is_left_alone(own_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = export_run(own_run, out)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file() and path.name != "README.md"}
    export_run(own_run, out)
    assert all(path.read_bytes() == content for path, content in before.items()), "equal runs, equal bytes"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    said = refused("export", own_run, "--out", foreign)
    assert "foreign: found a folder without policy.json; expected a new folder, or an older export." in said
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    said = refused("export", own_run, "--out", foreign / "thesis.txt")
    assert "thesis.txt: found a file; expected a new folder" in said


def test_folders_that_are_no_run(own_run: Path, tmp_path: Path) -> None:
    assert "found no config.yaml; expected a run folder" in refused("export", tmp_path)
    (own_run / "statistics.json").unlink()
    assert "statistics.json: found FileNotFoundError" in refused("export", own_run)
    shutil.rmtree(own_run / "checkpoints")
    assert "found no checkpoint; expected a run that has trained" in refused("export", own_run)
    assert not (own_run / "export").exists()


def test_what_is_damaged_in_the_run_is_said_on_the_card(own_run: Path, tmp_path: Path) -> None:
    cut(own_run / "plan/vla.json")
    (own_run / "health/vla.json").unlink()
    text = (export_run(own_run, tmp_path / "out") / "README.md").read_text()
    assert "- plan/vla.json cannot be read" in text
    assert "- No health check at the end of vla." in text
    assert "| stage vla | set | MIT | not planned |" in text


def test_a_full_disk_leaves_nothing(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trivium.serve.export.save_file", full)
    assert "No space left on device" in refused("export", own_run)
    assert not list(own_run.glob("*export*"))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "statistics.json", "language/model.safetensors"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_files_are_named(own: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(own / name)
    found = "no such file" if damage is Path.unlink else "other bytes than were written"
    with pytest.raises(CheckpointError, match=f"{name}: found {found}; .* trivium export RUN"):
        load_policy(own)


def rewrite(own: Path, change: Callable[[dict], object]) -> None:
    about = json.loads((own / "policy.json").read_text())
    change(about)
    (own / "policy.json").write_text(json.dumps(about))


def test_folders_that_are_no_export(own: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: found no such folder; expected an exported policy"):
        load_policy(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"found a run folder; .* Type: trivium export"):
        load_policy(run)
    with pytest.raises(CheckpointError, match=r"found no policy.json; expected an exported policy"):
        load_policy(own / "language")
    rewrite(own, lambda about: about.update(version=2))
    with pytest.raises(CheckpointError, match=r"found format 'trivium-policy' version 2; expected .* version 1"):
        load_policy(own)
    (own / "policy.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"policy.json: found TypeError"):
        load_policy(own)


def test_settings_that_do_not_fit_are_refused(own: Path) -> None:
    rewrite(own, lambda about: about["robot"].update(embodiment="other"))
    with pytest.raises(CheckpointError, match=r"statistics.json: found 'toy'; expected robot 'other'"):
        load_policy(own)
    rewrite(own, lambda about: about["robot"].update(embodiment="toy", state_names=["x"]))
    with pytest.raises(CheckpointError, match=r"statistics.json: state: found x, y, grip; expected x"):
        load_policy(own)
    rewrite(own, lambda about: about["robot"].update(state_names=["x", "y", "grip"]))
    rewrite(own, lambda about: about["settings"]["model"]["action"].update(width=64))
    with pytest.raises(CheckpointError, match=r"weights that do not fit, such as 'action\."):
        load_policy(own)
    rewrite(own, lambda about: about["settings"].update(colour="red"))
    with pytest.raises(ConfigError, match=r"policy.json: settings.*colour|colour"):
        load_policy(own)
    rewrite(own, lambda about: about["files"].update({"../../etc/passwd": {}}))
    with pytest.raises(CheckpointError, match=r"found a file outside the folder"):
        load_policy(own)


def test_a_device_that_is_not_there(export: Path) -> None:
    with pytest.raises(ConfigError, match=r"device: found 'cuda:99'|device: found 'nonsense'"):
        load_policy(export, "nonsense")


def test_what_users_wrote_is_escaped(export: Path) -> None:
    contract = load_policy(export).contract
    nasty = "<script>alert(1)</script> | [x](javascript:a) `*b*` \n# heading\n---"
    nothing = Grid(head=("a",), rows=())
    facts = Facts(
        name=nasty,
        summary=[nasty],
        contract=contract,
        license="other",
        datasets=["a: b", "- c\n---\n# d"],
        base_models=[],
        curriculum=Grid(head=("stage",), rows=[(nasty,)]),
        tokens=nothing,
        health=[Grid(head=("a",), rows=[("1",)], title=nasty)],
        rollouts=nothing,
        texts=nothing,
        licenses=nothing,
        missing=[nasty],
        versions={nasty: nasty},
    )
    text = render(facts)
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["datasets"] == ["- c\n---\n# d", "a: b"]
    assert "<script" not in body
    assert "[x](" not in body
    assert "\n# heading" not in body
    assert r"\| \[x\]" in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert any(line.count(" | ") == 0 for line in rows), "a cell stays one cell"
    assert "Not measured." in body
    assert escape("a_b") == r"a\_b"
    assert '"top": np.zeros((32, 32, 3), np.uint8)' in example(contract)
