import copy
import json
import math

import pytest
import torch
import transformers
from language_sizes import COMMON, GPT2
from transformers import PreTrainedTokenizerFast

from trivium.core.errors import ConfigError, SetupError
from trivium.language.model import LanguageModel, PretrainedLanguageConfig, TinyLanguageConfig, grow
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.train.stage import StageConfig

FAMILIES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON, tie_word_embeddings=True)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**COMMON, tie_word_embeddings=False)),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**COMMON)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**COMMON, head_dim=8)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
}


def wrap(model, num_extra=4, num_layers=3):
    return LanguageModel(model, Vocab(byte_tokenizer(), 256, 300, num_extra), num_layers).eval()


def save(tmp_path, model):
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|end|>").save_pretrained(tmp_path)
    return str(tmp_path)


def read(model, tokens, documents, positions):
    hidden = model(model.embed(tokens), documents, positions)
    return model.logits(hidden.flatten(0, 1)).unflatten(0, tokens.shape)


def pack():
    """Two rows: documents of 5 and 6 tokens and padding; one of 13."""
    documents = torch.tensor([[0] * 5 + [1] * 6 + [-1] * 2, [2] * 13])
    positions = torch.tensor([[*range(5), *range(6), 0, 0], [*range(13)]])
    return torch.randint(257, (2, 13)), documents, positions


@pytest.mark.parametrize("family", FAMILIES)
def test_single_documents_equal_transformers(family):
    torch.manual_seed(0)
    original = FAMILIES[family]().eval()
    tokens = torch.randint(257, (2, 11))
    with torch.no_grad():
        expected = original(tokens, use_cache=False).logits
        model = wrap(original)
        found = read(model, tokens, torch.tensor([[0] * 11, [1] * 11]), torch.arange(11).expand(2, -1))
    assert (found[..., :300] - expected).abs().max() <= 1e-5
    assert found.shape[-1] == model.vocab_size == 304
    assert {name.split(".")[0] for name, _ in model.named_parameters()} >= {"embedding", "layers"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_equals_separate(family):
    torch.manual_seed(0)
    model = wrap(FAMILIES[family]())
    tokens, documents, positions = pack()
    with torch.no_grad():
        packed = read(model, tokens, documents, positions)
        for document in range(3):
            inside = documents == document
            alone = tokens[inside][None]
            size = alone.shape[1]
            found = read(model, alone, torch.zeros(1, size, dtype=torch.long), torch.arange(size)[None])
            assert (found[0] - packed[inside]).abs().max() <= 1e-5
        plain = read(model, tokens, torch.zeros_like(tokens), torch.arange(13).expand(2, -1))
    assert (plain - packed)[0, 5:11].abs().max() > 1e-3, "packing without a mask would have passed this test"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_documents_do_not_leak_by_a_bit(dtype):
    torch.manual_seed(0)
    model = wrap(FAMILIES["llama"]()).to(dtype)
    tokens, documents, positions = pack()
    other = torch.where(documents == 0, (tokens + 7) % 257, tokens)
    with torch.no_grad():
        before, after = read(model, tokens, documents, positions), read(model, other, documents, positions)
    assert torch.equal(before[documents != 0], after[documents != 0])
    assert not torch.equal(before[documents == 0], after[documents == 0])


def test_padding_gives_finite_gradients():
    model = wrap(FAMILIES["llama"]())
    tokens, documents, positions = pack()
    documents[1] = -1
    model(model.embed(tokens), documents, positions).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_growing_leaves_old_rows_alone_and_puts_new_ones_near_their_mean():
    torch.manual_seed(0)
    original = FAMILIES["llama"]()
    old = original.get_input_embeddings().weight.detach().clone()
    model = wrap(original, num_extra=200)
    assert torch.equal(model.embedding.weight[:300], old)
    fresh = model.embedding.weight[300:]
    assert fresh.std(0).mean() < 0.2 * old.std(0).mean()
    assert (fresh.mean(0) - old.mean(0)).abs().max() < 0.1 * old.std()
    assert len(fresh.unique(dim=0)) == 200
    assert model.head is None, "a tied head must stay tied"
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.state_dict().values())


def test_an_untied_head_grows_too():
    original = FAMILIES["qwen2"]()
    old = original.lm_head.weight.detach().clone()
    model = wrap(original)
    assert model.head.weight.shape == (304, 32)
    assert torch.equal(model.head.weight[:300], old)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_growing_raises_the_loss_on_text_by_next_to_nothing(family):
    torch.manual_seed(0)
    original = FAMILIES[family]()
    for parameter in original.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokens, documents, positions = pack()
    inside = documents >= 0
    losses = []
    for num_extra in (0, 30):
        model = wrap(copy.deepcopy(original), num_extra)
        with torch.no_grad():
            hidden = model(model.embed(tokens), documents, positions)[inside]
            losses.append(model.token_losses(hidden, tokens[inside]).mean().item())
    assert 0 < losses[1] - losses[0] <= math.log(1 + 30 / 300)


