"""What a row may look like beyond the plain one: chat templates, states in words, videos, prefix attention."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import ConfigError
from trivium.core.sample import Sample, Text, Video
from trivium.data.row import Row, collate
from trivium.data.transform import Transform
from trivium.language.chat import Chat, read_chat
from trivium.language.model import PretrainedLanguageConfig
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.policy.act import VlaPolicy
from trivium.policy.attention import ALWAYS, SENTENCES
from trivium.policy.objective import VlaConfig
from trivium.policy.sequence import VlaLayout, state_words
from trivium.policy.visible import ModalityDropoutConfig, prompt
from trivium.policy.vla import Model, ModelConfig

SMOLLM2 = Path(__file__).parents[2] / "build/weights/smollm2-135m"
CHATML = (
    "{% for m in messages %}{% if loop.first %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)


def bytes_with(template: str | None) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of bytes that knows ChatML's control words."""
    inner: Tokenizer = byte_tokenizer()
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", chat_template=template)


def vocab_of(hub: transformers.PreTrainedTokenizerFast) -> Vocab:
    chat = read_chat(hub, "language.chat")
    backend = Tokenizer.from_str(hub.backend_tokenizer.to_str())
    return Vocab(backend, hub.eos_token_id, len(hub), 102, chat=chat)


def talk(*turns: tuple[str, str]) -> Sample:
    segments = tuple(Text(role=role, text=words) for role, words in turns)
    return Sample(id="talk", segments=segments, source="s", license="MIT")


TURNS = (("question", "How far?"), ("answer", "Near."), ("question", "And now?"), ("answer", "There!"))


def rendered(hub: transformers.PreTrainedTokenizerBase) -> list[int]:
    said = [{"role": "user" if role == "question" else "assistant", "content": words} for role, words in TURNS]
    text = hub.apply_chat_template(said, tokenize=False)
    return hub(text.rstrip("\n"), add_special_tokens=False).input_ids


def test_a_conversation_is_what_the_template_makes_of_it() -> None:
    hub = bytes_with(CHATML)
    row = VlaLayout(vocab_of(hub), 4, None).build(talk(*TURNS))
    assert row.tokens.tolist() == rendered(hub)
    learned = np.concatenate([[False], row.targets[:-1] != IGNORE])
    words = hub.decode(row.tokens[learned].tolist())
    assert words == "Near.<|im_end|>There!<|im_end|>", "answers alone, and where they end"


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="make weights")
def test_the_real_templates_ids_are_the_tokenizers_own() -> None:
    config = PretrainedLanguageConfig(path=str(SMOLLM2), num_layers=1, num_extra_tokens=4, chat=True)
    row = VlaLayout(config.vocab(), 4, None).build(talk(*TURNS))
    assert row.tokens.tolist() == rendered(transformers.AutoTokenizer.from_pretrained(SMOLLM2))


def test_words_of_a_conversation_cannot_end_a_turn() -> None:
    hub = bytes_with(CHATML)
    vocab = vocab_of(hub)
    (mark,) = hub("<|im_end|>", add_special_tokens=False).input_ids
    calm = VlaLayout(vocab, 4, None).build(talk(("question", "a"), ("answer", "b"))).tokens.tolist().count(mark)
    wild = VlaLayout(vocab, 4, None).build(talk(("question", "a<|im_end|>"), ("answer", "b<|im_end|>")))
    assert wild.tokens.tolist().count(mark) == calm


def spelled(vocab: Vocab, row: Row, place: Callable[[Kind], str]) -> str:
    """Write a row out: words as they are, anything else as its place."""
    pairs = zip(row.tokens.tolist(), map(Kind, row.kinds.tolist()), strict=True)
    return "".join(vocab.decode([token]) if kind == Kind.TEXT else place(kind) for token, kind in pairs)


def test_a_robot_is_told_in_the_users_turn(make) -> None:
    hub = bytes_with(CHATML)
    vocab = vocab_of(hub)
    row = VlaLayout(vocab, 4, None).build(make("robot", ("instruction", "go"), ("answer", "3 4")))
    text = spelled(vocab, row, lambda kind: f"<{kind.name}>")
    head = "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\n"
    expected = head + "<IMAGE>" * 4 + "go<STATE><|im_end|>\n<|im_start|>assistant\n\n3 4"
    assert text == expected
    assert row.tokens[-1] == vocab.end
    asked = VlaLayout(vocab, 4, None).build(make("robot", ("instruction", "go"), action=False))
    batches = [collate([[("x", one)]], one.length) for one in (row, asked)]
    given = [batch.tokens[prompt(batch)].tolist() for batch in batches]
    assert given[0] == given[1], "what the action head sees in training is what it sees on the robot"


def test_captions_and_documents_have_no_turns() -> None:
    vocab = vocab_of(bytes_with(CHATML))
    plain = Vocab(Tokenizer.from_str(vocab.tokenizer.to_str()), vocab.end, vocab.extra_start, 102)
    for role in ("caption", "document"):
        rows = [VlaLayout(each, 4, None).build(talk((role, "red"))).tokens.tolist() for each in (vocab, plain)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "a tokenizer without a chat template"),
        ("{{ raise_exception('no') }}", "a chat template that fails"),
        ("{{ messages[0]['content'] }}", "leaves words out or says them twice"),
        (CHATML.replace("m['content']", "m['content'] + (loop.index | string)"), "whose turns depend on their place"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "whose turns depend on their place"),
    ],
)
def test_templates_that_cannot_be_taken_apart(template: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"language.chat: found .*{said}.*; expected .* Set chat=False"):
        read_chat(bytes_with(template), "language.chat")


