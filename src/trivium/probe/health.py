"""What a health check found: the shape of `health/<stage>.json`, and its table in the terminal."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from trivium.probe.curve import Estimate

Outcome = Literal["better", "tie", "worse"]
ProbeName = Literal["linear", "mlp"]


class Record(BaseModel):
    """A piece of a report: frozen, and readable from a file that says more than we know."""

    model_config = ConfigDict(frozen=True)


class EncoderNote(Record):
    """How wide an encoder's features are, and what was left after the reduction all encoders go through."""

    name: str
    width: int
    components: int
    variance_kept: float


class Curve(Record):
    """One encoder read by one probe: the score at every number of training samples."""

    encoder: str
    probe: ProbeName
    sizes: tuple[int, ...]
    scores: tuple[Estimate, ...]
    aulc: Estimate
    second: tuple[float, ...]
    """The figure in everyday units at every size (see `TargetResult.second`); empty when there is none."""


class Margin(Record):
    """The subject's score minus a control's, resampled together: episodes hard for both do not blur it."""

    control: str
    probe: ProbeName
    full: Estimate
    small: Estimate
    aulc: Estimate
    outcome: Outcome
    """Of `full`: all training samples."""


class TargetResult(Record):
    """Everything about one thing that was asked."""

    name: str
    metric: Literal["R2", "accuracy"]
    second: Literal["error_cm", "mse", "none"]
    chance: float
    num_samples: int
    columns_left_out: int
    """Columns that hardly vary, on which R2 means nothing (the height of an object that lies on the table)."""
    curves: tuple[Curve, ...]
    margins: tuple[Margin, ...]
    sentences: tuple[str, ...]

    def curve(self, encoder: str, probe: ProbeName) -> Curve:
        """Find one curve."""
        return next(c for c in self.curves if c.encoder == encoder and c.probe == probe)


class HealthReport(Record):
    """One stage's health check. A ranking with uncertainty: never read it as pass or fail."""

    stage: str
    subject: str
    num_samples: int
    num_episodes: int
    """Episodes tested; all others were only learned from."""
    num_folds: int
    encoders: tuple[EncoderNote, ...]
    targets: tuple[TargetResult, ...]
    verdict: str
    cautions: tuple[str, ...]
    seconds: float

    def table(self) -> Table:
        """Lay out the scores at all training samples: a row a target and probe, a column an encoder."""
        names = [note.name for note in self.encoders]
        table = Table(
            title=f"health check: {self.stage} ({self.num_samples} samples, {self.num_episodes} test episodes)"
        )
        for header in ("target", "probe", *names, f"{self.subject} is"):
            table.add_column(header)
        for target in self.targets:
            for probe in ("linear", "mlp"):
                cells = [_cell(target, target.curve(name, probe)) for name in names]
                outcomes = [f"{m.outcome} vs {m.control}" for m in target.margins if m.probe == probe]
                table.add_row(f"{target.name} ({target.metric})", probe, *cells, "\n".join(outcomes))
        return table


def _cell(target: TargetResult, curve: Curve) -> str:
    unit = {"error_cm": "{:.1f} cm", "mse": "mse {:.3f}", "none": ""}[target.second]
    return f"{curve.scores[-1]}" + (f"\n{unit.format(curve.second[-1])}" if curve.second else "")
