"""What could only fail, or learn nothing, is refused before the first step, by stage and field; nothing is touched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import small_run
import torch

from trivium import curriculum
from trivium.assemble import World
from trivium.core.errors import ConfigError, TriviumError
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.text import TextConfig
from trivium.language.continual import ContinualConfig
from trivium.language.lora import LoraConfig
from trivium.policy.objective import VlaConfig
from trivium.preflight import check_stages
from trivium.run import Run
from trivium.train.checkpoint import FILES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_run.write_set(tmp_path_factory.mktemp("flight") / "set", 8)
    with (folder.parent / "prose.jsonl").open("w") as file:
        for i in range(40):
            file.write(json.dumps({"id": str(i), "text": f"The arm moves {i} cm.", "license": "MIT"}) + "\n")
    return folder


@pytest.fixture
def config(data: Path) -> Run:
    return small_run.small_run(data, workers=0).replace(rollout=None)


def last(config: Run, **changes: object) -> Run:
    """Change the last stage, which no run would come to before the first has trained."""
    return config.replace(stages=(*config.stages[:-1], config.stages[-1].replace(**changes)))


def words(data: Path) -> MixtureConfig:
    source = TextConfig(path=str(data.parent / "prose.jsonl"))
    bucket = BucketConfig(name="prose", source=source, weight=1.0, max_epochs=50)
    return MixtureConfig(buckets=(bucket,), row_length=96, rows_per_batch=1, max_images_per_row=0, workers=0)


def refused(config: Run, folder: Path, *said: str) -> None:
    """See that the whole command refuses, trains nothing, and leaves the folder free."""
    with pytest.raises(TriviumError) as error:
        curriculum.execute(config, folder)
    for part in said:
        assert part in str(error.value), str(error.value)
    assert {path.name for path in folder.iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learn": ("vison",)}, ("stages.vla.learn: found the pattern 'vison'", "Did you mean 'vision'")),
        ({"learn": ("language.layers.7-",)}, ("stages.vla.learn", "numbers from 0 to 1")),
        ({"learn": ("vision", "!vision"), "lr_groups": {}}, ("stages.vla.learn", "at least one parameter that learns")),
        ({"learn": ("connect",)}, ("stages.vla.lr_groups.vision", "do not learn")),
        (
            {"learn": ("action",), "lr_groups": {}, "objective": VlaConfig(flow_weight=0.0)},
            ("stages.vla.learn: found action, to which no gradient of the loss 'text' comes", "set the weight"),
        ),
        (
            {"learn": ("action", "connect"), "lr_groups": {}, "objective": VlaConfig(flow_weight=0.0)},
            ("stages.vla.learn: found the pattern 'action', to which no gradient comes (losses: text, action_token)",),
        ),
        (
            {
                "learn": ("language",),
                "lr_groups": {},
                "objective": VlaConfig(text_weight=0.0, action_token_weight=0.0, insulate=True),
            },
            ("stages.vla.learn: found language, to which no gradient of the loss 'flow' comes",),
        ),
        (
            {
                "learn": ("language", "action"),
                "lr_groups": {},
                "objective": VlaConfig(text_weight=0.0, action_token_weight=0.0, insulate=True),
            },
            ("stages.vla.learn: found the pattern 'language', to which no gradient comes (losses: flow)",),
        ),
        (
            {"lora": LoraConfig(rank=2), "learn": ("connect",), "lr_groups": {}},
            ("stages.vla.learn", "adapters that do not learn"),
        ),
        ({"fresh": ("connect",), "learn": ("action",), "lr_groups": {}}, ("stages.vla.fresh", "and not learn")),
        ({"fresh": ("acton",)}, ("stages.vla.fresh: found the pattern 'acton'", "Did you mean 'action'")),
        ({"objective": VlaConfig(flow_weight=-1.0)}, ("stages.vla.objective.flow_weight", "0 or more")),
        ({"steps": 10_000}, ("mixture.buckets.0 (robot)", "at most max_epochs = 20")),
    ],
)
def test_a_late_stage_is_refused_before_the_first(config: Run, tmp_path: Path, changes: dict, said: tuple[str, ...]):
    if "lora" in changes:
        pytest.importorskip("peft", reason="the extra `lora` is not installed")
    refused(last(config, **changes), tmp_path, *said)


def test_an_encoder_learns_nothing_from_text_alone(config: Run, data: Path, tmp_path: Path):
    only = VlaConfig(action_token_weight=0.0, flow_weight=0.0)
    found = "stages.vla.learn: found vision, to which no gradient of the loss 'text' comes"
    refused(last(config, learn=("vision",), lr_groups={}, objective=only, mixture=words(data)), tmp_path, found)
    both = last(config, learn=("vision", "language"), lr_groups={}, objective=only, mixture=words(data))
    refused(both, tmp_path, "stages.vla.learn: found the pattern 'vision', to which no gradient comes (losses: text)")


@pytest.mark.parametrize("name", ["action_token_weight", "flow_weight"])
def test_a_weight_for_what_the_data_lack_is_refused(config: Run, data: Path, tmp_path: Path, name: str):
    weights = {"action_token_weight": 0.0, "flow_weight": 0.0, name: 0.5}
    stage = {"learn": ("language",), "lr_groups": {}, "objective": VlaConfig(**weights), "mixture": words(data)}
    refused(last(config, **stage), tmp_path, f"stages.vla.objective.{name}: found 0.5, and no sample", f"{name}=0.0")


def test_words_that_nobody_learns_are_seen_on_all_samples(config: Run, tmp_path: Path):
    silent = tuple(step for step in config.transforms if step.kind != "ground")
    refused(config.replace(transforms=silent), tmp_path, "stages.vla.objective.text_weight: found 1", "learned words")


def test_rows_longer_than_the_window_are_refused(config: Run, tmp_path: Path):
    long = config.stages[1].mixture.replace(row_length=5000)
    refused(last(config, mixture=long), tmp_path, "stages.vla.mixture.row_length: found 5000", "at most 2048")


def test_a_budget_of_zero_is_refused(config: Run):
    with pytest.raises(ConfigError, match=r"the token budget: found 0 tokens; expected more than 0. Leave the stage"):
        config.stages[0].mixture.steps_for(0)


def state_of(world: World) -> tuple:
    parameters = [(name, p.detach().clone(), p.requires_grad, p.grad) for name, p in world.model.named_parameters()]
    return parameters, [module.training for module in world.model.modules()], torch.random.get_rng_state()


def test_looking_changes_nothing(config: Run, data: Path, tmp_path: Path):
    """Adapters and a text stage as well: names, bits, who learns, modes and random numbers are as before."""
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    adapters = config.stages[1].replace(
        name="adapters",
        learn=("language.lora",),
        lr_groups={},
        lora=LoraConfig(rank=2),
        objective=ContinualConfig(),
        mixture=words(data),
    )
    world = World(config.replace(stages=(*config.stages, adapters)), tmp_path)
    world.model.language.layers[0].mlp.gate_proj.weight.data[0] = -0.0  # an adapter of zeros would make it +0.0
    before, modes, numbers = state_of(world)
    check_stages(world)
    after, modes_after, numbers_after = state_of(world)
    assert [row[0] for row in before] == [row[0] for row in after]
    for (name, old, learned, _), (_, new, learns, grad) in zip(before, after, strict=True):
        assert old.numpy().tobytes() == new.numpy().tobytes(), name
        assert learned == learns, name
        assert grad is None, name
    assert modes == modes_after
    assert torch.equal(numbers, numbers_after)


def test_a_run_trains_the_same_bits_with_and_without_the_look(
    config: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    curriculum.execute(config, tmp_path / "looked")
    monkeypatch.setattr(curriculum, "check_stages", lambda world: None)
    curriculum.execute(config, tmp_path / "not")
    for name in FILES:
        ends = [tmp_path / run / "checkpoints/vla/step-000008" / name for run in ("looked", "not")]
        assert ends[0].read_bytes() == ends[1].read_bytes(), name


def test_a_resume_does_not_look_again(config: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curriculum, "check_health", small_run.no_health)
    seen: list[World] = []
    look: Callable[[World], None] = check_stages
    monkeypatch.setattr(curriculum, "check_stages", lambda world: (seen.append(world), look(world)))
    curriculum.execute(config, tmp_path)
    curriculum.execute(config, tmp_path)
    assert len(seen) == 1
