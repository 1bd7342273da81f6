"""The three connectors inside the whole model: what pictures cost, who sees them, and that nothing leaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trivium.connect.gate import Gate, GateConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.batch import Batch, Kind
from trivium.core.sample import Image, Sample, Text
from trivium.data.row import Row, collate
from trivium.policy.objective import VlaConfig
from trivium.policy.sequence import VlaLayout
from trivium.policy.visible import ModalityDropoutConfig, everything
from trivium.policy.vla import Model, ModelConfig, find_readers

SIZES = {"depth": 1, "heads": 2, "groups": 1}
KINDS = {
    "mlp": MlpConnectorConfig(shuffle=2),
    "perceiver": PerceiverConfig(latents=3, **SIZES),
    "gate": GateConfig(latents=3, every=1, **SIZES),
}


def build(config: ModelConfig, kind: str, awake: bool = True) -> Model:
    torch.manual_seed(0)
    model = config.replace(connect=KINDS[kind]).build(2, 3)
    for parameter in model.parameters():
        if awake and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def lay_out(model: Model, fast, *samples: Sample) -> list[Row]:
    layout = VlaLayout(model.language.vocab, model.connect.num_tokens, fast)
    return [layout.build(sample) for sample in samples]


def pack(rows: list[Row], width: int | None = None) -> Batch:
    return collate([[("x", row) for row in rows]], width or sum(row.length for row in rows))


def samples(make) -> list[Sample]:
    return [
        make("robot", ("instruction", "push it")),
        make("caption", ("caption", "a red cup"), state=False, action=False),
        make("doc", ("document", "hello"), images=0, state=False, action=False),
        make("robots", ("instruction", "go"), images=2),
    ]


def test_packed_equals_separate_and_neighbours_do_not_leak(config, kind, fast, make) -> None:
    model = build(config, kind).eval()
    rows = lay_out(model, fast, *samples(make))
    packed = pack(rows, width=100)
    together = model(packed).hidden
    for document, row in enumerate(rows):
        alone = model(pack([row])).hidden[0]
        torch.testing.assert_close(together[packed.documents == document], alone, atol=1e-5, rtol=1e-4)
    images, tokens = 255 - packed.images, packed.tokens.clone()
    images[0] = packed.images[0]
    tokens[(packed.documents != 0) & (packed.kinds == Kind.TEXT)] = 7
    after = model(replace(packed, images=images, tokens=tokens)).hidden
    assert torch.equal(after[packed.documents == 0], together[packed.documents == 0])
    for document in (1, 3):
        assert not torch.equal(after[packed.documents == document], together[packed.documents == document])


def test_a_dropped_picture_has_no_influence_and_no_gradient(config, kind, fast, make) -> None:
    model = build(config, kind)
    batch = pack(lay_out(model, fast, *samples(make)), width=100)
    objective = VlaConfig(dropout=ModalityDropoutConfig(image=1 - 1e-9)).build(model).train()
    robots = (batch.images_document == 0) | (batch.images_document == 3)
    other = replace(batch, images=torch.where(robots[:, None, None, None], 255 - batch.images, batch.images))

    def losses(objective, batch: Batch) -> dict[str, float]:
        torch.manual_seed(1)
        return {name: loss.sum.item() for name, loss in objective(batch).items()}

    assert losses(objective, batch) == losses(objective, other)
    seeing = VlaConfig().build(model).train()
    first, second = losses(seeing, batch), losses(seeing, other)
    assert {name for name in first if first[name] != second[name]} == {"action_token", "flow"}
    found = objective(pack(lay_out(model, fast, samples(make)[0])))
    found.total(found.counts()).backward()
    blind = [*model.vision.parameters(), *model.connect.parameters()]
    assert not any(p.grad is not None and p.grad.any() for p in blind)


def test_everything_downstream_takes_it(config, kind, fast, make) -> None:
    model = build(config, kind)
    rows = lay_out(model, fast, *samples(make))
    per_image = {"mlp": 4, "perceiver": 3, "gate": 1}[kind]
    assert KINDS[kind].num_tokens((4, 4)) == model.connect.num_tokens == per_image
    assert [row.counts.get("image", 0) for row in rows] == [per_image, per_image, 0, 2 * per_image]
    objective = VlaConfig().build(model)
    fake = objective.fake_batch()
    losses = objective(fake)
    assert losses.counts() == objective.counts(fake)
    losses.total(losses.counts()).backward()
    idle = {"action.expert.no_state", "state.weight", "action.expert.state.weight"}  # the fake state is 0
    assert {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.any()} <= idle
    names = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)), "a weight with two names"
    batch = pack(rows[:1])
    context = model.gather_context(model(batch), batch, torch.tensor([0]))
    assert model.action.sample(context).isfinite().all()
    features = model.features(batch)
    assert features.shape == (1, 16 * 32 + per_image * 32 + 32)
    assert torch.equal(features, model.features(batch))


def test_overfits_one_batch(config, kind, fast, make) -> None:
    torch.manual_seed(0)
    model = config.replace(connect=KINDS[kind]).build(2, 3)
    red, blue = (make(name, ("caption", name), state=False, action=False) for name in ("red", "sea"))
    batch = pack(lay_out(model, fast, red, blue))  # told apart by their pictures alone
    objective = VlaConfig().build(model)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(110):
        optimizer.zero_grad()
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        optimizer.step()
    mean = (losses["text"].sum / losses["text"].count).item()
    assert mean < 0.05, "nats; blind it would be ln(2) / 4 = 0.17"


def test_every_token_reads_the_last_picture_of_its_own_document(config, fast) -> None:
    model = build(config, "gate")
    picture = np.zeros((16, 16, 3), np.uint8)

    def show(i: int) -> Image:
        return Image(pixels=picture + i)

    def sample(name: str, *segments: Text | Image) -> Sample:
        return Sample(id=name, segments=segments, source="test", license="MIT")

    first = sample("a", Text(text="ab"), show(1), Text(text="cd"), show(2), show(3), Text(text="e"))
    second, third = sample("b", Text(text="xy")), sample("c", show(4), Text(text="z"))
    rows = lay_out(model, fast, first, second, third)
    batch = pack(rows, width=sum(row.length for row in rows) + 2)
    readers = find_readers(batch, everything(batch))
    owner = torch.full((batch.tokens.numel(),), -1)
    for number, places in enumerate(readers.index):
        size = int((readers.slots // readers.index.shape[1] == number).sum())
        owner[places[:size]] = number
    # a b [1] \n c d [2] [3] \n e end | x y end | [4] \n z end | padding
    assert owner.tolist() == [-1, -1, 0, 0, 0, 0, 1, 2, 2, 2, 2, -1, -1, -1, 3, 3, 3, 3, -1, -1]
    assert readers.tokens.tolist() == (owner >= 0).nonzero().flatten().tolist()
    assert torch.equal(readers.index.flatten()[readers.slots], readers.tokens)
    seen = everything(batch)
    gone = seen.documents.masked_fill((batch.documents == 0) & (batch.kinds == Kind.IMAGE), -1)
    left = find_readers(batch, replace(seen, documents=gone))
    assert left.tokens.tolist() == [14, 15, 16, 17]


def test_closed_gates_leave_the_language_model_as_it_is(config, fast, make) -> None:
    model = build(config, "gate", awake=False).eval()
    assert isinstance(model.connect, Gate)
    batch = pack(lay_out(model, fast, *samples(make)), width=60)
    words = model.language.embed(batch.tokens)
    placeholder = torch.where((batch.kinds == Kind.IMAGE)[..., None], model.connect.image_token, words)
    states = model.state(batch.states)
    rows = placeholder.masked_scatter((batch.kinds == Kind.STATE)[..., None], states)
    alone = model.language(rows, batch.documents, batch.positions)
    found = model(batch).hidden
    assert torch.equal(found, alone)
    assert torch.equal(model(replace(batch, images=255 - batch.images)).hidden, found)
    objective = VlaConfig().build(model)
    losses = objective(batch)
    losses.total(losses.counts()).backward()
    for block in model.connect.blocks:
        assert block.attention_gate.grad.abs() > 0
        assert block.mlp_gate.grad.abs() > 0
    assert not any(layer._forward_pre_hooks for layer in model.language.layers), "hooks live for one pass"


def test_open_gates_leave_text_as_it_is(config, fast, make) -> None:
    model = build(config, "gate").eval()
    batch = pack(lay_out(model, fast, *samples(make)))
    text = batch.documents == 2
    plain = model.language(model.language.embed(batch.tokens), batch.documents, batch.positions)
    assert torch.equal(model(batch).hidden[text], plain[text])
    assert not torch.equal(model(batch).hidden[batch.documents == 1], plain[batch.documents == 1])
    blank = pack(lay_out(model, fast, make("doc", ("document", "hello"), images=0, state=False, action=False)))
    assert model(blank).hidden.isfinite().all()


def test_bfloat16_weights(config, kind, fast, make) -> None:
    model = build(config, kind).bfloat16()
    objective = VlaConfig().build(model)
    batch = pack(lay_out(model, fast, *samples(make)))
    losses = objective(batch)
    assert all(loss.sum.dtype == torch.float32 and loss.sum.isfinite() for loss in losses.values())
    losses.total(losses.counts()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.connect.parameters())
