import copy
import hashlib
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from trivium.core.errors import ConfigError, SetupError, TrainingError
from trivium.data.bucket import BucketConfig, MixtureConfig
from trivium.data.source.text import TextConfig
from trivium.language import lora
from trivium.language.continual import ContinualConfig
from trivium.language.lora import LoraConfig, adapt, merge
from trivium.language.model import LanguageModel
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.run import Stage
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig

pytest.importorskip("peft", reason="the extra `lora` is not installed")

CORPUS = BucketConfig(name="a", source=TextConfig(path="never opened"), weight=1.0, max_epochs=1)
MIXTURE = MixtureConfig(buckets=(CORPUS,), row_length=16, rows_per_batch=1, max_images_per_row=0)
LLAMA = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 256,
}
GPT2 = {"vocab_size": 257, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 256}
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
}


def language(family="llama"):
    torch.manual_seed(0)
    return LanguageModel(MODELS[family](), Vocab(byte_tokenizer(), 256, 257, 3), 3)


def objective(family="llama"):
    return ContinualConfig().build(SimpleNamespace(language=language(family)))


def stage(**changes):
    settings = {"learn": ("language.lora",), "lora": LoraConfig(rank=2)} | changes
    return Stage(name="read", steps=9, lr=1e-2, objective=ContinualConfig(), mixture=MIXTURE, **settings)


def logits(model):
    tokens = torch.arange(11)[None]
    with torch.no_grad():
        return model.eval().logits(model(model.embed(tokens), torch.zeros_like(tokens), tokens)[0])


def train(learner, config, steps=3):
    optimizer, _ = config.build(learner)
    losses = []
    for _ in range(steps):
        optimizer.begin_step()
        seen = differentiate(learner, [learner.fake_batch()], optimizer)
        losses.append(seen.total)
        assert optimizer.step(seen.total, 1.0).taken
    return losses


def hashes(module):
    return {
        name.replace(".base_layer", ""): hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for name, value in module.state_dict().items()
        if ".lora_" not in name and ".lora." not in name and not name.startswith("lora.")
    }


@pytest.mark.parametrize("family", MODELS)
def test_fresh_adapters_change_nothing_and_leave_no_trace(family):
    model = language(family)
    plain, names, before = logits(model), list(model.state_dict()), hashes(model)
    adapt(model, LoraConfig(rank=2), "here")
    assert torch.equal(logits(model), plain)
    assert hashes(model) == before
    merge(model, "here")
    assert list(model.state_dict()) == names
    assert hashes(model) == before
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("family", MODELS)
def test_merged_weights_are_w_plus_scale_b_a(family):
    model = language(family)
    old = copy.deepcopy(model.state_dict())
    adapt(model, LoraConfig(rank=2, scale=3.0), "here")
    for parameter in model.lora.parameters():
        nn.init.normal_(parameter, std=0.2)
    halves = {name: part.detach().clone() for name, part in model.named_parameters() if ".lora_" in name}
    adapted = logits(model)
    merge(model, "here")
    assert (logits(model) - adapted).abs().max() <= 1e-5
    matrices = 0
    for name, value in model.state_dict().items():
        stem = name.removesuffix(".weight")
        expected = old[name]
        if f"{stem}.lora_A.default.weight" in halves:
            change = 3.0 * halves[f"{stem}.lora_B.default.weight"] @ halves[f"{stem}.lora_A.default.weight"]
            expected = expected + (change.T if family == "gpt2" else change)
            assert change.abs().max() > 0.01
            matrices += 1
        assert (value - expected).abs().max() <= 1e-6, name
    assert matrices == 3 * (4 if family == "gpt2" else 7)


@pytest.mark.parametrize("family", MODELS)
def test_a_stage_learns_its_adapters_alone_and_hands_plain_weights_on(family):
    learner = objective(family)
    before, config = hashes(learner), stage()
    losses = train(learner, config, 20)
    assert hashes(learner) == before, "the frozen base has moved"
    assert losses[-1] < losses[0] - 0.1
    adapted = logits(learner.language)
    config.hand_over(learner)
    assert hashes(learner).keys() == before.keys()
    moved = {name for name, value in hashes(learner).items() if value != before[name]}
    assert moved
    assert all(".layers." in name for name in moved)
    assert not any("norm" in name or "ln_" in name or name.endswith("bias") for name in moved)
    assert (logits(learner.language) - adapted).abs().max() <= 1e-4
    # The next stage trains the very weights again.
    train(learner, stage(lora=None, learn=("language.layers.0",)), 1)


def test_adapters_learn_by_layer():
    learner = objective()
    train(learner, stage(learn=("language.lora.1-",)))
    moved = [any(bool(half.default.weight.any()) for half in halves[1::2]) for halves in learner.language.lora]
    assert moved == [False, True, True]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(
    ("pattern", "layers"),
    [("language.layers.2", {2}), ("language.layers.1-2", {1, 2}), ("language.layers.1-", {1, 2})],
)
def test_partial_layers_learn_by_number_and_by_range(family, pattern, layers):
    learner = objective(family)
    before = hashes(learner)
    train(learner, stage(lora=None, learn=(pattern,)), 1)
    moved = {name for name, value in hashes(learner).items() if value != before[name]}
    assert {name.split(".")[1] for name in moved} == {"layers"}
    assert {int(name.split(".")[2]) for name in moved} == layers


def test_part_of_a_layer_learns_by_name():
    learner = objective()
    before = hashes(learner)
    train(learner, stage(lora=None, learn=("language.layers.*.mlp", "!language.layers.0")), 1)
    moved = {name for name, value in hashes(learner).items() if value != before[name]}
    assert {".".join(name.split(".")[1:4]) for name in moved} == {"layers.1.mlp", "layers.2.mlp"}


def test_adapters_in_bfloat16_have_its_type_and_merge():
    model = language().to(torch.bfloat16)
    adapt(model, LoraConfig(rank=2), "here")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    for parameter in model.lora.parameters():
        nn.init.normal_(parameter, std=0.1)
    adapted = logits(model)
    merge(model, "here")
    assert (logits(model) - adapted).abs().max() < 0.1


def test_the_same_seed_gives_the_same_adapters():
    found = []
    for _ in range(2):
        learner = objective()
        torch.manual_seed(5)
        train(learner, stage())
        found.append(torch.cat([parameter.detach().flatten() for parameter in learner.language.lora.parameters()]))
    assert torch.equal(*found)


def test_adapters_that_do_not_learn_are_refused():
    with pytest.raises(ConfigError, match=r"stages\.read\.learn: found language\.layers\.0\.input_layernorm, and adap"):
        stage(learn=("language.layers.0.input_layernorm",)).build(objective())


def test_an_objective_without_a_language_model_is_refused():
    with pytest.raises(ConfigError, match=r"stages\.read\.lora: found adapters in a Linear; expected an objective wit"):
        stage().build(nn.Linear(2, 2))


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"stages\.read\.lora: found no package 'peft'.*pip install -e '\.\[lora\]'"):
        stage().build(objective())


def test_adapters_that_are_not_finite_are_not_merged():
    learner = objective()
    config = stage()
    config.build(learner)
    next(learner.language.lora.parameters()).data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"stages\.read\.lora: found adapters of 0\.self_attn\.q_proj that are not"):
        config.hand_over(learner)


def test_a_stage_without_adapters_builds_as_before():
    learner = objective()
    _, table = stage(lora=None, learn=("language",)).build(learner)
    _, expected = StageConfig(name="read", steps=9, lr=1e-2, learn=("language",)).build(objective())
    assert table == expected