def test_a_vocabulary_with_turns_pickles_and_counts(make) -> None:
    vocab = vocab_of(bytes_with(CHATML))
    assert isinstance(vocab.chat, Chat)
    layout = VlaLayout(vocab, 4, None)
    sample = make("robot", ("instruction", "go"))
    assert sum(layout.count(sample).values()) == layout.build(sample).length


def test_a_state_in_words_is_pi05s() -> None:
    values = np.linspace(-1.2, 1.2, 49).astype(np.float32)
    steps = np.clip(np.digitize(values, np.linspace(-1, 1, 257)[:-1]) - 1, 0, 255)
    assert state_words(values) == "State: " + " ".join(map(str, steps)) + ";"


@pytest.fixture
def wordy(config: ModelConfig) -> Model:
    torch.manual_seed(0)
    return config.replace(state="words").build(2, 3)


def test_a_state_in_words_learns_acts_and_can_be_lost(wordy: Model, layout, make) -> None:
    assert wordy.state is None
    assert not [name for name, _ in wordy.named_parameters() if name.startswith("state")]
    rows = VlaLayout(layout.vocab, 4, layout.tokenizer, state_in_words=True)
    assert rows.numeric
    samples = [make(name, ("instruction", "go")) for name in ("a", "b")]
    batch = collate([[("x", rows.build(sample)) for sample in samples]], 160)
    said = layout.vocab.decode(batch.tokens[(batch.kinds == Kind.STATE) & (batch.documents == 0)].tolist())
    assert said == state_words(samples[0].segments[2].values)
    objective = VlaConfig().build(wordy)
    losses = objective(batch)
    losses.total(losses.counts()).backward()
    policy = VlaPolicy(wordy, Same(), VlaLayout(layout.vocab, 4, None, state_in_words=True))
    assert policy.act([make("a", ("instruction", "go"), action=False)]).shape == (1, 4, 2)
    blind = VlaConfig(dropout=ModalityDropoutConfig(state=1 - 1e-9)).build(wordy).train()
    state = batch.kinds == Kind.STATE
    other = replace(batch, tokens=torch.where(state, batch.tokens + 1, batch.tokens), states=batch.states + 1)
    found = []
    for each in (batch, other):
        torch.manual_seed(0)
        found.append({name: loss.sum.item() for name, loss in blind(each).items()})
    assert found[0] == found[1], "what was lost has no influence, not even in the last bit"


class Same(Transform):
    def forward(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        return sample


def test_a_video_is_its_frames_behind_their_times(layout) -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 16, 16, 3), np.uint8)
    film = Video(frames=frames, times_s=np.array([0.0, 0.5, 12.25]))
    sample = Sample(id="v", segments=(film, *talk(*TURNS[:2]).segments), source="s", license="MIT")
    row = layout.build(sample)
    assert [int(image[0, 0, 0]) for image in row.images] == [0, 1, 2]
    text = spelled(layout.vocab, row, lambda kind: "#")
    assert text.startswith("<0.0 s>####<0.5 s>####<12.2 s>####How far?\nNear.")
    assert sum(layout.count(sample).values()) == row.length
    learned = np.concatenate([[False], row.targets[:-1] != IGNORE])
    assert layout.vocab.decode(row.tokens[learned][:-1].tolist()) == "Near."


def hidden(model: Model, batch, place: int) -> torch.Tensor:
    return model.eval()(batch).hidden[0, place].detach()


def test_a_prefix_looks_both_ways_and_never_at_what_is_asked(model: Model, layout, make) -> None:
    row = layout.build(make("robot", ("instruction", "push"), ("answer", "3 4")))
    batch = collate([[("x", row)]], row.length)
    asked = prompt(batch)[0]
    last, first = int(asked.nonzero().max()), int((~asked).nonzero().min())
    word = int((batch.kinds[0] == Kind.TEXT).nonzero()[0])
    changed = replace(batch, tokens=batch.tokens.clone())
    changed.tokens[0, word] += 1
    beyond = replace(batch, tokens=batch.tokens.clone())
    beyond.tokens[0, first + 1 :] = 7
    for rule, both_ways in (("causal", False), ("prefix", True)):
        model.attention = rule
        assert torch.equal(hidden(model, batch, 0), hidden(model, changed, 0)) != both_ways, rule
        for place in range(last + 1):
            assert torch.equal(hidden(model, batch, place), hidden(model, beyond, place)), (rule, place)
        assert torch.equal(hidden(model, batch, first), hidden(model, beyond, first)), "nobody sees what comes later"


def test_a_prefix_in_a_pack_is_what_it_is_alone(model: Model, layout, make) -> None:
    model.attention = "prefix"
    rows = [layout.build(make(name, ("instruction", "go"), images=n)) for n, name in enumerate("ab", 1)]
    packed = collate([[("x", row) for row in rows]], sum(row.length for row in rows) + 3)
    together = model.eval()(packed).hidden[0]
    begin = 0
    for row in rows:
        alone = model(collate([[("x", row)]], row.length)).hidden[0]
        torch.testing.assert_close(together[begin : begin + row.length], alone, atol=1e-5, rtol=1e-5)
        begin += row.length


def test_the_rules_are_said() -> None:
    assert set(SENTENCES) == {"causal", "prefix"}
    assert all(sentence.endswith(".") for sentence in (*SENTENCES.values(), *ALWAYS))
