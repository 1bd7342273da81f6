"""Pictures, words, states and actions as one stream of next tokens."""

import math

import numpy as np
import pytest
import torch
from unified_parts import BINS, CODES, CONFIG, LANGUAGE, SAMPLES, SIDE, TOKENS, build, caption, film, robot

from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Action, Sample, State, Text, Video
from trivium.data.row import collate
from trivium.policy import objective as scoring
from trivium.policy.unified import UnifiedConfig, UnifiedObjective
from trivium.policy.unified_layout import Pictures, UnifiedLayout
from trivium.policy.vla import Model
from trivium.train.gradient import differentiate
from trivium.train.stage import StageConfig
from trivium.vision.tokenizer import ImageTokenizer


@pytest.fixture
def parts() -> tuple[UnifiedObjective, UnifiedLayout]:
    return build()


@pytest.fixture
def unified(parts) -> UnifiedObjective:
    return parts[0]


@pytest.fixture
def layout(parts) -> UnifiedLayout:
    return parts[1]


@pytest.fixture
def painter(unified: UnifiedObjective) -> ImageTokenizer:
    return unified.tokenizer


def rows_of(layout: UnifiedLayout, *samples: Sample) -> list:
    return [("x", layout.build(sample)) for sample in samples or SAMPLES]


@pytest.fixture
def batch(layout: UnifiedLayout) -> Batch:
    rows = rows_of(layout)
    return collate([rows[:2], rows[2:]], 64)


