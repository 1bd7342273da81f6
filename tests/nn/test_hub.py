import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from trivium.core.errors import ConfigError, SetupError
from trivium.nn.hub import load_part, use_our_attention

LOAD = transformers.AutoConfig.from_pretrained


def test_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(SetupError, match=r"vision\.path: found no folder .*/nope; .* Run `make demo`"):
        load_part(LOAD, str(tmp_path / "nope"), "vision.path")


def test_folder_without_files_is_a_setup_error(tmp_path):
    with pytest.raises(SetupError, match=r"language\.path: found no config\.json in"):
        load_part(LOAD, str(tmp_path), "language.path")


def test_name_that_is_not_cached_is_a_setup_error():
    with pytest.raises(SetupError, match="download the model on a machine with internet"):
        load_part(LOAD, "nobody/never-was", "vision.path")


def test_broken_file_is_a_config_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(ConfigError, match="without remote code"):
        load_part(LOAD, str(tmp_path), "vision.path")


def test_verbosity_is_given_back(tmp_path):
    before = transformers.utils.logging.get_verbosity()
    with pytest.raises(SetupError):
        load_part(LOAD, str(tmp_path), "x")
    assert transformers.utils.logging.get_verbosity() == before


def test_our_attention_gives_the_models_own_answer():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(32, (1, 9))
    expected = model(tokens).logits
    use_our_attention(model)
    # Without a mask HF relies on `is_causal`; our callers always give one.
    mask = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1)[None, None]
    torch.testing.assert_close(model(tokens, attention_mask=mask).logits, expected, atol=1e-5, rtol=0)
