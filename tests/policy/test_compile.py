"""Compiled blocks: the same numbers, and no compilation for another number of pictures."""

import copy

import jaxtyping
import pytest
import torch
from torch._dynamo.utils import counters

from trivium.connect.gate import GateConfig
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.batch import Batch
from trivium.data.row import collate
from trivium.policy.objective import VlaConfig, VlaObjective
from trivium.policy.sequence import VlaLayout
from trivium.policy.vla import Model
from trivium.train.optim import Optimizer
from trivium.train.stage import StageConfig

# torch hides this one by itself, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SIZES = {"latents": 3, "depth": 1, "heads": 2, "groups": 1}
KINDS = {
    "mlp": MlpConnectorConfig(shuffle=2),
    "perceiver": PerceiverConfig(**SIZES),
    "gate": GateConfig(**SIZES, every=2),
}
WIDTH = 200


@pytest.fixture
def fresh_dynamo(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def batches(model: Model, fast, make) -> list[Batch]:
    """Rows of one length with 1 to 8 pictures, in captions of one and robot samples of two; first 3, then 1."""
    layout, made = VlaLayout(model.language.vocab, model.connect.num_tokens, fast), []
    for step, pictures in enumerate([3, 1, *(1 + (7 * i) % 8 for i in range(20))]):
        samples = [make(f"{step}/{i}", ("instruction", "go"), images=2) for i in range(pictures // 2)]
        if pictures % 2:
            samples.append(make(f"{step}/c", ("caption", "a cup" * (1 + step % 3)), state=False, action=False))
        made.append(collate([[("x", layout.build(sample)) for sample in samples]], WIDTH))
    assert len({len(batch.images) for batch in made[2:]}) == 8
    return made


def train(objective: VlaObjective, optimizer: Optimizer, batch: Batch) -> torch.Tensor:
    torch.manual_seed(0)
    losses = objective(batch)
    total = losses.total(losses.counts())
    total.backward()
    optimizer.accumulate()
    optimizer.step(total.item(), 1.0)
    return total.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_no_compilation_over_20_batches_with_differing_pictures(config, kind, fast, make, fresh_dynamo) -> None:
    torch.manual_seed(0)
    language = config.language.replace(num_layers=3)
    model = config.replace(connect=KINDS[kind], language=language).build(2, 3)
    objective = VlaConfig().build(model).train()
    optimizer, _ = StageConfig(name="a", steps=22, learn=("*",), lr=1e-3).build(objective)
    made = batches(model, fast, make)
    model.compile_blocks("eager")
    names = set(dict(objective.named_parameters()))
    for batch in made[:2]:
        train(objective, optimizer, batch)
    seen = counters["stats"]["unique_graphs"]
    assert seen == 2 + 1, "blocks for several pictures and for one; one graph for all layers"
    for batch in made[2:]:
        train(objective, optimizer, batch)
        assert counters["stats"]["unique_graphs"] == seen
    assert not counters["graph_break"]
    with torch.no_grad():
        model(collate([[("x", VlaLayout(model.language.vocab, model.connect.num_tokens, None).build(make("z")))]], 50))
    assert counters["stats"]["unique_graphs"] == seen, "acting compiles nothing"
    assert set(dict(objective.named_parameters())) == names


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_equals_plain(config, kind, fast, make, fresh_dynamo) -> None:
    torch.manual_seed(0)
    model = config.replace(connect=KINDS[kind]).build(2, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batches(model, fast, make)[0]
    start = copy.deepcopy(model.state_dict())
    outcome = []
    for compiled in (False, True):
        model.load_state_dict(start)
        if compiled:
            model.compile_blocks("aot_eager")
        objective = VlaConfig().build(model).train()
        objective.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        losses = objective(batch)
        losses.total(losses.counts()).backward()
        grads = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        outcome.append(({name: loss.sum.detach() / loss.count for name, loss in losses.items()}, grads))
    (plain, grads), (other, others) = outcome
    assert counters["stats"]["unique_graphs"] >= 2
    assert all((plain[name] - other[name]).abs() <= 1e-5 for name in plain)
    assert grads.keys() == others.keys()
    assert all((grads[name] - others[name]).abs().max() <= 1e-5 for name in grads)


def test_freezing_other_layers_compiles_more_and_stays_compiled(config, fast, make, fresh_dynamo) -> None:
    torch.manual_seed(0)
    model = config.replace(language=config.language.replace(num_layers=3)).build(2, 3)
    batch = batches(model, fast, make)[0]
    model.compile_blocks("eager")
    objective, graphs = VlaConfig().build(model).train(), []
    for learn in ("*", "connect", "*"):
        stage = StageConfig(name="a", steps=1, learn=(learn,), lr=1e-3)
        train(objective, stage.build(objective)[0], batch)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] < graphs[1] == graphs[2]
