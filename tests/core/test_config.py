"""Configs: strictness, did-you-mean at any depth, overrides, and YAML that runs again."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from trivium.core.config import Config, describe, from_yaml, override, parse, to_yaml
from trivium.core.errors import ConfigError


class Flow(Config):
    """Flow matching head."""

    kind: Literal["flow"] = "flow"
    horizon: int = Field(8, gt=0)
    """Steps in a chunk, 1 to 64."""
    width: int = 64
    """Hidden width."""


class Bins(Config):
    """Head that bins each action."""

    kind: Literal["bins"] = "bins"
    bins: int = 256
    """Bins per dimension."""


Head = Annotated[Flow | Bins, Field(discriminator="kind")]


class Stage(Config):
    name: str
    """Name in reports."""
    steps: int
    """Optimizer steps."""
    lr: float = 1e-4
    """Learning rate, 1e-6 to 1e-2;
    too high diverges."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW."""
    learn: tuple[str, ...] = ("*",)
    """Patterns."""
    rates: dict[str, float] = {}
    """Learning rate by pattern."""
    head: Head = Flow()
    """What is learned."""
    compile: bool = False
    """Whether to compile."""


class Run(Config):
    stages: tuple[Stage, ...]
    """The curriculum."""
    heads: dict[str, Head] = {}
    """More heads, by name."""
    seed: int = 0
    """Any whole number."""
    mode: Literal["fast", "exact"] = "fast"
    """How to run."""


RUN = Run(stages=(Stage(name="align", steps=10), Stage(name="joint", steps=20, head=Bins())), heads={"a": Flow()})


def message(call, *args) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"stages": [], "sed": 1},
            "f.yaml: sed: found an unknown key 'sed'; expected one of stages, heads, seed, mode. ",
        ),
        ({"stages": [{"name": "a", "stepz": 3, "steps": 1}]}, "f.yaml: stages.0.stepz: found an unknown key 'stepz'"),
        (
            {"stages": [{"name": "a", "steps": "7"}]},
            "f.yaml: stages.0.steps: found '7' (text); expected a valid integer. ",
        ),
        (
            {"stages": [{"name": "a", "steps": True}]},
            "stages.0.steps: found True (true or false); expected a valid integer",
        ),
        ({"stages": [{"name": "a", "steps": 1.5}]}, "stages.0.steps: found 1.5 (a number); expected a valid integer"),
        ({"stages": [{"name": "a", "steps": 1, "lr": True}]}, "stages.0.lr: found True (true or false)"),
        ({"stages": [{"name": "a", "steps": 1, "compile": 1}]}, "stages.0.compile: found 1 (a whole number)"),
        ({"stages": [{"name": "a", "steps": 1, "betas": [0.9]}]}, "stages.0.betas.1: found nothing; expected a value"),
        ({"stages": [{"name": "a", "steps": 1, "betas": [0.9, "x"]}]}, "stages.0.betas.1: found 'x' (text)"),
        (
            {"stages": [{"name": "a"}]},
            "stages.0.steps: found nothing; expected a value for 'steps'. steps: Optimizer steps.",
        ),
        ({"stages": 3}, "f.yaml: stages: found 3 (a whole number); expected a valid "),
        ({}, "f.yaml: stages: found nothing; expected a value for 'stages'. stages: The curriculum."),
        ([1], "f.yaml: found a list; expected an object"),
        (None, "f.yaml: found nothing; expected an object"),
        ({"stages": [], "mode": "fats"}, "mode: found 'fats' (text); expected 'fast' or 'exact'. Did you mean 'fast'?"),
        ({"stages": [], "seed": {1, 2}}, "f.yaml: found data that is not plain (Object of type set is not JSON"),
    ],
)
def test_refusals_name_the_path_what_was_found_and_what_was_expected(data, text):
    assert text in message(parse, Run, data, "f.yaml")


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"kind": "flw"}, "stages.0.head.kind: found kind 'flw'; expected one of flow, bins. Did you mean 'flow'?"),
        ({"horizon": 3}, "stages.0.head.kind: found no kind; expected one of flow, bins. Write one of them."),
        (
            {"kind": "flow", "horizn": 3},
            "stages.0.head.horizn: found an unknown key 'horizn'; expected one of kind, horizon, width. "
            "Did you mean 'horizon'?",
        ),
        (
            {"kind": "flow", "horizon": 0},
            "stages.0.head.horizon: found 0 (a whole number); expected greater than 0. horizon",
        ),
        ({"kind": "bins", "bins": None}, "stages.0.head.bins: found nothing; expected a valid integer"),
    ],
)
def test_the_union_tag_is_no_part_of_the_path(head, text):
    data = {"stages": [{"name": "a", "steps": 1, "head": head}]}
    assert text in message(parse, Run, data)
    assert text.split(": ", 1)[1] in message(parse, Run, {"stages": [], "heads": {"flow": head}})