def test_the_gap_of_a_padded_embedding_does_not_count_for_new_rows():
    rows = torch.cat([torch.randn(257, 8), torch.full((43, 8), 99.0)])
    assert grow(rows, 310, 257)[300:].abs().max() < 2
    assert torch.equal(grow(rows, 310, 257)[:300], rows)


def test_grown_rows_are_there_before_the_optimizer_and_learn():
    model = TinyLanguageConfig(num_extra_tokens=3, spans={"image": 4}, sentinels=("<fim_prefix>",)).build()
    assert model.embedding.weight.shape[0] == 257 + 3 + 4 + 1
    stage = StageConfig(name="a", steps=1, learn=("embedding",), lr=1e-2)
    optimizer, _ = stage.build(model)
    before = model.embedding.weight.detach().clone()
    ids = torch.tensor([[257, model.vocab.span("image")[0], model.vocab.sentinels["<fim_prefix>"]]])
    optimizer.begin_step()
    model.token_losses(model(model.embed(ids), ids * 0, torch.arange(3)[None])[0], ids[0]).sum().backward()
    optimizer.accumulate()
    assert optimizer.step(1.0, 1.0).taken
    assert (model.embedding.weight != before).any(1)[257:].all()
    assert optimizer.tensors()["exp_avg/embedding.weight"].shape[0] == model.vocab_size


def test_growing_by_nothing_is_a_copy():
    rows = torch.randn(5, 4)
    assert torch.equal(grow(rows, 5, 5), rows)


def test_loading_keeps_the_first_layers(tmp_path):
    original = FAMILIES["llama"]()
    path = save(tmp_path, original)
    model = PretrainedLanguageConfig(path=path, num_layers=2, num_extra_tokens=7).build()
    assert len(model.layers) == 2
    assert model.training
    for name, value in model.layers[1].state_dict().items():
        assert torch.equal(value, original.model.layers[1].state_dict()[name])
    assert model.vocab.extra_start == 300, "ids of a padded embedding are not given away"
    assert model.vocab.end == 256
    assert model.vocab_size == 307


def test_rotary_tables_survive_bfloat16_and_copies_are_independent():
    model = TinyLanguageConfig().build().eval()
    tokens, documents, positions = pack()
    expected = read(model, tokens, documents, positions)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(read(model, tokens, documents, positions), expected)
    assert read(twin, tokens, documents, positions).abs().max() == 0
    model.to(torch.bfloat16)
    assert model._trunk[0].rotary_emb.inv_freq.dtype == torch.float32
    assert (read(model, tokens, documents, positions) - expected).abs().max() < 0.1


def test_token_losses_are_cross_entropy():
    model = TinyLanguageConfig().build()
    hidden, targets = torch.randn(6, 64), torch.randint(257, (6,))
    expected = -model.logits(hidden).log_softmax(-1)[torch.arange(6), targets]
    torch.testing.assert_close(model.token_losses(hidden, targets), expected)


@pytest.mark.parametrize("num_layers", [0, 4])
def test_more_layers_than_there_are_is_refused(tmp_path, num_layers):
    config = PretrainedLanguageConfig(
        path=save(tmp_path, FAMILIES["llama"]()), num_layers=num_layers, num_extra_tokens=0
    )
    with pytest.raises(ConfigError, match=rf"language\.num_layers: found {num_layers}; expected 1\.\.3"):
        config.build()


def test_missing_weights_are_refused(tmp_path):
    path = save(tmp_path, FAMILIES["llama"]())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(SetupError, match=r"without 9 of its weights, such as model\.layers\.3"):
        PretrainedLanguageConfig(path=path, num_layers=2, num_extra_tokens=0).build()


def test_folder_without_tokenizer_is_refused(tmp_path):
    FAMILIES["llama"]().save_pretrained(tmp_path)
    with pytest.raises((ConfigError, SetupError), match=r"language\.path"):
        PretrainedLanguageConfig(path=str(tmp_path), num_layers=1, num_extra_tokens=0).build()


def test_a_model_with_a_capped_head_is_refused():
    config = transformers.Gemma3TextConfig(**COMMON, head_dim=8, final_logit_softcapping=0.1)
    with pytest.raises(ConfigError, match=r"language\.path: found a Gemma3TextModel whose logits we miss"):
        wrap(transformers.Gemma3ForCausalLM(config))


def test_rows_longer_than_the_window_are_refused():
    model = wrap(transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON, max_position_embeddings=12)))
    with pytest.raises(ConfigError, match=r"mixture\.row_length: found 13; expected at most 12"):
        read(model, *pack())


def test_tiny_width_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"language\.width: found 60; expected a multiple of 8"):
        TinyLanguageConfig(width=60).build()
