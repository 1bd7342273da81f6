import pytest
import torch
import transformers as hf
from language_sizes import RIGHT
from transformers import PreTrainedTokenizerFast

from trivium.core.errors import CheckpointError, SetupError
from trivium.language.hub_folder import read_language, vocab_to_json, write_language
from trivium.language.model import LanguageModel, PretrainedLanguageConfig, TinyLanguageConfig
from trivium.language.vocab import byte_tokenizer

GROWTH = {"num_extra_tokens": 5, "spans": {"image": 7}, "sentinels": ("<fim_prefix>", "<|end|>")}


def original(tmp_path, family: str) -> PretrainedLanguageConfig:
    """Save a tiny model with a chat template and an embedding padded beyond its tokenizer."""
    torch.manual_seed(0)
    config, sizes = RIGHT[family]
    hf.AutoModelForCausalLM.from_config(config(**sizes)).save_pretrained(tmp_path / "from")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "from")
    return PretrainedLanguageConfig(path=str(tmp_path / "from"), num_layers=2, **GROWTH)


def run(language: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    place = torch.arange(ids.shape[1])[None].expand_as(ids)
    hidden = language(language.embed(ids), torch.zeros_like(ids), place)
    return language.logits(hidden.flatten(0, 1)).view(*ids.shape, -1)


@pytest.mark.parametrize("family", RIGHT)
@torch.no_grad()
def test_transformers_and_we_say_the_same_after_the_round_trip(tmp_path, family: str) -> None:
    config = original(tmp_path, family)
    language = config.build().eval()
    for parameter in language.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    out = tmp_path / "out"
    held = write_language(language, config, out)
    assert held == set(language.state_dict())
    ids = torch.randint(language.vocab_size, (1, 9))
    theirs = hf.AutoModelForCausalLM.from_pretrained(out).eval()
    assert theirs.config.num_hidden_layers == 2
    torch.testing.assert_close(theirs(ids).logits, run(language, ids), atol=1e-5, rtol=1e-4)
    again = read_language(out, vocab_to_json(language.vocab, config)).eval()
    assert torch.equal(run(again, ids), run(language, ids)), "bit by bit"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in language.state_dict().items())
    text = "".join(path.read_text() for path in out.glob("*.json"))
    assert str(tmp_path) not in text, "no path of the author's machine"


def test_every_id_stays_where_it_was(tmp_path) -> None:
    config = original(tmp_path, "llama")
    language = config.build()
    write_language(language, config, tmp_path / "out")
    old, new = language.vocab, read_language(tmp_path / "out", vocab_to_json(language.vocab, config)).vocab
    text = 'push <|end|> the "bl\u00f6ck" <fim_prefix>'
    assert new.encode(text) == old.encode(text)
    assert new.encode(text, config.sentinels) == old.encode(text, config.sentinels)
    names = ("end", "num_text", "extra_start", "num_extra", "size", "sentinels")
    assert {name: getattr(new, name) for name in names} == {name: getattr(old, name) for name in names}
    assert [new.span(name) for name in ("action", "image")] == [old.span(name) for name in ("action", "image")]
    ids = range(old.size)
    assert [new.decode([i]) for i in ids] == [old.decode([i]) for i in ids]
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.encode("push", add_special_tokens=False) == old.encode("push")
    assert theirs.eos_token_id == old.end
    assert theirs.chat_template == "{{ messages[0].content }}"


def test_a_tiny_model_in_bfloat16(tmp_path) -> None:
    config = TinyLanguageConfig(width=32, heads=2, num_extra_tokens=3)
    language = config.build().bfloat16().eval()
    write_language(language, config, tmp_path)
    again = read_language(tmp_path, vocab_to_json(language.vocab, config)).bfloat16().eval()
    ids = torch.randint(language.vocab_size, (1, 9))
    assert torch.equal(run(again, ids), run(language, ids))
    assert hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert hf.AutoTokenizer.from_pretrained(tmp_path).decode([104, 105]) == language.vocab.decode([104, 105])


def test_damage_is_named(tmp_path) -> None:
    config = TinyLanguageConfig(width=32, heads=2)
    language = config.build()
    write_language(language, config, tmp_path)
    vocab = vocab_to_json(language.vocab, config)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: found .*; expected the tokenizer that was exported"):
        read_language(tmp_path, {**vocab, "extra_start": 3})
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: found .*; expected the tokenizer that was exported"):
        read_language(tmp_path, vocab)
    (tmp_path / "config.json").unlink()
    with pytest.raises(SetupError, match=r"language: found no config.json"):
        read_language(tmp_path, vocab)
