"""The running average of weights: the peer's formula, low precision, resumes, and what the end of a stage does."""

from importlib.util import find_spec

import pytest
import torch
from test_loop import Run
from test_optim import give_gradients, net, optimizer_of
from toy import Model, Toy, batches_from

from trivium.core.errors import CheckpointError
from trivium.train.optim import Group, Optimizer


def averaging(module: torch.nn.Module, lr: float = 1e-2) -> Optimizer:
    names = tuple(sorted(name for name, _ in module.named_parameters()))
    return Optimizer(module, [Group("base", lr, 0.0, names)], average=True)


@pytest.mark.skipif(not find_spec("diffusers"), reason="the `diffusion` extra is not installed")
def test_it_is_diffusers_average_after_every_step():
    from diffusers.training_utils import EMAModel

    module = net()
    peer = EMAModel(module.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75, inv_gamma=1.0)
    optimizer = averaging(module)
    for t in range(30):
        give_gradients(module, t)
        optimizer.step(0.0, 1.0)
        peer.step(module.parameters())
    last = [parameter.clone() for parameter in module.parameters()]
    optimizer.adopt()
    for ours, theirs, before in zip(module.parameters(), peer.shadow_params, last, strict=True):
        assert (ours - theirs).abs().max() <= 1e-6
        assert (ours - before).abs().max() > 1e-3, "an average that is the last step proves nothing"


def test_averages_of_low_precision_weights_are_exact():
    """In bf16 an average that moves by a thousandth a step would stand still."""
    module = net(torch.bfloat16)
    exact = net(torch.bfloat16).float()
    low, high = averaging(module, 1e-5), averaging(exact, 1e-5)
    for t in range(300):
        give_gradients(module, t)
        for mine, its in zip(exact.parameters(), module.parameters(), strict=True):
            mine.grad = its.grad.float()
        low.accumulate()
        low.step(0.0, 1.0)
        high.step(0.0, 1.0)
    found, expected = low.tensors(), high.tensors()
    low.adopt()
    for name, parameter in module.named_parameters():
        assert torch.equal(found[f"average/{name}"], expected[f"average/{name}"])
        assert torch.equal(parameter, expected[f"average/{name}"].bfloat16())


def test_a_refused_step_moves_no_average():
    module = net()
    optimizer = averaging(module)
    give_gradients(module, 0)
    optimizer.step(0.0, 1.0)
    before = {name: value.clone() for name, value in optimizer.tensors().items()}
    give_gradients(module, 1)
    assert not optimizer.step(float("nan"), 1.0).taken
    assert all(torch.equal(value, before[name]) for name, value in optimizer.tensors().items())


def test_without_the_option_nothing_is_kept_and_nothing_adopted():
    module = net()
    optimizer = optimizer_of(module)
    give_gradients(module, 0)
    optimizer.step(0.0, 1.0)
    last = [parameter.clone() for parameter in module.parameters()]
    optimizer.adopt()
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), last, strict=True))
    assert not [name for name in optimizer.tensors() if name.startswith("average")]


def test_a_stage_ends_with_the_average_and_trains_as_without():
    plain, averaged = Run(), Run(average=True)
    assert plain.go()
    assert averaged.go()
    assert plain.numbers() == averaged.numbers()
    kept = averaged.optimizer.tensors()
    weights = dict(averaged.objective.named_parameters())
    learned = [name for name, weight in weights.items() if weight.requires_grad]
    assert all(torch.equal(weights[name], kept[f"average/{name}"]) for name in learned)
    others = dict(plain.objective.named_parameters())
    assert all(not torch.equal(weights[name], others[name]) for name in learned)


def test_a_stage_that_was_interrupted_ends_with_the_same_average():
    whole = Run(average=True)
    assert whole.go()
    first = Run(average=True)
    first.stop = lambda: first.state.step == 5
    assert not first.go()
    second = Run(batches=batches_from(5, first.stage.accumulate), objective=Toy(Model()), average=True)
    second.objective.load_state_dict(first.objective.state_dict())
    second.optimizer.load(first.optimizer.tensors(), "optimizer")
    second.state = first.state
    assert second.go()
    assert all(torch.equal(one, two) for one, two in zip(whole.bits(), second.bits(), strict=True))
    forgetful = {name: value for name, value in first.optimizer.tensors().items() if not name.startswith("average")}
    with pytest.raises(CheckpointError, match=r"entries that do not fit, such as 'average/.*`average` and the model"):
        second.optimizer.load(forgetful, "optimizer")
