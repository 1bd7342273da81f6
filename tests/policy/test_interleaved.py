"""Rows of the web: pictures where they stand, several turns, and nothing lost to modality dropout."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from trivium.core.batch import IGNORE, Kind
from trivium.core.sample import Image, Sample, Segment, State, Text
from trivium.data.row import collate
from trivium.data.source.conversation import ConversationConfig
from trivium.policy.visible import ModalityDropoutConfig, drop_modalities

PICTURE = [0] * 4


def picture(value: int) -> Image:
    return Image(pixels=np.full((16, 16, 3), value, np.uint8))


def web(*parts: tuple[str, str] | int) -> Sample:
    segments: list[Segment] = [picture(p) if isinstance(p, int) else Text(role=p[0], text=p[1]) for p in parts]
    return Sample(id="web", segments=tuple(segments), source="web", license="CC0-1.0")


def parts(layout, row) -> list[tuple[str, str]]:
    """Return runs of a row: pictures, words that are read, words that are learned ("|" ends a document)."""
    learned = np.concatenate([[False], row.targets[:-1] != IGNORE])
    found: list[tuple[str, list[int]]] = []
    for token, kind, loss in zip(row.tokens.tolist(), row.kinds.tolist(), learned.tolist(), strict=True):
        name = "picture" if kind == Kind.IMAGE else "learned" if loss else "read"
        if not found or found[-1][0] != name:
            found.append((name, []))
        found[-1][1].append(token)
    vocab = layout.vocab
    words = [(name, "|".join(vocab.decode(run) for run in split(tokens, vocab.end))) for name, tokens in found]
    return [
        (name, str(len(tokens) // 4) if name == "picture" else text)
        for (name, text), (_, tokens) in zip(words, found, strict=True)
    ]


def split(tokens: list[int], end: int) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            runs.append([])
        else:
            runs[-1].append(token)
    return runs


def test_single_rows_are_what_they_were(layout):
    encode, end, newline = layout.vocab.encode, [layout.vocab.end], layout.newline
    rows = {
        "question": (web(1, ("question", "what?"), ("answer", "red")), [*PICTURE, *encode("what?"), *newline]),
        "read": (web(1, ("instruction", "Look."), ("question", "what?"), ("answer", "red")), None),
        "caption": (web(1, ("caption", "red")), [*PICTURE, *newline]),
        "document": (web(("document", "red")), []),
    }
    rows["read"] = (rows["read"][0], [*PICTURE, *encode("Look.what?"), *newline])
    for name, (sample, before) in rows.items():
        row = layout.build(sample)
        assert row.tokens.tolist() == [*before, *encode("red"), *end], name
        first = len(before) - 1 if before else 0
        assert np.flatnonzero(row.targets != IGNORE).tolist() == list(range(first, row.length - 1)), name


def test_turns_and_pictures_stand_where_they_stood(layout):
    row = layout.build(
        web(
            ("instruction", "Be brief.\n"),
            ("question", "From"),
            1,
            ("question", "to"),
            2,
            ("question", "?"),
            ("answer", "left"),
            ("question", "And now?"),
            3,
            ("answer", "up"),
        )
    )
    assert parts(layout, row) == [
        ("read", "Be brief.\nFrom"),
        ("picture", "1"),
        ("read", "to"),
        ("picture", "1"),
        ("read", "?\n"),
        ("learned", "left|"),
        ("read", "And now?"),
        ("picture", "1"),
        ("read", "\n"),
        ("learned", "up|"),
    ]
    assert [int(image[0, 0, 0]) for image in row.images] == [1, 2, 3]


def test_an_interleaved_document_opens_anew_behind_a_picture_and_ends_once(layout):
    row = layout.build(web(("document", "one"), 1, 2, ("document", "two"), ("document", ""), 3))
    assert parts(layout, row) == [
        ("read", "o"),
        ("learned", "ne"),
        ("picture", "2"),
        ("read", "\n"),
        ("learned", "two|"),
        ("picture", "1"),
    ]
    assert row.targets[-1] == IGNORE
    pictures = np.flatnonzero(row.kinds == Kind.IMAGE)
    assert (row.targets[pictures] == IGNORE).all(), "no loss hangs on a picture"
    assert parts(layout, layout.build(web(1, ("document", "two")))) == [
        ("picture", "1"),
        ("read", "\n"),
        ("learned", "two|"),
    ]


def test_count_agrees_and_empty_words_count_nothing(layout):
    for sample in (
        web(("document", "one"), 1, ("document", "two")),
        web(("question", "a"), 1, ("answer", "b"), ("question", "c"), ("answer", "d")),
    ):
        row = layout.build(sample)
        assert layout.count(sample) == row.counts
        assert sum(row.counts.values()) == row.length
    assert not layout.count(web(1, ("document", "")))
    assert not layout.count(web(1, ("question", "what?")))


@pytest.mark.parametrize("robot", [{"embodiment": "arm"}, {"state": True}, {}])
def test_an_observation_keeps_the_order_of_robots(layout, robot):
    """A policy may hand over its words first; a row of training began with the pictures."""
    words: tuple = (("instruction", "go"),) if not robot else (("question", "what?"), ("answer", "red"))
    sample = web(*words, 1)
    if robot.pop("state", False):
        state = State(values=np.zeros(3, np.float32), names=("a", "b", "c"))
        sample = replace(sample, segments=(*sample.segments, state))
    row = layout.build(replace(sample, **robot))
    assert row.kinds[:4].tolist() == [Kind.IMAGE] * 4


def test_dropout_takes_nothing_from_the_web(model, layout, make):
    rows = [
        layout.build(web(("document", "one"), 1, ("document", "two"), 2, ("document", "three"))),
        layout.build(make("robot", ("instruction", "push"))),
        layout.build(web(3, ("question", "what?"), ("answer", "red"), ("question", "and?"), 4, ("answer", "up"))),
    ]
    batch = collate([[("x", row) for row in rows]], sum(row.length for row in rows) + 2)
    certain = ModalityDropoutConfig(image=1 - 1e-9, text=1 - 1e-9)
    seen = drop_modalities(batch, certain)
    gone = (batch.documents >= 0) & (seen.documents < 0)
    assert gone.any()
    assert set(batch.documents[gone].tolist()) == {1}
    assert torch.equal(seen.images, batch.images_document != 1)
    assert torch.equal(seen.positions[batch.documents != 1], batch.positions[batch.documents != 1])


def test_later_words_see_earlier_pictures_and_not_the_other_way(model, layout):
    sample = web(("document", "one"), 1, ("document", "two"))
    model.eval()

    def hidden(sample: Sample) -> torch.Tensor:
        row = layout.build(sample)
        return model(collate([[("x", row)]], row.length)).hidden[0]

    before, after = (
        hidden(sample),
        hidden(replace(sample, segments=(sample.segments[0], picture(200), sample.segments[2]))),
    )
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[8:], after[8:])


def test_from_a_file_of_conversations_to_rows(layout, tmp_path):
    """The counts that are planned from `peek` are those of the rows that are built from `read`."""
    for value in (1, 2):
        Pillow.new("RGB", (16, 16), (value, 0, 0)).save(tmp_path / f"{value}.png")
    human, gpt = "<image> and <image>\nSame?", "Not <image>."
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": ["2.png", "1.png"], "conversations": turns}))
    source = ConversationConfig(path=str(tmp_path / "a.jsonl")).build()
    row = layout.build(source.read(0))
    assert layout.count(source.peek(0)) == row.counts
    assert [int(image[0, 0, 0]) for image in row.images] == [2, 1]
    assert parts(layout, row) == [
        ("picture", "1"),
        ("read", "and"),
        ("picture", "1"),
        ("read", "Same?\n"),
        ("learned", "Not <image>.|"),
    ]
