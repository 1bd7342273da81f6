import copy
import math

import pytest
import torch
from torch import nn

from trivium.core.errors import CheckpointError
from trivium.train.optim import Group, Optimizer


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)).to(dtype)


def optimizer_of(module, lr=1e-2, clip=math.inf, decay=0.1):
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    matrices = tuple(sorted(name for name in names if name.endswith("weight")))
    groups = [Group("base", lr, decay, matrices), Group("base", lr, 0.0, tuple(sorted(names - set(matrices))))]
    return Optimizer(module, groups, (0.9, 0.95), clip)


def give_gradients(module, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (noise * scale).to(parameter.dtype)


def test_adamw_is_the_hand_formula_in_float64():
    module = net(torch.float64)
    optimizer = optimizer_of(module)
    hand = {
        name: [p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)] for name, p in module.named_parameters()
    }
    for t in range(1, 11):
        give_gradients(module, t)
        lr = 1e-2 * t / 10
        for name, parameter in module.named_parameters():
            weight, first, second = hand[name]
            weight *= 1 - lr * (0.1 if name.endswith("weight") else 0.0)
            first.mul_(0.9).add_(parameter.grad * 0.1)
            second.mul_(0.95).add_(parameter.grad.square() * 0.05)
            corrected = (second / (1 - 0.95**t)).sqrt() + 1e-8
            weight -= lr * (first / (1 - 0.9**t)) / corrected
        assert optimizer.step(0.0, t / 10).taken
    for name, parameter in module.named_parameters():
        assert (parameter - hand[name][0]).abs().max() <= 1e-15, name


def test_adamw_equals_torch_in_float32():
    module, other = net(), net()
    optimizer = optimizer_of(module, decay=0.0)
    reference = torch.optim.AdamW(other.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, foreach=False)
    for t in range(20):
        give_gradients(module, t)
        give_gradients(other, t)
        optimizer.step(0.0, 1.0)
        reference.step()
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_equals_torch_and_returns_the_norm_before(scale):
    module, other = net(), net()
    optimizer = optimizer_of(module, clip=1.0)
    reference = optimizer_of(other)
    give_gradients(module, 1, scale)
    give_gradients(other, 1, scale)
    norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    assert optimizer.step(0.0, 1.0).norm == float(norm)
    reference.step(0.0, 1.0)
    # Adam's first step hides the scale, its second moment does not.
    for name, moment in reference.tensors().items():
        assert torch.equal(optimizer.tensors()[name], moment), name


def snapshot(module, optimizer):
    return {name: value.clone() for name, value in [*module.state_dict().items(), *optimizer.tensors().items()]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("loss", "poison"), [(math.nan, None), (math.inf, None), (0.0, math.nan), (0.0, math.inf)])
def test_a_step_that_is_not_finite_touches_nothing_and_the_next_goes_on(dtype, loss, poison):
    module = net(dtype)
    optimizer = optimizer_of(module)
    give_gradients(module, 1)
    optimizer.accumulate()
    optimizer.step(0.0, 1.0)
    before = snapshot(module, optimizer)
    never_poisoned, other = copy.deepcopy((module, optimizer))

    give_gradients(module, 2)
    if poison is not None:
        module[0].bias.grad[1] = poison
    optimizer.accumulate()
    update = optimizer.step(loss, 1.0)
    assert not update.taken
    assert math.isfinite(update.norm) == (poison is None)
    after = snapshot(module, optimizer)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())

    for each, its in ((module, optimizer), (never_poisoned, other)):
        give_gradients(each, 3)
        its.accumulate()
        assert its.step(0.0, 1.0).taken
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), never_poisoned.parameters(), strict=True))
    assert not torch.equal(module[0].weight, before["0.weight"])


def test_bf16_weights_learn_at_1e_4_thanks_to_their_masters():
    module = nn.Linear(4, 4, bias=False).bfloat16()
    nn.init.ones_(module.weight)
    optimizer = Optimizer(module, [Group("base", 1e-4, 0.0, ("weight",))])
    plain = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    naive = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(200):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.accumulate()
        optimizer.step(0.0, 1.0)
        plain.grad = torch.ones_like(plain)
        naive.step()
    assert torch.equal(plain, torch.ones_like(plain))  # what the masters are for
    assert optimizer.tensors()["master/weight"].dtype == torch.float32
    torch.testing.assert_close(optimizer.tensors()["master/weight"], torch.full((4, 4), 0.98), atol=1e-5, rtol=0)
    assert torch.equal(module.weight, torch.full((4, 4), 0.98).bfloat16())


def test_bf16_gradients_of_micro_batches_add_up_in_fp32():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    optimizer = Optimizer(module, [Group("base", 1e-4, 0.0, ("weight",))], clip=1e9)
    for _ in range(300):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.accumulate()
    assert optimizer.step(0.0, 1.0).norm == 300.0  # bf16 alone stops at 256


def test_a_weight_without_gradient_neither_decays_nor_moves():
    module = net()
    optimizer = optimizer_of(module)
    give_gradients(module, 1)
    optimizer.step(0.0, 1.0)
    before = module[0].weight.detach().clone()
    for name, parameter in module.named_parameters():
        if name != "0.weight":  # which has what the step before left it: nothing, and not a gradient of zero
            parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.0, 1.0)
    assert torch.equal(module[0].weight, before)
    assert optimizer.tensors()["step/0.weight"] == 1
    assert optimizer.tensors()["step/1.weight"] == 2


def test_a_parameter_in_two_groups_or_in_none_is_our_own_mistake():
    module = net()
    names = tuple(name for name, _ in module.named_parameters())
    for groups in ([Group("a", 1.0, 0.0, names), Group("b", 1.0, 0.0, names[:1])], [Group("a", 1.0, 0.0, names[1:])]):
        with pytest.raises(AssertionError, match="exactly one group"):
            Optimizer(module, groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_on_bit_for_bit(dtype):
    module = net(dtype)
    optimizer = optimizer_of(module)
    for t in range(3):
        give_gradients(module, t)
        optimizer.accumulate()
        optimizer.step(0.0, 1.0)
    twin = copy.deepcopy(module)
    other = optimizer_of(twin)
    other.load(optimizer.tensors(), "here")
    for each, its in ((module, optimizer), (twin, other)):
        give_gradients(each, 9)
        its.accumulate()
        its.step(0.0, 1.0)
    left, right = snapshot(module, optimizer), snapshot(twin, other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_moments_of_other_parameters_are_refused():
    module = net()
    optimizer = optimizer_of(module)
    give_gradients(module, 0)
    optimizer.step(0.0, 1.0)
    saved = optimizer.tensors()
    strange = {f"{kind}/2.weight": torch.zeros(1) for kind in ("step", "exp_avg", "exp_avg_sq")}
    with pytest.raises(CheckpointError, match=r"o\.safetensors: found 3 entries .* 'exp_avg/2\.weight'"):
        optimizer.load(saved | strange, "o.safetensors")
    with pytest.raises(CheckpointError, match=r"1 entries .* '0\.weight'"):
        optimizer.load(saved | {"exp_avg/0.weight": torch.zeros(1)}, "o.safetensors")
    with pytest.raises(CheckpointError, match=r"'master/0\.bias'"):
        optimizer_of(net(torch.bfloat16)).load(saved, "o.safetensors")
