import pickle
from dataclasses import replace

import numpy as np
import pytest

from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, State
from trivium.policy.sequence import VlaLayout

IMAGE, STATE, ACT, TEXT = Kind.IMAGE, Kind.STATE, Kind.ACTION, Kind.TEXT


def test_a_robot_sample_is_pictures_words_state_actions(layout, make) -> None:
    sample = make("robot", ("instruction", "push"), images=2)
    row = layout.build(sample)
    fast = layout.tokenizer.encode(sample.of(Action)[0].values)
    assert row.kinds.tolist() == [IMAGE] * 8 + [TEXT] * 4 + [STATE] + [ACT] * (len(fast) + 2)
    first = layout.vocab.extra_start
    assert row.tokens[-len(fast) - 2 :].tolist() == [first + 100, *(first + i for i in fast), first + 101]
    assert layout.vocab.decode(row.tokens[8:12].tolist()) == "push"
    learned = np.flatnonzero(row.targets != IGNORE)
    assert learned.tolist() == list(range(13, 13 + len(fast) + 1)), "from [begin] to the last FAST token"
    assert row.targets[learned].tolist() == row.tokens[learned + 1].tolist()
    assert [image.shape for image in row.images] == [(16, 16, 3)] * 2
    assert row.state.shape == (3,)
    assert row.actions.shape == (4, 2)
    assert row.valid.all()


@pytest.mark.parametrize(
    ("texts", "read", "learned"),
    [
        ((("caption", "red"),), "\n", "red"),
        ((("question", "what?"), ("answer", "a cup")), "what?\n", "a cup"),
        ((("instruction", "look."), ("question", "what?"), ("answer", "a cup")), "look.what?\n", "a cup"),
    ],
)
def test_text_learned_from_a_picture(layout, make, texts, read: str, learned: str) -> None:
    row = layout.build(make("talk", *texts, state=False, action=False))
    words = row.tokens[row.kinds == TEXT].tolist()
    assert layout.vocab.decode(words[:-1]) == read + learned
    assert words[-1] == layout.vocab.end
    assert row.targets[row.targets != IGNORE].tolist() == [*layout.vocab.encode(learned), layout.vocab.end]
    assert row.targets[-1] == IGNORE
    assert row.tokens[row.targets != IGNORE][0] == layout.newline[-1], "the loss hangs on the newline"


def test_a_document_is_learned_from_its_second_token(layout, make) -> None:
    row = layout.build(make("doc", ("document", "hello"), images=0, state=False, action=False))
    assert row.tokens.tolist() == [*layout.vocab.encode("hello"), layout.vocab.end]
    assert row.targets.tolist() == [*row.tokens[1:].tolist(), IGNORE]


def test_count_is_the_length_of_what_is_built(layout, make) -> None:
    samples = [
        make("robot", ("instruction", "push"), images=2),
        make("robot", ("instruction", "push"), ("answer", "at 3 4")),
        make("caption", ("caption", "red"), state=False, action=False),
        make("doc", ("document", "hello"), images=0, state=False, action=False),
        make("flow", ("instruction", "go"), valid=2),
    ]
    for sample in samples:
        row = layout.build(sample)
        assert layout.count(sample) == row.counts
        assert sum(row.counts.values()) == row.length == len(row.tokens)
        for kind, name in ((IMAGE, "image"), (TEXT, "text"), (STATE, "state"), (ACT, "action")):
            assert row.counts.get(name, 0) == int((row.kinds == kind).sum())
    again = pickle.loads(pickle.dumps(layout))
    assert again.build(samples[0]).tokens.tolist() == layout.build(samples[0]).tokens.tolist()


def test_nothing_to_learn_counts_nothing(layout, make) -> None:
    assert not layout.count(make("picture", action=False))
    assert not layout.count(make("empty", ("caption", ""), action=False))
    assert layout.build(make("observation", ("instruction", "go"), action=False)).actions is None


def test_without_fast_there_are_no_action_tokens(layout, make) -> None:
    row = VlaLayout(layout.vocab, 4, None).build(make("robot", ("instruction", "go")))
    assert ACT not in row.kinds
    assert row.actions is not None
    assert (row.targets == IGNORE).all()


def test_refusals(layout, make) -> None:
    layout.vocab.num_extra = 101
    with pytest.raises(ConfigError, match=r"num_extra_tokens: found 101; expected at least 102"):
        VlaLayout(layout.vocab, 4, layout.tokenizer)
    layout.vocab.num_extra = 102
    sample = make("robot", ("instruction", "go"))
    with pytest.raises(DataError, match="sample robot: found 2 segments of type State; expected at most one"):
        layout.count(replace(sample, segments=(*sample.segments, sample.of(State)[0])))
    action = sample.of(Action)[0]
    values = action.values.copy()
    values[2, 1] = np.nan
    with pytest.raises(DataError, match=r"sample robot: found nan in the action at \(2, 1\); expected finite"):
        layout.build(replace(sample, segments=(replace(action, values=values),)))
    state = State(values=np.array([0, np.inf, 0], np.float32), names=("a", "b", "c"))
    with pytest.raises(DataError, match=r"inf in the state at \(1,\)"):
        layout.build(replace(sample, segments=(state,)))
