"""InternVL 2.5's curriculum as a recipe: its numbers are the preset's, and its stages move what the paper says."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from language_sizes import COMMON
from transformers import PreTrainedTokenizerFast

from trivium.assemble import build_model, build_objective
from trivium.core.config import from_yaml, to_yaml
from trivium.data.preset.catalog import preset
from trivium.data.preset.internvl import SIZES
from trivium.language.vocab import byte_tokenizer
from trivium.policy.vla import Model
from trivium.run import Run
from trivium.train.gradient import differentiate
from trivium.train.stage import select

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import internvl25

LEARN = {
    "connector": {"connect"},
    "encoder": {"vision", "connect"},
    "everything": {"vision", "connect", "language"},
}


def told(size: str, stage: str) -> dict[str, str]:
    return {setting.name: setting.value for setting in preset(f"internvl2.5-{size}-stage{stage}").settings}


@pytest.mark.parametrize("size", list(SIZES))
def test_every_size_has_the_published_numbers(size: str):
    config = internvl25.recipe(size)
    first, middle, last, lr, decay, drop = SIZES[size]
    assert [stage.name for stage in config.stages] == ["connector", *(["encoder"] if middle else []), "everything"]
    assert config.model.vision.drop_path == float(drop)
    rates = {"connector": 2e-4, "encoder": 1e-5, "everything": float(lr)}
    rows = {"connector": 512, "encoder": 1024, "everything": 512}
    tokens = {"connector": first, "encoder": middle, "everything": last}
    for stage in config.stages:
        assert {pattern.split(".")[0] for pattern in stage.learn} == LEARN[stage.name]
        assert (stage.lr, stage.weight_decay) == (rates[stage.name], float(decay))
        mixture = stage.mixture
        assert (mixture.row_length, mixture.max_images_per_row) == (16_384, 48)
        assert mixture.rows_per_batch * stage.accumulate == rows[stage.name]
        billions = stage.steps * mixture.rows_per_batch * mixture.row_length / 1e9
        assert 0 <= billions - float(tokens[stage.name].split()[0]) < 0.02
        assert stage.warmup_steps == (100 if stage.name != "everything" else -(-3 * stage.steps // 100))
        assert stage.objective.token_average == "square"
    assert {step.kind for step in config.transforms} == {"jpeg", "tile", "normalize"}
    assert next(step for step in config.transforms if step.kind == "jpeg").lowest == 75
    assert from_yaml(Run, to_yaml(config), "config.yaml") == config


def test_only_8b_and_26b_have_the_expensive_stage():
    assert {size for size in SIZES if len(internvl25.recipe(size).stages) == 3} == {"8b", "26b"}


def test_steps_agree_with_the_published_script():
    """The 8B's script stops stage 2 at 5,500 steps; 44 B tokens are a little less."""
    assert 0.9 < internvl25.recipe("8b").stages[-1].steps / 5500 < 1
    assert told("8b", "1.5")["packed batch"] == "1,024"


def test_shares_of_the_last_stage_are_those_of_the_paper():
    weights = {bucket.name: bucket.weight for bucket in internvl25.recipe("1b").stages[-1].mixture.buckets}
    assert weights == {row.name: row.weight for row in preset("internvl2.5-1b-stage2").rows}


def write_parts(folder: Path, size: str) -> None:
    """Write an InternViT and a language model of random weights under the published names, as deep and very narrow."""
    (encoder, blocks), (language, layers) = internvl25.PARTS[size]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 448, "patch_size": 14}
    config = transformers.InternVLVisionConfig(**sizes, num_hidden_layers=blocks)
    transformers.InternVLVisionModel(config).save_pretrained(folder / encoder)
    config = transformers.Qwen2Config(**{**COMMON, "num_hidden_layers": layers})
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder / language)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>")
    tokenizer.save_pretrained(folder / language)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, "8b")
    return folder


@cache
def model_of(parts: Path) -> Model:
    return build_model(internvl25.recipe("8b", str(parts)).replace(precision="float32"))


@pytest.mark.parametrize("name", list(LEARN))
def test_each_stage_of_8b_takes_a_step_on_tiny_parts(parts: Path, name: str):
    config, model = internvl25.recipe("8b", str(parts)).replace(precision="float32"), model_of(parts)
    assert model.connect.num_tokens == 256  # of a tile
    stage = next(stage for stage in config.stages if stage.name == name)
    torch.manual_seed(0)
    objective = build_objective(stage.objective, model, config)
    optimizer, _ = stage.build(objective)
    before = {key: parameter.detach().clone() for key, parameter in objective.named_parameters()}
    optimizer.begin_step()
    reading = differentiate(objective, [objective.fake_batch()], optimizer)
    assert list(reading.loss) == ["text"]
    _, taken = optimizer.step(reading.total, 1.0)
    assert taken
    moved = {key for key, parameter in objective.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved <= select(objective, stage.learn)
    assert {key.split(".")[0] for key in moved} == LEARN[name]


def test_the_rehearsal_has_the_stages_and_rates_of_8b():
    whole, small = internvl25.recipe("8b"), internvl25.recipe()
    for one, other in zip(whole.stages, small.stages, strict=True):
        assert (one.name, one.learn, one.lr, one.weight_decay, one.objective) == (
            *(other.name, other.learn, other.lr, other.weight_decay),
            other.objective,
        )
