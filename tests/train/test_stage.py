import math

import pytest
import torch
from torch import nn
from toy import Model, Toy, batch_of, batches_from, plain_toy, stages

from trivium.core.errors import ConfigError
from trivium.core.rng import Rng
from trivium.train.loop import run_stage
from trivium.train.stage import StageConfig, apply_freeze, select, undisturbed
from trivium.train.state import State


def layers(*numbers):
    return {f"language.layers.{n}.{kind}" for n in numbers for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["language.layers.0-1"], layers(0, 1)),
        (["language.layers.2-"], layers(2, 3)),
        (["language.layers.-1"], layers(0, 1)),
        (["language.layers.3"], layers(3)),
        (["language.layers.*.bias"], {n for n in layers(0, 1, 2, 3) if n.endswith("bias")}),
        (["language.layers", "!language.layers.1-2"], layers(0, 3)),
        (["!language.layers.1-2", "language.layers"], layers(0, 3)),
        (["action.bias"], {"action.bias"}),
        (["language.head"], {"language.embed.weight"}),  # tied: one weight, under its first name
        (["action", "action.bias"], {"action.weight", "action.bias"}),
    ],
)
def test_patterns(patterns, chosen):
    assert select(Toy(Model()), patterns) == chosen


def test_star_is_everything_with_tied_weights_once():
    toy = Toy(Model())
    assert select(toy, ["*"]) == {name for name, _ in toy.named_parameters()}
    assert "language.head.weight" not in select(toy, ["*"])


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("vison.0", ["'vison' fits no parameter", "one of vision, language, action", "Did you mean 'vision'?"]),
        ("language.layer.0-1", ["embed, layers, norm", "below 'language'", "Did you mean 'layers'?"]),
        ("language.layers.4-", ["'4-' fits no parameter", "numbers from 0 to 3 below 'language.layers'"]),
        ("language.layers.0-9", ["'0-9' fits no parameter", "numbers from 0 to 3"]),
        ("language.layers.2-1", ["numbers from 0 to 3"]),
        ("language.layers.-", ["numbers from 0 to 3"]),
        ("action.bias.more", ["nothing more after 'action.bias', which is a parameter"]),
        ("", ["one of vision, language, action"]),
        ("vision.2", ["numbers from 0 to 1"]),  # a dropout: no parameter in it
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(pattern, texts):
    for patterns in ([pattern], ["*", "!" + pattern]):
        with pytest.raises(ConfigError) as error:
            select(Toy(Model()), patterns, "stages.align.learn")
        assert str(error.value).startswith(f"stages.align.learn: found the pattern {pattern!r}")
        for text in texts:
            assert text in str(error.value)


@pytest.mark.parametrize("learn", [(), ("!vision",), ("vision", "!vision")])
def test_a_stage_that_trains_nothing_is_refused(learn):
    stage = StageConfig(name="empty", steps=1, learn=learn, lr=1e-3)
    with pytest.raises(ConfigError, match=r"stages\.empty\.learn: found patterns that choose no parameter"):
        stage.build(Toy(Model()))


def test_table_counts_every_parameter_once():
    toy = Toy(Model())
    table = apply_freeze(toy, ["language.layers.0-1", "language", "!language.norm"])
    assert [row.pattern for row in table] == ["language.layers.0-1", "language", "(frozen)"]
    assert table[0] == ("language.layers.0-1", 4, 2 * (16 * 16 + 16))
    assert table[1] == ("language", 5, 2 * (16 * 16 + 16) + 5 * 16)  # two layers, and the tied table once
    assert sum(row.elements for row in table) == sum(p.numel() for p in toy.parameters())


def test_frozen_modules_go_to_eval_and_the_rest_trains():
    toy = Toy(Model())
    apply_freeze(toy, ["language.layers.0-1"])
    assert not any(module.training for module in toy.vision.modules())
    assert toy.training
    assert toy.language.training
    assert [layer.training for layer in toy.language.layers] == [True, True, False, False]
    apply_freeze(toy, ["vision"])
    assert all(module.training for module in toy.vision.modules())  # its dropout too, which has no parameter
    assert not toy.language.training


def test_freezing_drops_old_gradients():
    toy = Toy(Model())
    sum(p.sum() for p in toy.parameters()).backward()
    apply_freeze(toy, ["action"])
    assert all(p.grad is None for p in toy.parameters())


@pytest.mark.parametrize("learn", [("vision",), ("language.layers.0-1", "action"), ("*", "!language.embed")])
def test_only_what_learns_moves(learn):
    toy = Toy(Model())
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    stage = stages()[0].replace(learn=learn, steps=10)
    optimizer, _ = stage.build(toy)
    state = State(Rng(0))
    run_stage(toy, batches_from(0, 2), optimizer, state, stage, lambda _: None, lambda *_: None)
    chosen = select(toy, learn)
    for name, parameter in toy.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in chosen), name
    # Running statistics are frozen with the module that owns them.
    assert torch.equal(toy.vision[1].running_mean, before["vision.1.running_mean"]) == (
        not chosen & {"vision.1.weight"}
    )


def test_what_is_unfrozen_starts_with_fresh_moments_and_moves_nobody_else():
    toy = Toy(Model())
    first, second = (stages()[0].replace(learn=learn, steps=3) for learn in (("action",), ("action", "language")))
    optimizer, _ = first.build(toy)
    run_stage(toy, batches_from(0, 2), optimizer, State(Rng(0)), first, lambda _: None, lambda *_: None)
    assert {float(value) for name, value in optimizer.tensors().items() if name.startswith("step/")} == {3.0}
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    unfrozen, _ = second.build(toy)
    assert unfrozen.tensors() == {}
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    run_stage(toy, batches_from(0, 2), unfrozen, State(Rng(0)), second, lambda _: None, lambda *_: None)
    steps = {name: float(value) for name, value in unfrozen.tensors().items() if name.startswith("step/")}
    assert {name.removeprefix("step/") for name in steps} == select(toy, second.learn)
    assert set(steps.values()) == {3.0}, "nobody goes on from another's moments"
    assert all(torch.equal(toy.state_dict()[name], before[name]) for name in before if name.startswith("vision"))