def test_a_row_is_what_the_table_says(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    vocab, begin = layout.vocab, unified.begin
    mark, end = [begin, *[unified.codes.start] * TOKENS, begin + 1], vocab.end
    sample = robot(0)
    row = layout.build(sample)
    acts = layout.tokenizer.encode(sample.of(Action)[0].values)
    first = vocab.extra_start
    states = [vocab.span("state").start + round((x + 1) / 2 * (BINS - 1)) for x in sample.of(State)[0].values]
    done = [first + 100, *(first + token for token in acts), first + 101]
    assert row.tokens.tolist() == [*mark, *vocab.encode("push"), *states, *done, *mark]
    assert dict(layout.count(sample)) == dict(row.counts)
    assert row.counts == {"image": 12, "text": 4, "state": 3, "action": len(acts) + 2}
    assert row.state is None
    assert row.actions is None
    newline = vocab.encode("\n")
    assert layout.build(caption(2)).tokens.tolist() == [*mark, *newline, *vocab.encode("a cup"), end]
    told = [*vocab.encode("<0.5 s>"), *mark, *newline, *vocab.encode("look"), *newline, *vocab.encode("<1.5 s>")]
    told += [*mark, *newline, *vocab.encode("it is open"), end]
    assert layout.build(film()).tokens.tolist() == told


def test_what_is_learned(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    begin, codes = unified.begin, unified.codes
    row = layout.build(robot(0))
    learned = row.targets[row.targets != IGNORE]
    acts = layout.vocab.span("action")
    assert ((learned >= codes.start) & (learned < codes.stop)).sum() == 2 * TOKENS
    assert ((learned >= acts.start) & (learned < acts.stop)).sum() == row.counts["action"] - 1
    assert len(learned) == 2 * TOKENS + row.counts["action"] - 1, "no state, no instruction, no mark"
    told = layout.build(film()).targets
    assert (told == begin).sum() == 2, "a document has to say that a picture comes"
    assert (told == begin + 1).sum() == 0
    assert begin not in layout.build(caption(2)).targets


def test_the_later_picture_comes_last_wherever_it_stands(layout: UnifiedLayout) -> None:
    sample = robot(0)
    first = Sample(**{**vars(sample), "segments": (sample.segments[-1], *sample.segments[:-1])})
    mine, theirs = layout.build(first), layout.build(sample)
    assert mine.tokens.tolist() == theirs.tokens.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(mine.images, theirs.images, strict=True))
    prompt = layout.prompt(sample)
    assert prompt.tokens.tolist() == theirs.tokens.tolist()[: prompt.length]
    assert prompt.length == theirs.length - TOKENS - 2
    assert len(prompt.images) == 1


def test_ids_go_into_the_rows_and_targets(unified: UnifiedObjective, batch: Batch, painter: ImageTokenizer) -> None:
    full = unified.fill(batch)
    ids = painter.encode(batch.images) + unified.codes.start
    inside = (batch.kinds == Kind.IMAGE) & (batch.tokens < unified.begin)
    assert full.tokens[inside].tolist() == ids.flatten().tolist()
    assert torch.equal(full.tokens[~inside], batch.tokens[~inside])
    learned = (batch.targets != IGNORE).nonzero()
    assert all(full.targets[i, j] == full.tokens[i, j + 1] for i, j in learned.tolist())
    assert all(full.documents[i, j] == full.documents[i, j + 1] for i, j in learned.tolist()), "no document is left"
    ends = (full.documents >= 0) & (full.documents != full.documents.roll(-1, 1))
    assert (full.targets[ends] == IGNORE).all()
    assert torch.equal(unified.fill(full).tokens, full.tokens), "what has its ids is taken as it is"


def test_losses_are_the_closed_form(unified: UnifiedObjective, batch: Batch, monkeypatch) -> None:
    losses = unified(batch)
    assert unified.counts(batch) == pytest.approx(losses.counts())
    full, vocab = unified.fill(batch), unified.language.vocab
    hidden = unified.language(unified.language.embed(full.tokens), full.documents, full.positions)
    logits = unified.language.logits(hidden.flatten(0, 1)).view(*full.tokens.shape, -1).double()
    acts, codes = vocab.span("action"), unified.codes
    sums: dict[str, list[float]] = {name: [] for name in ("text", "image", "next_image", "action_token")}
    for i, j in (full.targets != IGNORE).nonzero().tolist():
        target, ids, name = int(full.targets[i, j]), range(vocab.size), "text"
        if target in acts:
            ids, name = acts, "action_token"
        elif target in codes:
            acted = (full.kinds[i, :j] == Kind.ACTION) & (full.documents[i, :j] == full.documents[i, j])
            ids, name = codes, "next_image" if acted.any() else "image"
        sums[name].append(-logits[i, j, ids.start : ids.stop].log_softmax(0)[target - ids.start].item())
    for name, found in sums.items():
        assert losses[name].count == len(found) > 0
        assert losses[name].sum.item() == pytest.approx(sum(found), rel=1e-5)
    assert losses["next_image"].count == TOKENS
    weights = {"text": 1.0, "image": 0.5, "next_image": 0.5, "action_token": 1.0}
    above = sum(weights[name] * sum(found) for name, found in sums.items())
    below = sum(weights[name] * len(found) for name, found in sums.items())
    assert losses.total(losses.counts()).item() == pytest.approx(above / below, rel=1e-6)
    monkeypatch.setattr(scoring, "CHUNK", 3)
    assert unified(batch).total(losses.counts()).item() == pytest.approx(above / below, rel=1e-6)


def test_half_a_weight_on_pictures_is_every_word_twice(batch: Batch) -> None:
    halved = build(UnifiedConfig(tokenizer="t", image_weight=0.5))[0](batch)
    whole = build(UnifiedConfig(tokenizer="t", image_weight=1.0))[0](batch)
    sums = {name: (loss.sum.item(), loss.count) for name, loss in whole.items()}
    twice = {name: 1 if "image" in name else 2 for name in sums}
    above = sum(twice[name] * total for name, (total, _) in sums.items())
    below = sum(twice[name] * number for name, (_, number) in sums.items())
    assert halved.total(halved.counts()).item() == pytest.approx(above / below, rel=1e-6)
    assert whole.total(whole.counts()).item() != pytest.approx(above / below, rel=1e-3)


def test_a_loss_without_weight_is_not_computed(model: Model, painter: ImageTokenizer, batch: Batch) -> None:
    objective = build(UnifiedConfig(tokenizer="t", image_weight=0, action_token_weight=0))[0]
    assert set(objective(batch)) == {"text"}
    with pytest.raises(ConfigError, match="all weights 0"):
        UnifiedConfig(tokenizer="t", text_weight=0, image_weight=0, action_token_weight=0).build(model, painter)


def test_packing_and_micro_batches_change_nothing(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    rows = rows_of(layout)
    optimizer, _ = StageConfig(name="all", steps=1, learn=("*",), lr=1e-3).build(unified)
    found = []
    ways = ([collate([rows], 160)], [collate([[rows[3], rows[0]], [rows[2], rows[1]]], 80)])
    for batches in (*ways, [collate([[row]], 64) for row in rows]):
        optimizer.begin_step()
        seen = differentiate(unified, batches, optimizer)
        found.append((seen, {name: p.grad.clone() for name, p in unified.named_parameters() if p.grad is not None}))
    (first, gradients), *others = found
    for seen, parts in others:
        assert seen.total == pytest.approx(first.total, rel=1e-6)
        assert seen.loss == pytest.approx(first.loss, rel=1e-5)
        assert all((parts[name] - gradient).abs().max() <= 1e-6 for name, gradient in gradients.items())


def test_a_perturbed_picture_changes_its_own_document_alone(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    def think(*samples: Sample) -> tuple[Batch, torch.Tensor]:
        full = unified.fill(collate([rows_of(layout, *samples)], 128))
        return full, unified.language(unified.language.embed(full.tokens), full.documents, full.positions)

    _, before = think(robot(0), caption(2), film())
    full, after = think(robot(0), caption(3), film())
    mine = full.documents[0] == 1
    assert torch.equal(before[0][~mine], after[0][~mine])
    assert not torch.equal(before[0][mine], after[0][mine])


def test_no_text_becomes_an_id_of_another_modality(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    words = ["<image_0> <extra_3> <state_1>", "<|end|>", "caf\u00e9 \u732b", *(chr(i) for i in range(32, 400))]
    ids = {token for text in words for token in layout.vocab.encode(text)}
    assert max(ids) < layout.vocab.extra_start <= layout.vocab.span("action").start < unified.codes.start


def test_one_batch_is_learned_by_heart(layout: UnifiedLayout, unified: UnifiedObjective, batch: Batch) -> None:
    optimizer = torch.optim.AdamW(unified.parameters(), lr=3e-3)
    chance = {name: loss.sum.item() / loss.count for name, loss in unified(batch).items()}
    assert chance["image"] == pytest.approx(math.log(CODES), rel=0.2)
    for _ in range(120):
        losses = unified(batch)
        optimizer.zero_grad()
        losses.total(losses.counts()).backward()
        optimizer.step()
    for name, loss in unified(batch).items():
        # The first picture of a row follows nothing, and there are three: one of them has to be guessed.
        assert loss.sum.item() / loss.count < (1.2 if name == "image" else 0.3), name


def test_the_fake_batch_is_a_batch(unified: UnifiedObjective) -> None:
    losses = unified(unified.fake_batch())
    assert set(losses) == {"text", "image", "next_image", "action_token"}
    assert all(loss.count and torch.isfinite(loss.sum) for loss in losses.values())
    assert unified.counts(unified.fake_batch()) == pytest.approx(losses.counts())


def test_the_tokenizer_neither_learns_nor_moves(unified: UnifiedObjective, painter: ImageTokenizer) -> None:
    assert {name.split(".")[0] for name, _ in unified.named_parameters()} == {"language"}
    assert not any("tokenizer" in name for name in unified.state_dict())
    unified.to(torch.bfloat16)
    assert next(unified.tokenizer.parameters()).dtype == torch.float32
    unified.float().train()
    assert not painter.training


def test_bad_settings_and_samples_are_refused(model: Model, layout: UnifiedLayout, painter: ImageTokenizer) -> None:
    fast = layout.tokenizer
    small = LANGUAGE.replace(spans={"image": CODES + 1}).vocab()
    with pytest.raises(ConfigError, match=r"language.spans.image: found 65 ids; expected at least 66"):
        CONFIG.layout(small, layout.pictures, fast)
    with pytest.raises(ConfigError, match=r"language.spans.image: found no such span"):
        CONFIG.build(model, painter)
    bare = LANGUAGE.replace(spans={"image": CODES + 2}).vocab()
    with pytest.raises(ConfigError, match=r"language.spans.state"):
        CONFIG.layout(bare, layout.pictures, fast).count(robot(0))
    with pytest.raises(DataError, match=r"robot0: found a picture of 16 x 16; expected 8 x 8"):
        CONFIG.layout(layout.vocab, Pictures(8, 1, CODES), fast).count(robot(0))
    clip = Video(frames=np.zeros((2, SIDE, SIDE, 3), np.uint8), times_s=np.zeros(2))
    with pytest.raises(DataError, match="a video"):
        layout.count(Sample(id="clip", segments=(clip,), source="test", license="CC0-1.0"))
    spoilt = State(values=np.array([np.nan, 0, 0], np.float32), names=("a", "b", "c"))
    with pytest.raises(DataError, match="NaN or infinity"):
        layout.build(Sample(id="spoilt", segments=(spoilt,), source="test", license="CC0-1.0"))


def test_words_alone_are_a_document(layout: UnifiedLayout, unified: UnifiedObjective) -> None:
    text = Sample(id="text", segments=(Text(text="hello"),), source="test", license="CC0-1.0")
    losses = unified(collate([rows_of(layout, text)], 32))
    assert losses["text"].count == 5, "five bytes and the end, the first of which follows nothing"
    assert losses["image"].count == losses["next_image"].count == losses["action_token"].count == 0
    question = Sample(id="q", segments=(Text(role="question", text="what"),), source="test", license="CC0-1.0")
    assert layout.count(question) == {}
