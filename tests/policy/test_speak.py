"""A policy that writes its actions: probabilities, limits, and what it learned."""

import numpy as np
import pytest
import torch

from trivium.connect.gate import GateConfig
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Sample
from trivium.data.row import collate
from trivium.data.transform import build_chain
from trivium.policy.act import VlaPolicy
from trivium.policy.objective import VlaConfig
from trivium.policy.sequence import VlaLayout
from trivium.policy.speak import SpeakingPolicy
from trivium.policy.vla import Model, ModelConfig


def speaking(model: Model, layout: VlaLayout, words: bool = False) -> SpeakingPolicy:
    seen = VlaLayout(layout.vocab, layout.tokens_per_image, None, words)
    return SpeakingPolicy(model, build_chain([], {}), seen, layout.tokenizer, seed=1)


@pytest.fixture
def seen(make) -> list[Sample]:
    """Two observations of different length."""
    return [make(name, ("instruction", words), action=False) for name, words in (("a", "go"), ("b", "push it"))]


@pytest.mark.parametrize("changes", [{}, {"attention": "prefix"}, {"state": "words"}])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_written_is_scored_alike_without_a_cache(config: ModelConfig, layout, seen, changes, temperature):
    torch.manual_seed(0)
    policy = speaking(config.replace(**changes).build(2, 3), layout, changes.get("state") == "words")
    policy.length = 90  # long enough that some end by themselves
    found = policy.speak(seen, temperature)
    assert found.actions.shape == (2, 4, 2)
    assert any(len(ids) < 90 for ids in found.tokens)
    again = policy.log_prob_of(seen, found.tokens, temperature)
    torch.testing.assert_close(again, found.log_prob, atol=1e-4, rtol=1e-5)
    again.sum().backward()
    for part in ("vision", "connect", "language"):
        assert any(p.grad is not None and p.grad.any() for p in policy.model.get_submodule(part).parameters()), part
    alone = policy.log_prob_of(seen[1:], found.tokens[1:], temperature)
    torch.testing.assert_close(alone, found.log_prob[1:], atol=1e-4, rtol=1e-5)


def test_the_probabilities_of_all_that_can_be_written_are_one(model, layout, seen, monkeypatch) -> None:
    policy = speaking(model, layout)
    monkeypatch.setattr(policy, "length", 1)  # the end, or one token, which then ends by itself
    every = [[], *([i] for i in range(layout.tokenizer.vocab_size))]
    with torch.no_grad():
        chances = torch.cat([policy.log_prob_of(seen[:1], [ids]) for ids in every])
    assert chances.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_draws_repeat_by_seed_and_the_likeliest_always(model, layout, seen) -> None:
    policy = speaking(model, layout)
    first = policy.speak(seen).tokens
    assert policy.speak(seen).tokens != first
    policy.reset(1)
    assert policy.speak(seen).tokens == first
    assert policy.speak(seen, 0.0).tokens == policy.speak(seen, 0.0).tokens
    assert np.array_equal(policy.act(seen), policy.act(seen, 0.0))
    assert all(len(ids) <= policy.length for ids in first)


def test_it_does_what_it_learned_to_write(config: ModelConfig, layout, make) -> None:
    torch.manual_seed(0)
    model = config.build(2, 3)
    objective = VlaConfig(flow_weight=0.0).build(model)
    samples = [make(name, ("instruction", name * 3)) for name in ("a", "b")]
    batch = collate([[("x", layout.build(sample)) for sample in samples]], 120)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        optimizer.step()
    asked = [
        Sample(**{**s.__dict__, "segments": tuple(p for p in s.segments if not isinstance(p, Action))}) for s in samples
    ]
    policy = speaking(model, layout)
    expected = layout.tokenizer.decode_all([layout.tokenizer.encode(s.of(Action)[0].values) for s in samples])
    assert np.array_equal(policy.act(asked), expected)
    drawn = policy.speak(asked, 0.0)
    assert (drawn.log_prob > -0.5).all(), "sure of itself"


def test_the_head_draws_and_reads_as_without_words(model, layout, seen) -> None:
    policy, plain = speaking(model, layout), VlaPolicy(model, build_chain([], {}), speaking(model, layout).layout, 1)
    assert torch.equal(policy.features(seen), plain.features(seen))
    assert torch.equal(policy.draw(seen).actions, plain.draw(seen).actions)


def test_refusals(config: ModelConfig, model, layout, make, seen) -> None:
    policy = speaking(model, layout)
    with pytest.raises(ConfigError, match="temperature: found -1"):
        policy.speak(seen, -1.0)
    with pytest.raises(ConfigError, match="temperature: found 0, at which the likeliest tokens are certain"):
        policy.log_prob_of(seen, [[1], [2]], 0.0)
    size = layout.tokenizer.vocab_size
    for ids, said in (([size], f"token {size}"), ([-1], "token -1"), ([0] * 9, "9 tokens")):
        with pytest.raises(DataError, match=rf"tokens of observation a: found {said}; expected at most 8 ids from 0"):
            policy.log_prob_of(seen[:1], [ids])
    with pytest.raises(DataError, match="found 1 sequences of tokens; expected 2, one for each observation"):
        policy.log_prob_of(seen, [[1]])
    narrow = VlaLayout(config.replace(language=config.language.replace(num_extra_tokens=9)).language.vocab(), 4, None)
    with pytest.raises(ConfigError, match="num_extra_tokens: found 9; expected at least 102"):
        SpeakingPolicy(model, build_chain([], {}), narrow, layout.tokenizer)
    with pytest.raises(DataError, match="observation x: found an action"):
        policy.act([make("x")])
    assert policy.act([]).shape == (0, 4, 2)
    gated = config.replace(connect=GateConfig(latents=2, depth=1, heads=2, groups=1, every=1)).build(2, 3)
    with pytest.raises(ConfigError, match=r"connect.kind: found kind 'gate'; expected mlp or perceiver"):
        speaking(gated, layout)
