"""What a person meets who types something wrong: one paragraph that says what to do next, exit code 2, no traceback."""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from typer.testing import CliRunner, Result

from trivium import curriculum
from trivium.cli import app
from trivium.core.config import to_yaml

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "recipes/quickstart.py")


def type_in(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object) -> str:
    """Type a command that must be refused; return what it says, its line breaks undone."""
    result = type_in(*words)
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_set(tmp_path_factory.mktemp("cli") / "set")


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may damage, a config that trains on it, and no simulator."""
    folder = tmp_path / "set"
    shutil.copytree(data, folder)
    (tmp_path / "config.yaml").write_text(to_yaml(small_run.small_run(folder, workers=0)))
    return folder


@pytest.fixture
def train(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Train on the damaged set, see it refused; nothing half-written may be left."""
    monkeypatch.setattr(curriculum, "roll_out", small_run.no_simulator)
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)

    def train(*overrides: str) -> str:
        text = refused("train", tmp_path / "config.yaml", *overrides, "--run", tmp_path / "run")
        assert [*(tmp_path / "run").rglob("*.tmp")] == []
        return text

    return train


def test_a_setting_that_does_not_exist_gets_a_suggestion(tmp_path: Path):
    text = refused("train", QUICKSTART, "stages.1.stepz=5", "--run", tmp_path / "run")
    assert text.startswith("ConfigError: ")
    assert "stages.1.stepz" in text
    assert "did you mean 'steps'" in text.lower()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.1.steps=many", "stages.1.steps"),
        ("stages.1.steps=-3", "stages.1.steps"),
        ("stages.jiont.steps=3", "'joint'"),
        ("model.action.kind=flwo", "model.action"),
        ("stages.1.steps", "PATH=VALUE"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(override: str, said: str):
    text = refused("show", QUICKSTART, override)
    assert text.startswith("ConfigError: ")
    assert said in text


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (None, "ConfigError", "no such file"),
        ("x = 1\n", "ConfigError", "no function `recipe`"),
        ("import flash_attention_nine\n", "SetupError", "pip install flash_attention_nine"),
        ("def recipe():\n    import no_such_thing_here\n", "SetupError", "pip install no_such_thing_here"),
        ("def recipe(:\n", "ConfigError", "recipe.py:1"),
        ("def recipe():\n    return 5\n", "ConfigError", "found a int; expected a trivium.run.Run"),
        ("from trivium.run import Run\ndef recipe():\n    return Run(nmae='x')\n", "ConfigError", "name"),
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, code: str | None, kind: str, said: str):
    recipe = tmp_path / "recipe.py"
    if code is not None:
        recipe.write_text(code)
    text = refused("show", recipe)
    assert text.startswith(f"{kind}: {recipe}") or kind == "ConfigError"
    assert said in text


def test_missing_data_say_how_to_record_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    text = refused("train", ROOT / "recipes/scratch.py")
    assert text == (
        "DataError: data/quickstart/robot: found no such folder; expected a LeRobot data set (v2.0, v2.1 or v3.0): "
        "meta/info.json, meta/tasks.*, meta/episodes*, data/, videos/. Correct `path`, or record demonstrations: "
        "trivium demo-data data/quickstart"
    )
    left = [path.name for path in (tmp_path / "runs/scratch").iterdir()]
    assert left == [".lock"], "a run that could not begin leaves its folder free for the corrected command"


def test_a_folder_that_is_no_dataset(own: Path, train: Callable[..., str]):
    (own / "meta/info.json").rename(own / "info.json")
    text = train()
    assert f"{own}: found no meta/info.json (the folder holds: data, info.json, meta, videos)" in text


def test_a_truncated_video_is_named_with_its_episodes(own: Path, train: Callable[..., str]):
    (video,) = own.rglob("*.mp4")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    text = train()
    assert text.startswith(f"DataError: {video}: episodes 0 to {small_run.EPISODES - 1}")
    assert "Copy that file again" in text


def test_nan_in_an_action_is_named_with_episode_and_frame(own: Path, train: Callable[..., str]):
    (path,) = own.glob("data/*/*.parquet")
    table = pq.read_table(path)
    actions = table["action"].to_pylist()
    actions[small_run.LENGTH * 3 + 5][1] = float("nan")
    column = table.schema.get_field_index("action")
    table = table.set_column(column, "action", pa.array(actions, table.schema.field("action").type))
    pq.write_table(table, path)
    text = train()
    assert text.startswith("DataError: ")
    assert "episode 3, frame 5" in text
    assert "nan" in text.lower()


def test_a_horizon_that_does_not_fit(train: Callable[..., str]):
    assert "model.action.horizon: found 3; expected 4" in train("model.action.horizon=3")


@pytest.mark.sim
def test_demo_data_of_an_unknown_task_gets_a_suggestion(tmp_path: Path):
    text = refused("demo-data", tmp_path / "out", "--tasks", "buton-press-v3")
    assert "Did you mean 'button-press-v3'" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "value", "said"), [("episodes", 0, "episodes"), ("views", "behind", "views")])
def test_demo_data_with_a_wrong_number_or_view(tmp_path: Path, option: str, value: object, said: str):
    text = refused("demo-data", tmp_path / "out", f"--{option}", value)
    assert said in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["report", "eval", "check"])
def test_a_folder_that_is_no_run(tmp_path: Path, verb: str):
    text = refused(verb, tmp_path)
    assert text.startswith(f"CheckpointError: {tmp_path}: found no config.yaml")
    assert "trivium train" in text
    assert list(tmp_path.iterdir()) == []
    assert "CheckpointError" in refused(verb, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("verb", ["eval", "check"])
def test_a_run_that_has_not_trained(own: Path, tmp_path: Path, verb: str):
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "config.yaml", tmp_path / "run")
    text = refused(verb, tmp_path / "run")
    assert "found no checkpoint" in text


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse files beyond so many bytes, as a full disk refuses them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_checkpoint_and_the_run_goes_on(train: Callable[..., str], tmp_path: Path):
    folder = tmp_path / "run"
    with largest_file(600_000):  # enough for the first stage, whose optimizer holds the action part alone
        text = train()
    assert text.startswith(f"CheckpointError: {folder / 'checkpoints/vla/step-000003'}")
    assert "Free some room" in text
    assert (folder / "checkpoints/latest").read_text() == "prior/step-000006\n"
    assert [path.name for path in folder.glob("checkpoints/vla/.*")] == []
    again = type_in("train", tmp_path / "config.yaml", "--run", folder)
    assert again.exit_code == 0, again.output
    assert (folder / "checkpoints/latest").read_text() == "vla/step-000008\n"
    assert (folder / "report.html").is_file()
