"""Where training stands: the few numbers that, with weights and moments, make a resume exact."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trivium.core.errors import CheckpointError, TrainingError
from trivium.core.rng import Rng

MAX_SKIPS_IN_A_ROW = 10
"""Steps in a row that may be refused; more is no accident of one batch but a run that has diverged."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one step showed; the meter writes it down."""

    loss: dict[str, float]
    """Mean by name, over all micro-batches and ranks."""
    total: float
    grad_norm: float
    """Before clipping."""
    taken: bool
    """False when loss or gradient was not finite, and nothing moved."""
    lr: dict[str, float]
    tokens: dict[str, int]
    """Of this step, by "bucket/modality"."""
    wait_s: float
    """Spent waiting for data."""
    step_s: float
    """The whole step, waiting included; hooks and saving apart."""


@dataclass
class State:
    """Counters of a run. The learning rate needs none of its own: it is a function of `step`."""

    rng: Rng
    stage: str = ""
    stage_index: int = 0
    step: int = 0
    """Steps of this stage that are behind us, skipped ones included."""
    data_position: int = 0
    """The next step of the data plan; a rollback that jumps over bad data may move it ahead of `step`."""
    plan: str = ""
    """Fingerprint of this stage's data plan: another plan under the same position is other data."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Realised in this stage, by "bucket/modality"."""
    skipped: int = 0
    """Steps of this stage that were refused because loss or gradient was not finite."""
    skipped_in_a_row: int = 0

    @property
    def run_step(self) -> int:
        """Steps of the whole run, all stages together."""
        return self.rng.step

    def begin_stage(self, stage: str, index: int, plan: str = "") -> None:
        """Start a stage, or go on with it when this is the one that was restored.

        Raises:
            CheckpointError: the stage is the restored one, but its data plan has changed.
        """
        if (self.stage, self.stage_index) != (stage, index):
            fresh = State(self.rng, stage, index, plan=plan)
            self.__dict__.update(fresh.__dict__)
        elif self.plan != plan:
            raise CheckpointError(
                f"stage {stage!r} at step {self.step}",
                f"a data plan with fingerprint {plan!r}",
                f"the plan that it was begun with, {self.plan!r}",
                "Put sources, mixture and seed back as they were, or start another run folder with --run.",
            )

    def advance(self, reading: Reading) -> None:
        """Count one step."""
        self.step += 1
        self.data_position += 1
        for name, count in reading.tokens.items():
            self.tokens[name] = self.tokens.get(name, 0) + count
        self.skipped += not reading.taken
        self.skipped_in_a_row = 0 if reading.taken else self.skipped_in_a_row + 1

    def check_skips(self, reading: Reading) -> None:
        """Refuse to go on when too many steps in a row were skipped.

        Raises:
            TrainingError: more than `MAX_SKIPS_IN_A_ROW`.
        """
        if self.skipped_in_a_row <= MAX_SKIPS_IN_A_ROW:
            return
        bad = [f"loss {name!r}" for name, loss in reading.loss.items() if not math.isfinite(loss)]
        raise TrainingError(
            f"stage {self.stage!r}, step {self.step}",
            f"{self.skipped_in_a_row} steps in a row whose {' and '.join(bad) or 'gradient'} was not finite",
            f"at most {MAX_SKIPS_IN_A_ROW}",
            "No weight was changed by them. Lower the stage's lr or raise its warmup_steps, look at the samples named"
            " above, then start again: the run goes on from its last checkpoint.",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for state.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> "State":
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: a field is missing, unknown, or of another type; `where` names the file.
        """
        # The types are those of a fresh state: no second list that could go stale.
        fresh = cls(Rng(0)).to_json()
        wrong = sorted(data.keys() ^ fresh.keys())
        wrong += [name for name in data.keys() & fresh.keys() if type(data[name]) is not type(fresh[name])]
        if wrong or data["rng"].keys() != fresh["rng"].keys():
            raise CheckpointError(
                where,
                f"other fields than this version writes: {', '.join(wrong or ['rng'])}",
                ", ".join(f.name for f in fields(cls)),
                "Resume with the version of trivium that wrote the checkpoint.",
            )
        return cls(**{**data, "rng": Rng(**data["rng"])})
