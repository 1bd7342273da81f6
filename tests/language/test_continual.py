import math
import pickle
from types import SimpleNamespace

import torch

from trivium.core.batch import IGNORE, Kind
from trivium.core.sample import Sample, Text
from trivium.data.row import collate
from trivium.language.continual import ContinualConfig
from trivium.language.model import TinyLanguageConfig


def objective(**sizes):
    torch.manual_seed(0)
    return ContinualConfig().build(SimpleNamespace(language=TinyLanguageConfig(**sizes).build()))


def document(text, name="a"):
    return Sample(id=name, segments=(Text(text=text),), source="test", license="none")


def test_fake_batch_runs_and_counts_agree():
    learner = objective()
    batch = learner.fake_batch()
    losses = learner(batch)
    assert learner.counts(batch) == losses.counts() == {"tokens": 6 + 5 + 15}
    assert abs(losses["text"].sum.item() / losses["text"].count - math.log(257)) < 0.2


def test_layout_shifts_targets_and_ends_documents():
    learner = objective()
    layout = pickle.loads(pickle.dumps(ContinualConfig().layout(learner.language.vocab)))
    row = layout.build(document("abc"))
    assert row.counts == layout.count(document("abc")) == {"text": 4}
    ids = learner.language.vocab.encode("abc")
    assert row.tokens.tolist() == [*ids, 256]
    assert row.targets.tolist() == [*ids[1:], 256, IGNORE]
    assert set(row.kinds.tolist()) == {Kind.TEXT}
    assert row.length == 4


def test_a_document_without_text_has_nothing_for_the_stage():
    layout = ContinualConfig().layout(objective().language.vocab)
    assert layout.count(document("")) == {}


def test_loss_does_not_depend_on_packing():
    learner = objective().eval()
    layout = ContinualConfig().layout(learner.language.vocab)
    rows = [("web", layout.build(document(text, text))) for text in ("hello", "a longer text", "x")]
    together, apart = collate([rows], 32), collate([[row] for row in rows], 16)
    assert learner.counts(together) == learner.counts(apart)
    found, expected = learner(together)["text"].sum, learner(apart)["text"].sum
    assert abs(found.item() - expected.item()) <= 1e-4


def test_overfits_one_batch():
    learner = objective()
    batch = learner.fake_batch()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(80):
        losses = learner(batch)
        loss = losses.total(losses.counts())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_sentinels_of_code_are_one_token_and_those_of_other_texts_are_spelled_out():
    language = TinyLanguageConfig(sentinels=("<fim_prefix>",)).build()
    layout = ContinualConfig().layout(language.vocab)
    code = Text(text="<fim_prefix>ab<fim_suffix>", sentinels=("<fim_prefix>", "<fim_suffix>"))
    prose = Text(text="<fim_prefix>")
    row = layout.build(Sample(id="a", segments=(code, prose), source="test", license="none"))
    spelled = language.vocab.encode("ab<fim_suffix>\n<fim_prefix>")
    assert row.tokens.tolist() == [257, *spelled, 256]
    assert language.embedding.weight.shape[0] == language.vocab_size == 258
