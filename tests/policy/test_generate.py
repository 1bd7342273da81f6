"""Writing token by token: the cache changes nothing, ids keep to their span, a seed is a seed."""

import pytest
import torch
import transformers

from trivium.core.errors import ConfigError
from trivium.language.model import LanguageModel, TinyLanguageConfig
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.policy import generate as module
from trivium.policy.generate import generate

PROMPTS = ([1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 8, 260])
CODES = range(270, 290)


def windowed() -> LanguageModel:
    """Build a family whose layers differ: half of them see the last four tokens alone."""
    config = transformers.Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return LanguageModel(transformers.Gemma3ForCausalLM(config), Vocab(byte_tokenizer(), 256, 300, 0), 4)


@pytest.fixture(params=["llama", "windowed"])
def language(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    if request.param == "windowed":
        return windowed().eval()
    return TinyLanguageConfig(width=32, num_layers=3, heads=2, num_extra_tokens=40).build().eval()


def write(language: LanguageModel, *prompts: list[int], **options) -> list[list[int]]:
    given = {"allowed": CODES, "length": 6, **options}
    return generate(language, prompts or PROMPTS, **given)


@torch.no_grad()
def plain(language: LanguageModel, prompt: list[int], length: int) -> tuple[list[int], list[torch.Tensor]]:
    """Write greedily without a cache, one prompt alone, the whole row forward again for every token."""
    ids, seen = list(prompt), []
    for _ in range(length):
        tokens = torch.tensor([ids])
        place = torch.arange(len(ids))[None]
        hidden = language(language.embed(tokens), torch.zeros_like(place), place)
        seen.append(language.logits(hidden[0, -1:])[0, CODES.start : CODES.stop])
        ids.append(CODES.start + int(seen[-1].argmax()))
    return ids[len(prompt) :], seen


def test_the_cache_and_the_padding_change_no_logit(language: LanguageModel, monkeypatch) -> None:
    scores, choose = [], module._choose

    def watched(language: LanguageModel, hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        scores.append(language.logits(hidden)[:, CODES.start : CODES.stop])
        return choose(language, hidden, *rest)

    monkeypatch.setattr(module, "_choose", watched)
    found = write(language, length=9)
    mine = torch.stack(scores)
    for number, prompt in enumerate(PROMPTS):
        ids, seen = plain(language, prompt, 9)
        assert found[number] == ids
        assert (mine[:, number] - torch.stack(seen)).abs().max() <= 1e-5


def test_ids_keep_to_what_is_allowed(language: LanguageModel) -> None:
    for temperature in (0.0, 1.0, 50.0):
        found = write(language, temperature=temperature, generator=torch.Generator().manual_seed(0))
        assert [len(ids) for ids in found] == [6, 6, 6]
        assert all(token in CODES for ids in found for token in ids)
    assert len({token for ids in found for token in ids}) > 5, "hot enough to wander"


def test_a_seed_is_a_seed(language: LanguageModel) -> None:
    def draw(seed: int) -> list[list[int]]:
        return write(language, temperature=2.0, length=12, generator=torch.Generator().manual_seed(seed))

    assert draw(1) == draw(1) != draw(2)
    state = torch.random.get_rng_state()
    draw(3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_end_ends_one_prompt_and_not_the_others(language: LanguageModel) -> None:
    free = write(language, temperature=3.0, length=30, generator=torch.Generator().manual_seed(5))
    end = free[0][2]
    held = write(language, temperature=3.0, length=30, end=end, generator=torch.Generator().manual_seed(5))
    assert held == [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert len(held[0]) <= 2 < max(map(len, held))
    assert write(language, length=4, allowed=[end], end=end) == [[], [], []]


def test_a_colder_model_is_surer(language: LanguageModel) -> None:
    cold = write(language, temperature=1e-4, generator=torch.Generator().manual_seed(0))
    assert cold == write(language)


def test_too_long_a_row_is_refused(language: LanguageModel) -> None:
    language.max_length = 9
    with pytest.raises(ConfigError, match="tokens to generate: found 10; expected rows of at most 9"):
        write(language)
