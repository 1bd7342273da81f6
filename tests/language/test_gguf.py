"""GGUF files: a tiny Llama as llama.cpp writes it, and the ways in which such a file can be wrong."""

import shutil

import numpy as np
import pytest
import torch
import transformers

from trivium.core.errors import ConfigError, SetupError
from trivium.language.model import PretrainedLanguageConfig
from trivium.language.vocab import byte_tokenizer
from trivium.nn import hub

gguf = pytest.importorskip("gguf", reason="the extra `weights` is not installed")

END = 257
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
HEADS = {"q_proj": 4, "k_proj": 2}


def turned(weight, heads):
    """llama.cpp turns pairs of numbers where transformers turns halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(file, model, left_out=""):
    writer = gguf.GGUFWriter(str(file), "llama")
    for name, value in {
        "block_count": 3,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 48,
        "head_count": 4,
        "head_count_kv": 2,
        "layer_norm_rms_eps": 1e-6,
        "rope_dimension_count": 8,
        "vocab_size": END + 1,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "default",
        "token_merges": ["h e"],
        "token_types": [1] * END + [3],
        "eos_token_id": END,
    }.items():
        getattr(writer, f"add_{name}")(value)
    tokens = {i: token for token, i in byte_tokenizer().get_vocab().items()}
    writer.add_token_list([*(tokens[i] for i in range(256)), "he", "<|end|>"])
    for name, weight in model.state_dict().items():
        part, array = name.removesuffix(".weight"), weight.numpy()
        layer = ""
        if part.startswith("model.layers."):
            _, _, number, part = part.split(".", 3)
            layer = f"blk.{number}."
        if (heads := HEADS.get(part.rpartition(".")[2])) is not None:
            array = turned(array, heads)
        if part != left_out:
            writer.add_tensor(f"{layer}{NAMES[part]}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=END + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=END,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


def language(path, num_layers=3):
    return PretrainedLanguageConfig(path=str(path), num_layers=num_layers, num_extra_tokens=2)


def test_a_file_gives_the_same_logits_and_words(model, file):
    found = language(file).build().eval()
    tokens = torch.randint(256, (1, 9))
    with torch.no_grad():
        hidden = found(found.embed(tokens), torch.zeros_like(tokens), torch.arange(9)[None])
        assert (found.logits(hidden[0])[:, : END + 1] - model(tokens).logits[0]).abs().max() <= 1e-5
    assert found.vocab.end == END
    # transformers gives such a tokenizer one more word, <|endoftext|>; extra ids begin behind it.
    assert found.vocab_size == language(file).vocab().size == END + 4
    assert found.vocab.encode("hello<|end|>")[0] == 256
    assert max(found.vocab.encode("hello<|end|>")) < END


def test_a_folder_with_one_file_will_do(file, tmp_path):
    shutil.copy(file, tmp_path / "a.gguf")
    assert len(language(tmp_path, num_layers=1).build().layers) == 1
    shutil.copy(file, tmp_path / "b.gguf")
    with pytest.raises(ConfigError, match=r"language\.path: found 2 GGUF files in .*: a\.gguf, b\.gguf; expected one"):
        language(tmp_path).build()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.002, 0.02, 0.5, 0.999])
def test_half_a_file_is_refused(file, tmp_path, share):
    data, half = file.read_bytes(), tmp_path / "half.gguf"
    half.write_bytes(data[: int(len(data) * share)])
    for act in ("build", "vocab"):
        with pytest.raises(ConfigError, match=r"language\.path: found .*half\.gguf"):
            getattr(language(half), act)()


def test_a_file_without_a_tensor_is_refused(model, tmp_path):
    file = write(tmp_path / "hole.gguf", model, left_out="self_attn.v_proj")
    with pytest.raises(SetupError, match=r"hole\.gguf without 3 of its weights, such as model\.layers\.0"):
        language(file).build()


def test_a_file_that_is_not_there_or_no_gguf_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"language\.path: found no file .*none\.gguf"):
        language(tmp_path / "none.gguf").build()
    (tmp_path / "zip.gguf").write_bytes(b"PK\3\4 and more")
    with pytest.raises(ConfigError, match=r"zip\.gguf that begins with b'PK.*expected a GGUF file"):
        language(tmp_path / "zip.gguf").vocab()


def test_without_the_package_it_says_what_to_install(file, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None if name == "gguf" else True)
    with pytest.raises(SetupError, match=r"no package 'gguf'; .* Type: pip install -e '\.\[weights\]'"):
        language(file).build()
