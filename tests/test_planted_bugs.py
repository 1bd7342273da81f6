"""The table of planted bugs fits the code, and the script that plants them knows whether one is seen."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
CATALOGUE = """
clip_loss_parity clip_loss_2rank clip_scale_clamp gradient_cache siglip_loss_parity siglip_init mae_mask mae_parity
mae_loss_only_masked mae_overfit resnet_param_count resnet_bn_frozen vq_index vq_commit vq_ema vq_dead_code
rvq_residual fsq_roundtrip fsq_all_codes vq_2rank gato_oracle openvla_roundtrip rt1_roundtrip tokens_out_of_range
nan_rejected vocab_collision fast_roundtrip fast_unseen_value fast_truncated fast_cross_embodiment fast_ratio
fast_hf_reader cvae_kl cvae_active_units cvae_z0 ddpm_schedule ddpm_add_noise ddim_step ddpm_toy flow_gauss
flow_time_law flow_bimodal flow_pad_dims adamw_formula lr_closed_form groups_partition clip_norm freeze_no_drift
unfreeze_fresh_state loss_rank_invariance loss_weight_closed_form square_reweight packed_equals_separate
pixel_shuffle_parity perceiver_perm perceiver_mask perceiver_vs_idefics2 gated_xattn_identity compile_eager_parity
no_recompile
"""
"""The parity tests of the modalities and of the connectors; each needs a bug that it sees."""

SOUND = "def double(x):\n    return 2 * x\n"
TEST = """
import pytest
from made import double

@pytest.mark.parametrize("x", [0, 3])
def test_doubles(x):
    assert double(x) == 2 * x, "not twice"

def test_of_nothing():
    assert double(0) == 0

def test_skipped():
    pytest.skip("no peer")

def test_ill():
    assert False
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")  # the processes that it starts look it up there
    module = importlib.import_module("plant_bugs")
    monkeypatch.setattr(module, "PRELOADED", ())
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they cost seconds a run
    return module


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "src/made.py").write_text(SOUND)
    (tmp_path / "tests/test_made.py").write_text(TEST)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['src']\n")
    return tmp_path


def bug(script: ModuleType, new: str, test: str, old: str = "2 * x"):
    return script.Bug(new, "src/made.py", old, new, f"tests/test_made.py::{test}")


def test_every_entry_fits_the_code(script: ModuleType):
    assert script.misfits(ROOT, script.table()) == []


def test_every_parity_test_has_a_bug(script: ModuleType):
    lines = {entry.line for entry in script.table()}
    assert sorted(set(CATALOGUE.split()) - lines) == []
    assert len(script.table()) == len({(entry.file, entry.old, entry.new, entry.test) for entry in script.table()})


def test_seen_and_not_seen_are_told_apart(script: ModuleType, made: Path, capsys: pytest.CaptureFixture[str]):
    bugs = [
        bug(script, "3 * x", "test_doubles"),
        bug(script, "x * 3", "test_of_nothing"),
        bug(script, "2 * y", "test_doubles"),
        bug(script, "2 ** x", "test_skipped"),
    ]
    assert script.main(made, bugs) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "without any bug, 3 tests pass"
    assert [line[:9].strip() for line in out[1:5]] == ["seen", "NOT SEEN", "CRASHED", "not tried"]
    assert "AssertionError: not twice" in out[1]
    assert "NameError: name 'y' is not defined" in out[3]
    assert out[5] == "4 bugs: 1 seen, 1 NOT SEEN, 1 CRASHED, 1 not tried"
    assert (made / "src/made.py").read_text() == SOUND, "bugs are planted in a copy"
    assert script.main(made, [bugs[0], bugs[3]]) == 0


def test_a_test_that_fails_by_itself_proves_nothing(script: ModuleType, made: Path, capsys: pytest.CaptureFixture[str]):
    assert script.main(made, [bug(script, "3 * x", "test_ill")]) == 1
    assert capsys.readouterr().out == "without any bug, these fail: tests/test_made.py::test_ill\n"


def test_a_table_that_does_not_fit_is_refused(script: ModuleType, made: Path, capsys: pytest.CaptureFixture[str]):
    bugs = [bug(script, "y", "test_doubles", "x"), bug(script, "3 * x", "test_gone"), bug(script, "a", "test_ill", "a")]
    assert script.main(made, bugs) == 1
    out = capsys.readouterr().out
    assert "src/made.py: 'x' is there 2 times" in out
    assert "tests/test_made.py::test_gone is not there" in out
    assert "'a' is there 0 times" in out
    assert script.main(made, []) == 1