def test_several_mistakes_are_counted():
    assert message(parse, Run, {"sed": 1, "mod": 2}).endswith("(2 more to mend after this.)")


def test_constructing_answers_like_parsing():
    assert message(lambda: Stage(name="a", stepz=1, steps=2)) == (
        "Stage: stepz: found an unknown key 'stepz'; expected one of name, steps, lr, betas, learn, "
        "rates, head, compile. "
        "Did you mean 'steps'?"
    )
    assert "Stage: betas: found a list; expected a valid tuple" in message(
        lambda: Stage(name="a", steps=1, betas=[0.9, 0.9])
    )
    nested = message(lambda: Run(stages=({"name": "a", "stepz": 1},)))
    assert "Run: stages.0.steps: found nothing" in nested  # the path of the whole, although Stage itself refused


def test_a_config_is_frozen_and_copies_are_checked():
    stage = RUN.stages[0]
    with pytest.raises(ValueError, match="frozen"):
        stage.steps = 3
    assert stage.replace(steps=3) == Stage(name="align", steps=3)
    assert "Did you mean 'steps'?" in message(lambda: stage.replace(stepz=3))
    assert "Did you mean 'steps'?" in message(lambda: stage.model_copy(update={"stepz": 3}))


def test_lists_stand_for_tuples_and_whole_numbers_for_floats():
    stage = parse(Stage, {"name": "a", "steps": 1, "betas": [0, 1], "learn": ["x"], "rates": {"y.z": 1}})
    assert stage == Stage(name="a", steps=1, betas=(0.0, 1.0), learn=("x",), rates={"y.z": 1.0})
    assert isinstance(stage.betas[0], float)


def test_yaml_round_trip_is_equal_and_writes_defaults_out():
    run = RUN.replace(stages=(RUN.stages[0].replace(lr=1e-5, name="1e-4", rates={"a.0-3": 3.3e-7, "no": 1e22}),))
    text = to_yaml(run)
    assert from_yaml(Run, text, "f") == run
    assert "horizon: 8" in text
    assert to_yaml(from_yaml(Run, text, "f")) == text


def test_a_subclass_in_a_field_of_its_base_is_written_whole():
    class Bigger(Stage):
        more: int = 5

    assert "more: 5" in to_yaml(Run(stages=(Bigger(name="a", steps=1),)))


