"""Families of language models, tiny and random, from local folders: ours against transformers' own answer."""

import json

import pytest
import torch
import transformers as hf
from language_sizes import COMMON, DELTA, EXPERTS, HEAD, RIGHT
from transformers import PreTrainedTokenizerFast

from trivium.core.errors import ConfigError, SetupError
from trivium.language import trunk
from trivium.language.model import PretrainedLanguageConfig
from trivium.language.vocab import byte_tokenizer
from trivium.nn import hub
from trivium.nn.attention import attend_in_chunks

REFUSED = {
    "soft caps": (hf.Gemma2Config, HEAD, "soft-capped scores"),
    "sinks": (hf.GptOssConfig, {**HEAD, "num_local_experts": 4, "num_experts_per_tok": 2}, "sinks"),
    "scaled logits": (hf.GraniteConfig, {**COMMON, "logits_scaling": 3.0}, "whose logits we miss by"),
    "head with bias": (hf.PhiConfig, COMMON, "whose logits we miss by"),
    "recurrent": (hf.MambaConfig, {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}, "linear_attention"),
    "hybrid": (
        hf.Qwen3NextConfig,
        {**HEAD, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 16},
        "with linear_attention layers; expected attention layers",
    ),
    "layers elsewhere": (
        hf.OPTConfig,
        {"vocab_size": 300, "hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 32},
        "0 lists of layers",
    ),
    "no mask": (hf.BloomConfig, {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "not run on packed"),
}


def make(config_class, sizes):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config_class(**sizes)).eval()
    for parameter in model.parameters():  # biases, gains and caps that stand at their start would hide a mistake
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def save(folder, model):
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>").save_pretrained(folder)
    return str(folder)


def load(path, num_layers=3):
    return PretrainedLanguageConfig(path=str(path), num_layers=num_layers, num_extra_tokens=4).build()


def packed(model, parts):
    documents = torch.cat([torch.full((1, part.shape[1]), i) for i, part in enumerate(parts)], 1)
    positions = torch.cat([torch.arange(part.shape[1])[None] for part in parts], 1)
    hidden = model(model.embed(torch.cat(parts, 1)), documents, positions)
    return model.logits(hidden[0])[:, :300]


@pytest.mark.parametrize("num_layers", [3, 2])
@pytest.mark.parametrize("family", RIGHT)
def test_a_folder_packed_equals_transformers_apart(tmp_path, monkeypatch, family, num_layers):
    config_class, sizes = RIGHT[family]
    original = make(config_class, sizes)
    path = save(tmp_path, original)
    shorter = hf.AutoModelForCausalLM.from_pretrained(path).eval()
    depth = "n_layer" if "n_layer" in sizes else "num_hidden_layers"
    if num_layers < 3:
        config = json.loads((tmp_path / "config.json").read_text()) | {depth: num_layers}
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:num_layers]
        shorter = hf.AutoModelForCausalLM.from_pretrained(path, config=type(original.config)(**config)).eval()
    parts = [torch.randint(257, (1, size)) for size in (6, 9, 2)]
    with torch.no_grad():
        expected = torch.cat([shorter(part, use_cache=False).logits for part in parts], 1)[0]
        model = load(path, num_layers).eval()
        found = packed(model, parts)
        whole, computed = trunk.CHUNK, []
        monkeypatch.setattr(trunk, "CHUNK", 4)
        monkeypatch.setattr(hub, "attend_in_chunks", lambda *a: computed.append(a[4]) or attend_in_chunks(*a))
        assert (packed(model, parts) - found).abs().max() <= 1e-5, f"chunks differ from rows of up to {whole}"
    assert computed == [[[(0, 6), (6, 15), (15, 17)]]] * num_layers
    assert len(model.layers) == num_layers
    assert (model.head is None) == bool(original.config.tie_word_embeddings)
    assert (found - expected).abs().max() <= 1e-5
    assert expected.std() > 0.01, "logits that hardly differ would hide a mistake"