def test_undisturbed_gives_modes_and_random_numbers_back_even_after_an_error():
    toy = Toy(Model())
    apply_freeze(toy, ["language"])
    modes = [module.training for module in toy.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    def crash():
        assert not any(module.training for module in toy.modules())
        toy(batch_of(0))
        toy.train()
        raise RuntimeError

    with pytest.raises(RuntimeError), undisturbed(toy, 1):
        crash()
    assert [module.training for module in toy.modules()] == modes
    assert torch.equal(torch.rand(2), expected)


def test_groups_hold_every_learning_parameter_once_with_its_rate_and_decay():
    toy = Toy(Model())
    stage = StageConfig(
        name="joint",
        steps=9,
        learn=("*", "!language.layers.0"),
        lr=1e-3,
        lr_groups={"language.layers": 1e-4, "language": 1e-5},
        weight_decay=0.1,
    )
    optimizer, _ = stage.build(toy)
    owner = {name: group for group in optimizer._groups for name in group.names}
    assert sorted(n for group in optimizer._groups for n in group.names) == sorted(select(toy, stage.learn))
    found = {name: (group.label, group.lr, group.weight_decay) for name, group in owner.items()}
    assert found["language.layers.1.weight"] == ("language.layers", 1e-4, 0.1)
    assert found["language.layers.1.bias"] == ("language.layers", 1e-4, 0.0)
    assert found["language.embed.weight"] == ("language", 1e-5, 0.0)
    assert found["language.norm.weight"] == ("language", 1e-5, 0.0)
    assert found["vision.0.weight"] == ("base", 1e-3, 0.1)
    assert found["vision.1.weight"] == ("base", 1e-3, 0.0)  # batch norm
    assert optimizer.lr(0.5) == {"language.layers": 5e-5, "language": 5e-6, "base": 5e-4}


def test_class_tokens_and_position_tables_do_not_decay():
    toy = plain_toy()
    toy.position = nn.Parameter(torch.zeros(1, 9, 16))
    toy.class_token = nn.Parameter(torch.zeros(1, 1, 16))
    toy.projection = nn.Parameter(torch.zeros(16, 16))
    optimizer, _ = StageConfig(name="a", steps=1, learn=("*",), lr=1e-3).build(toy)
    decay = {name: group.weight_decay for group in optimizer._groups for name in group.names}
    assert (decay["position"], decay["class_token"], decay["projection"]) == (0.0, 0.0, 0.1)


def test_a_rate_for_what_does_not_learn_is_refused():
    stage = StageConfig(name="align", steps=1, learn=("action",), lr=1e-3, lr_groups={"vision": 1e-5})
    with pytest.raises(ConfigError, match=r"stages\.align\.lr_groups\.vision: found .* do not learn"):
        stage.build(plain_toy())


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("lr", 0.0), ("betas", (0.9, 1.0)), ("name", "a/b")])
def test_values_out_of_range_are_refused(field, value):
    good = {"name": "a", "steps": 1, "learn": ("*",), "lr": 1e-3}
    with pytest.raises(ConfigError, match=field):
        StageConfig(**{**good, field: value})


MOLMO = {"action": 2e-4, "vision": 6e-6, "language": 2e-5}
"""Molmo's rates: connector (here the toy's third part), encoder, language model."""


@pytest.mark.parametrize("step", [0, 100, 199, 200, 1099, 1999])
def test_three_rates_of_molmo_follow_one_schedule_in_closed_form(step):
    """Warm-up of 200 steps, then a cosine to a tenth; every group at its own peak (section 7 of the facts)."""
    groups = {name: rate for name, rate in MOLMO.items() if name != "action"}
    stage = StageConfig(name="molmo", steps=2000, learn=("*",), lr=2e-4, lr_groups=groups, warmup_steps=200)
    optimizer, _ = stage.build(plain_toy())
    cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 200) / 1800))
    share = (step + 1) / 201 if step < 200 else cosine
    found = optimizer.lr(stage.lr_share(step))
    expected = {
        label: MOLMO["action" if label == "base" else label] * share for label in ("vision", "language", "base")
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_first_step_of_adamw_moves_every_part_by_its_own_rate():
    """Without decay the first step of AdamW is lr * sign(gradient): the three parts move by exactly their rates."""
    toy = plain_toy()
    groups = {name: rate for name, rate in MOLMO.items() if name != "action"}
    stage = StageConfig(
        name="molmo", steps=9, learn=("*",), lr=2e-4, lr_groups=groups, weight_decay=0.0, clip=1e9, betas=(0.9, 0.95)
    )
    optimizer, _ = stage.build(toy)
    before = {name: value.detach().clone() for name, value in toy.named_parameters()}
    optimizer.begin_step()
    losses = toy(batch_of(0))
    (1e6 * losses.total(losses.counts())).backward()  # far above AdamW's epsilon
    optimizer.accumulate()
    grads = {name: value.grad.clone() for name, value in toy.named_parameters() if value.grad is not None}
    optimizer.step(0.0, 1.0)
    for name, value in toy.named_parameters():
        if name in grads:
            expected = -MOLMO[name.split(".")[0]] * grads[name].sign()
            clear = grads[name].abs() > 1e-2
            assert clear.any(), name
            moved = (value.detach() - before[name])[clear]
            assert torch.allclose(moved, expected[clear], rtol=1e-2, atol=1e-7), name