@pytest.mark.parametrize(
    ("assignment", "check"),
    [
        ("stages.1.steps=500", lambda run: run.stages[1].steps == 500),
        ("stages.joint.steps=5", lambda run: run.stages[1].steps == 5),
        ("stages.0.lr=1e-3", lambda run: run.stages[0].lr == 1e-3),
        ("stages.0.betas.1=0.5", lambda run: run.stages[0].betas == (0.9, 0.5)),
        ("stages.0.learn=[connect, action]", lambda run: run.stages[0].learn == ("connect", "action")),
        ("stages.0.rates.vision.blocks.0-3=0.1", lambda run: run.stages[0].rates == {"vision.blocks.0-3": 0.1}),
        ("stages.0.head={kind: flow, horizon: 3}", lambda run: run.stages[0].head == Flow(horizon=3)),
        ("stages.0.head.kind=bins", lambda run: run.stages[0].head == Bins()),
        ("stages.0.head.kind=flow", lambda run: run.stages[0].head == Flow()),
        ("heads.a.horizon=3", lambda run: run.heads == {"a": Flow(horizon=3)}),
        ("heads.b.kind=bins", lambda run: run.heads == {"a": Flow(), "b": Bins()}),
        ("stages.0.name=a=b", lambda run: run.stages[0].name == "a=b"),
        ("stages=[]", lambda run: run.stages == ()),
    ],
)
def test_override(assignment, check):
    before = to_yaml(RUN)
    assert check(override(RUN, [assignment]))
    assert to_yaml(RUN) == before


def test_overrides_apply_in_order_and_are_checked_together():
    changed = override(
        RUN, ["stages.0.head.kind=bins", "stages.0.head.bins=12", "stages.align.name=x", "stages.x.steps=4"]
    )
    assert changed.stages[0] == Stage(name="x", steps=4, head=Bins(bins=12))


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        (
            "stages.1.stepz=5",
            "override: stages.1.stepz: found an unknown key 'stepz'; expected one of name, steps, lr, betas, learn, "
            "rates, "
            "head, compile. Did you mean 'steps'?",
        ),
        (
            "stagez.1.steps=5",
            "override: stagez: found an unknown key 'stagez'; expected one of stages, heads, seed, mode. Did",
        ),
        (
            "stages.jont.steps=5",
            "stages.jont: found no item 'jont'; expected an index below 2 or one of align, joint. Did you",
        ),
        (
            "stages.7.steps=5",
            "override: stages.7: found no item '7'; expected an index below 2 or one of align, joint.",
        ),
        (
            "stages.1.head.horizon=5",
            "stages.1.head.horizon: found an unknown key 'horizon'; expected one of kind, bins",
        ),
        (
            "heads.a.horizn=5",
            "override: heads.a.horizn: found an unknown key 'horizn'; expected one of kind, horizon, width",
        ),
        ("heads.c.horizon=5", "override: heads.c.horizon: found a mapping where 'horizon' should be"),
        ("seed.x=5", "override: seed.x: found 0 (a whole number) where 'x' should be"),
        (
            "stages.1.steps=many",
            "override: stages.1.steps: found 'many' (text); expected a valid integer. steps: Optimizer",
        ),
        ("stages.1.steps=", "override: stages.1.steps: found nothing; expected a valid integer"),
        ("stages.0.learn=[a", "stages.0.learn: found text that is not YAML (while parsing a flow sequence"),
        ("stages.1.steps", "override 'stages.1.steps': found no path or no '='; expected PATH=VALUE"),
        ("=3", "found no path or no '='; expected PATH=VALUE. Write for example stages.1.steps=500."),
        (
            "stages.0.head.kind=bin",
            "override: stages.0.head.kind: found kind 'bin'; expected one of flow, bins. Did you mean",
        ),
    ],
)
def test_wrong_overrides(assignment, text):
    assert text in message(override, RUN, [assignment])


def test_describe_lists_every_leaf_with_its_meaning():
    settings = {setting.path: setting for setting in describe(RUN)}
    assert settings["stages.0.lr"].value == 1e-4
    assert settings["stages.0.lr"].doc == "Learning rate, 1e-6 to 1e-2; too high diverges."
    assert settings["stages.1.head.kind"].doc == "Head that bins each action."
    assert settings["heads.a.horizon"].doc == "Steps in a chunk, 1 to 64."
    assert settings["stages.0.betas"].value == (0.9, 0.95)
    assert len(settings) == 8 * 2 - 2 + 3 + 2 + 3 + 2
    for path in settings:  # what `show` prints can be typed as an override
        if ".rates" not in path and ".kind" not in path:
            assert "unknown key" not in message(override, RUN, [f"{path}={{}}"])