def test_a_window_reaches_as_far_as_it_says(tmp_path):
    config_class, sizes = RIGHT["mistral window"]
    model = load(save(tmp_path, make(config_class, {**sizes, "num_hidden_layers": 1})), 1).eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        before = packed(model, [tokens])
        after = packed(model, [tokens.clone().index_fill_(1, torch.tensor([4]), 99)])
    changed = (before != after).any(-1).nonzero().flatten().tolist()
    assert changed == [4, 5, 6]


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_packed_is_refused_by_name(tmp_path, family):
    config_class, sizes, said = REFUSED[family]
    path = save(tmp_path, make(config_class, sizes))
    with pytest.raises(ConfigError, match=rf"language\.path: found .*{said}.*Choose another model"):
        load(path, 1)


def test_a_missing_shard_is_named(tmp_path):
    original = make(*RIGHT["llama"])
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    save(tmp_path / "tokenizer", original)
    for file in (tmp_path / "tokenizer").glob("tokenizer*"):
        file.rename(tmp_path / file.name)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert len(load(tmp_path).layers) == 3
    whole = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(SetupError, match=rf"language\.path: found .*{shards[1].name}.*expected a complete folder"):
        load(tmp_path)
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"language\.path: found .*whole files"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    path = save(tmp_path, make(*RIGHT["llama"]))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SetupError, match=r"language\.path: found .*safetensors"):
        load(path)


def test_an_unknown_architecture_is_refused(tmp_path):
    save(tmp_path, make(*RIGHT["llama"]))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "never-was"}))
    with pytest.raises(ConfigError, match="without remote code"):
        load(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
        hf.Qwen2VLConfig(),
        hf.T5Config(),
    ],
)
def test_a_model_that_is_no_language_model_is_refused(tmp_path, config):
    config.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>").save_pretrained(tmp_path)
    for act in ("build", "vocab"):
        language = PretrainedLanguageConfig(path=str(tmp_path), num_layers=1, num_extra_tokens=4)
        with pytest.raises(ConfigError, match=rf"found .*, which holds a {config.model_type}; expected a causal"):
            getattr(language, act)()


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    path = save(tmp_path, make(hf.LlamaConfig, {**COMMON, "vocab_size": 200, "eos_token_id": 0, "pad_token_id": 0}))
    with pytest.raises(ConfigError, match="a tokenizer of 256 words and 200 embeddings; expected a tokenizer that be"):
        load(path)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    save(tmp_path, make(*RIGHT["llama"]))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"language\.path: found"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises((ConfigError, SetupError), match=r"language\.path: found"):
        load(tmp_path)


@pytest.mark.parametrize("family", RIGHT)
def test_hidden_states_can_be_changed_before_any_layer(tmp_path, family):
    model = load(save(tmp_path, make(*RIGHT[family]))).eval()
    embeddings, places = 0.1 * torch.randn(1, 6, 32), torch.arange(6)[None]
    push = (0.1 * torch.randn(1, 6, 32)).requires_grad_()
    rows = torch.zeros_like(places), places
    plain, pushed = model(embeddings, *rows), model(embeddings + push, *rows)
    before_all = model(embeddings, *rows, inside={0: lambda hidden: hidden + push})
    torch.testing.assert_close(before_all, pushed, atol=1e-5, rtol=1e-4)
    seen = []
    later = model(
        embeddings, *rows, inside={2: lambda hidden: hidden + push, 1: lambda hidden: seen.append(hidden) or hidden}
    )
    assert (later - plain).abs().max() > 1e-3
    assert (later - pushed).abs().max() > 1e-3
    assert seen[0].shape == embeddings.shape
    assert torch.equal(model(embeddings, *rows), plain), "a change outlives its pass"
    later.square().sum().backward()
    assert push.grad.abs().sum() > 0
    for number in range(3):
        assert all(p.grad is not None for name, p in model.layers[number].named_parameters() if "expert" not in name)
