"""Plain sentences from margins: what is better, what ties, what is worse, and what not to conclude."""

from collections.abc import Sequence

from trivium.probe.curve import Estimate
from trivium.probe.health import EncoderNote, Margin, Outcome, TargetResult

SMALLEST_MARGIN = 0.005
"""Half a point of score: less is a tie whatever the interval, for it would change no decision."""

STANDING_CAUTION = (
    "This is a ranking with uncertainty on frozen features, not a pass or a fail: probe winners do not always win in "
    "closed loop, and the order can change with the size of the policy behind them."
)


def outcome(margin: Estimate) -> Outcome:
    """Call a margin better or worse only where its whole interval lies on one side."""
    if margin.low > 0 and margin.value > SMALLEST_MARGIN:
        return "better"
    if margin.high < 0 and margin.value < -SMALLEST_MARGIN:
        return "worse"
    return "tie"


def sentences(subject: str, target: str, metric: str, margins: Sequence[Margin], largest: int) -> list[str]:
    """Say one sentence a control from the linear probe, and add the MLP's word where it differs."""
    said = []
    for margin in (m for m in margins if m.probe == "linear"):
        text = _sentence(subject, target, metric, margin, largest)
        other = next((m for m in margins if m.probe == "mlp" and m.control == margin.control), None)
        if other and other.outcome != margin.outcome:
            text += f" The MLP probe says {_WORDS[other.outcome]} ({_signed(other.full)})."
        said.append(text)
    return said


_WORDS = {"better": "better", "tie": "no difference beyond the interval", "worse": "worse"}


def _sentence(subject: str, target: str, metric: str, margin: Margin, largest: int) -> str:
    basis = f"linear probe, {largest} training samples"
    if margin.outcome == "better":
        return f"{subject} beats {margin.control} on {target} by {margin.full} {metric} ({basis}): good sign."
    if margin.outcome == "tie":
        return (
            f"{subject} and {margin.control} show no difference beyond the interval on {target}: "
            f"{_signed(margin.full)} {metric} ({basis})."
        )
    loss = Estimate(value=-margin.full.value, low=-margin.full.high, high=-margin.full.low)
    return (
        f"{subject} is worse than {margin.control} on {target} by {loss} {metric} ({basis}): look at the weights that "
        f"were loaded, at the learning rate of the parts this stage trains, and at the stage's loss curves."
    )


def _signed(margin: Estimate) -> str:
    return f"{margin.value:+.2f} [{margin.low:+.2f}, {margin.high:+.2f}]"


def overall(subject: str, targets: Sequence[TargetResult]) -> str:
    """Sum the linear probe's outcomes up, a clause a target."""
    verbs = {"better": "beats", "tie": "ties with", "worse": "is worse than"}
    clauses = []
    for target in targets:
        parts = []
        for kind, verb in verbs.items():
            controls = [m.control for m in target.margins if m.probe == "linear" and m.outcome == kind]
            if controls:
                parts.append(f"{verb} {' and '.join(controls)}")
        clauses.append(f"on {target.name} {subject} {', '.join(parts)}")
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if text else "Nothing was compared."


def cautions(
    subject: str, targets: Sequence[TargetResult], encoders: Sequence[EncoderNote], num_episodes: int, leak: Estimate
) -> list[str]:
    """List what limits the verdict, the standing caution first."""
    said = [STANDING_CAUTION]
    if num_episodes < 30:
        said.append(f"The intervals rest on {num_episodes} episodes only and may be too narrow; 30 or more are better.")
    for note in encoders:
        if note.components == 0:
            said.append(f"The features of {note.name} do not vary at all: the encoder has collapsed.")
        elif note.variance_kept < 0.8:
            share = f"{note.variance_kept:.0%}"
            said.append(
                f"The reduction to {note.components} components keeps {share} of the variance of {note.name}; "
                f"what it drops counts for nothing here."
            )
    if leak.low > SMALLEST_MARGIN:
        said.append(
            f"A random number drawn for each episode could be predicted (R2 {leak}): test episodes leak into training. "
            f"Do not trust this check before the episode numbers are mended."
        )
    for target in targets:
        said.extend(_target_cautions(subject, target))
    return said


def _target_cautions(subject: str, target: TargetResult) -> list[str]:
    said = []
    linear = [curve for curve in target.curves if curve.probe == "linear"]
    if min(curve.scores[-1].value for curve in linear) > 0.98:
        said.append(f"Every encoder solves {target.name}: it is too easy to tell them apart.")
    for margin in (m for m in target.margins if m.probe == "linear"):
        turned = {outcome(margin.small), outcome(margin.full)} == {"better", "worse"}
        if turned:
            few, many = linear[0].sizes[0], linear[0].sizes[-1]
            said.append(
                f"On {target.name} the order of {subject} and {margin.control} turns around between {few} and {many} "
                f"training samples: with little data judge by the left end of the curve."
            )
    return said
