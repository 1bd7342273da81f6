from dataclasses import replace

import pytest
import torch

from trivium.core.batch import Batch, Kind
from trivium.core.errors import ConfigError
from trivium.data.row import Row, collate
from trivium.policy.context import HiddenContextConfig
from trivium.policy.vla import Model


def pack(rows: list[Row], *, rows_per_pack: int, width: int | None = None) -> Batch:
    packs = [rows[i : i + rows_per_pack] for i in range(0, len(rows), rows_per_pack)]
    longest = max(sum(row.length for row in rows) for rows in packs)
    return collate([[("x", row) for row in rows] for rows in packs], width or longest)


@pytest.fixture
def rows(layout, make) -> list[Row]:
    samples = [
        make("robot", ("instruction", "push it")),
        make("caption", ("caption", "a red cup"), state=False, action=False),
        make("doc", ("document", "hello"), images=0, state=False, action=False),
        make("robots", ("instruction", "go"), images=2),
    ]
    return [layout.build(sample) for sample in samples]


def test_packed_equals_separate(model: Model, rows: list[Row]) -> None:
    model.eval()
    packed, alone = pack(rows, rows_per_pack=4, width=90), pack(rows, rows_per_pack=1)
    together, apart = model(packed).hidden, model(alone).hidden
    for document in range(len(rows)):
        found, expected = together[packed.documents == document], apart[alone.documents == document]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    robots = torch.tensor([0, 3])
    contexts = [model.gather_context(model(batch), batch, robots) for batch in (packed, alone)]
    assert torch.equal(contexts[0].mask, contexts[1].mask)
    torch.testing.assert_close(contexts[0].tokens, contexts[1].tokens, atol=1e-5, rtol=1e-4)
    noise = [model.action.sample(context, torch.Generator().manual_seed(0)) for context in contexts]
    torch.testing.assert_close(*noise, atol=1e-5, rtol=1e-4)


def test_neighbours_in_a_pack_have_no_influence(model: Model, rows: list[Row]) -> None:
    model.eval()
    batch = pack(rows, rows_per_pack=4)
    tokens, images = batch.tokens.clone(), 255 - batch.images
    others = (batch.documents != 0) & (batch.kinds == Kind.TEXT)
    tokens[others] = (tokens[others] + 1) % 256
    images[0] = batch.images[0]
    before, after = model(batch).hidden, model(replace(batch, tokens=tokens, images=images)).hidden
    mine = batch.documents == 0
    assert torch.equal(before[mine], after[mine])
    assert not torch.equal(before[batch.documents == 1], after[batch.documents == 1])


def test_pictures_and_states_land_in_their_own_places(model: Model, rows: list[Row]) -> None:
    batch = pack(rows, rows_per_pack=2)
    seen = {}
    model.language.forward = lambda x, documents, positions, blocks, inside: seen.setdefault("x", x)
    model(batch)
    vectors = model.connect(model.vision(batch.images))
    assert torch.equal(seen["x"][batch.kinds == Kind.IMAGE], vectors.flatten(0, 1))
    assert torch.equal(seen["x"][batch.kinds == Kind.STATE], model.state(batch.states))
    words = batch.kinds == Kind.TEXT
    assert torch.equal(seen["x"][words], model.language.embed(batch.tokens)[words])


def test_misfitting_placeholders_name_the_sample(model: Model, rows: list[Row]) -> None:
    batch = pack(rows, rows_per_pack=2)
    kinds = batch.kinds.clone()
    kinds[batch.documents == 1] = Kind.TEXT
    with pytest.raises(AssertionError, match="sample caption: 0 IMAGE placeholders for 4 vectors"):
        model(replace(batch, kinds=kinds))
    with pytest.raises(AssertionError, match="sample robot: 4 IMAGE placeholders for 8 vectors"):
        model(replace(batch, images_document=torch.tensor([0, 0, 3, 3])))
    with pytest.raises(AssertionError, match="IMAGE placeholders in a batch without any image"):
        model(replace(batch, images=None, images_document=None))


def test_the_action_head_sees_the_prompt_and_the_patches(model: Model, rows: list[Row]) -> None:
    batch = pack(rows, rows_per_pack=2)
    thought = model(batch)
    context = model.gather_context(thought, batch, torch.tensor([0, 3]))
    # Document 0: 16 patches, and 4 image tokens + 7 letters + 1 state. Document 3: 2 x 16, and 8 + 3.
    assert context.mask.sum(1).tolist() == [16 + 12, 32 + 11]
    assert context.mask[:, 32:].sum(1).tolist() == [12, 11]
    row, place = (batch.documents == 0).nonzero()[0].tolist()
    assert torch.equal(context.tokens[0, 32:44], thought.hidden[row, place : place + 12])
    assert context.state_known.all()
    assert torch.equal(context.state, batch.states)
    assert model.gather_context(thought, batch, torch.tensor([2, 3])).state_known.tolist() == [False, True]
    plain = HiddenContextConfig().build(32, 16, 32)
    tokens, mask = plain(batch, thought.visible, torch.tensor([3]), thought.hidden, None)
    assert tokens.shape == (1, 11, 32)
    assert mask.all()


def test_more_pictures_than_places_are_refused(model: Model, layout, make) -> None:
    batch = pack([layout.build(make("robot", ("instruction", "go"), images=3))], rows_per_pack=1)
    with pytest.raises(ConfigError, match=r"context.num_views: found 3 pictures .* expected at most 2"):
        model.gather_context(model(batch), batch, torch.tensor([0]))


def test_features_keep_place_and_see_no_answer(model: Model, layout, make) -> None:
    talk = make("talk", ("caption", "red"))
    other = make("talk", ("caption", "sea blue"))
    blank = make("blank", ("caption", "red"))
    found = [model.features(pack([layout.build(sample)], rows_per_pack=1)) for sample in (talk, other, blank)]
    assert found[0].shape == (1, 4 * 4 * 32 + 2 * 2 * 32 + 32)
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-2)
    many = model.features(pack([layout.build(sample) for sample in (talk, blank)], rows_per_pack=2))
    torch.testing.assert_close(many, torch.cat([found[0], found[2]]), atol=1e-5, rtol=1e-4)
    batch = pack([layout.build(talk)], rows_per_pack=1)
    thought = model(batch)
    kept = found[0][0].split([32 * 16, 32 * 4, 32])
    torch.testing.assert_close(kept[0].view(32, 16).T, model.vision(batch.images)[0])  # 4 x 4 patches as they are
    torch.testing.assert_close(kept[1].view(32, 4).T, thought.hidden[batch.kinds == Kind.IMAGE])  # 2 x 2 tokens too
