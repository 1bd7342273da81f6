"""Verdicts: a side is taken only with the whole interval on it, and the limits are said."""

import pytest

from trivium.probe import verdict
from trivium.probe.curve import Estimate
from trivium.probe.health import Curve, EncoderNote, Margin, TargetResult

NO_LEAK = Estimate(value=-0.1, low=-0.2, high=0.0)


def _estimate(value, half=0.05):
    return Estimate(value=value, low=value - half, high=value + half)


def _margin(full, small, probe="linear"):
    return Margin(control="random-init", probe=probe, full=full, small=small, aulc=full, outcome=verdict.outcome(full))


def _target(margins, score=0.5):
    curves = [
        Curve(
            encoder=name,
            probe="linear",
            sizes=(32, 900),
            scores=(_estimate(0.1), _estimate(score)),
            aulc=_estimate(0.3),
            second=(),
        )
        for name in ("aligned", "random-init")
    ]
    said = verdict.sentences("aligned", "object position", "R2", margins, 900)
    return TargetResult(
        name="object position",
        metric="R2",
        second="none",
        chance=0.0,
        num_samples=1000,
        columns_left_out=0,
        curves=tuple(curves),
        margins=tuple(margins),
        sentences=tuple(said),
    )


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [
        (0.20, 0.05, "better"),
        (-0.20, 0.05, "worse"),
        (0.04, 0.05, "tie"),
        (-0.04, 0.05, "tie"),
        (0.003, 0.001, "tie"),
        (0.0, 0.0, "tie"),
    ],
)
def test_outcome_needs_the_whole_interval(value, half, expected):
    assert verdict.outcome(_estimate(value, half)) == expected


def test_three_sentences():
    said = [
        verdict.sentences("aligned", "object position", "R2", [_margin(_estimate(value), _estimate(value))], 900)[0]
        for value in (0.21, 0.01, -0.3)
    ]
    assert said[0] == (
        "aligned beats random-init on object position by 0.21 [0.16, 0.26] R2 (linear probe, 900 training samples): "
        "good sign."
    )
    assert said[1] == (
        "aligned and random-init show no difference beyond the interval on object position: +0.01 [-0.04, +0.06] R2 "
        "(linear probe, 900 training samples)."
    )
    assert said[2].startswith("aligned is worse than random-init on object position by 0.30 [0.25, 0.35] R2 (linear")
    assert "look at the weights that were loaded" in said[2]


def test_the_mlp_speaks_only_where_it_differs():
    same, other = (_margin(_estimate(value), _estimate(value), "mlp") for value in (0.3, 0.01))
    linear = _margin(_estimate(0.2), _estimate(0.2))
    quiet = verdict.sentences("aligned", "object position", "R2", [linear, same], 900)
    loud = verdict.sentences("aligned", "object position", "R2", [linear, other], 900)
    assert "MLP" not in quiet[0]
    assert loud[0].endswith("The MLP probe says no difference beyond the interval (+0.01 [-0.04, +0.06]).")


def test_curves_that_cross_are_cautioned():
    crossing, steady = _margin(_estimate(0.2), _estimate(-0.2)), _margin(_estimate(0.2), _estimate(0.01))
    assert any(
        "turns around between 32 and 900" in said
        for said in verdict.cautions("aligned", [_target([crossing])], [], 50, NO_LEAK)
    )
    assert verdict.cautions("aligned", [_target([steady])], [], 50, NO_LEAK) == [verdict.STANDING_CAUTION]


def test_limits_are_said():
    note = EncoderNote(name="aligned", width=4000, components=128, variance_kept=0.5)
    easy = _target([_margin(_estimate(0.0), _estimate(0.0))], score=0.99)
    said = " ".join(verdict.cautions("aligned", [easy], [note], 12, Estimate(value=0.4, low=0.2, high=0.6)))
    assert "rest on 12 episodes only" in said
    assert "128 components keeps 50% of the variance of aligned" in said
    assert "test episodes leak into training" in said
    assert "Every encoder solves object position" in said


def test_overall_names_every_side():
    beaten = _margin(_estimate(0.2), _estimate(0.2))
    tied = _margin(_estimate(0.0), _estimate(0.0)).model_copy(update={"control": "raw-pixels"})
    assert verdict.overall("aligned", [_target([beaten, tied])]) == (
        "On object position aligned beats random-init, ties with raw-pixels."
    )
