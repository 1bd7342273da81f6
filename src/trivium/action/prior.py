"""A motion prior: the action head alone, on trajectories without pictures."""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from trivium.action.model import ActionModel, Context, gather_state, given, head_losses, num_elements
from trivium.core.batch import Batch
from trivium.core.config import Config
from trivium.core.errors import DataError
from trivium.core.objective import Losses, Objective
from trivium.core.sample import Action, Sample, State
from trivium.data.row import Row


@runtime_checkable
class HasAction(Protocol):
    """Whatever carries the action head: the whole model, usually."""

    action: ActionModel


class ActionPriorConfig(Config):
    """Learn what motions look like, given the state only; the weights hand on to the policy's action head."""

    kind: Literal["prior"] = "prior"

    def build(self, model: HasAction) -> "ActionPriorObjective":
        """Build on the action head of `model`."""
        return ActionPriorObjective(model.action)

    def layout(self) -> "ActionPriorLayout":
        """Build the layout."""
        return ActionPriorLayout()


class ActionPriorObjective(Objective):
    """The head's own error, under its own name ("flow", "regress" ...), of action chunks under the state alone."""

    def __init__(self, action: ActionModel) -> None:
        """Hang the head under its fixed name."""
        super().__init__()
        self.action = action

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of valid action elements."""
        valid = given(batch.actions_valid, "actions_valid")
        count = num_elements(valid, self.action.action_dim, self._dims(batch))
        return dict.fromkeys(self.action.parts(), count)

    def forward(self, batch: Batch) -> Losses:
        """Compute the loss of one batch."""
        documents = given(batch.actions_document, "actions_document")
        actions, valid = given(batch.actions, "actions"), given(batch.actions_valid, "actions_valid")
        state, known = gather_state(batch, documents, self.action.state_dim)
        return head_losses(self.action, actions, valid, Context(state=state, state_known=known, dims=self._dims(batch)))

    def _dims(self, batch: Batch) -> Int[Tensor, "m a"] | None:
        return None if batch.dims is None else batch.dims[given(batch.actions_document, "actions_document")]

    def fake_batch(self) -> Batch:
        """Make two chunks of zeros, one of them cut short by the end of its episode."""
        head = self.action
        valid = torch.ones(2, head.horizon, dtype=torch.bool)
        valid[1, head.horizon // 2 + 1 :] = False
        return Batch(
            states=torch.zeros(2, head.state_dim),
            states_document=torch.arange(2),
            actions=torch.zeros(2, head.horizon, head.action_dim),
            actions_valid=valid,
            actions_document=torch.arange(2),
            ids=("fake/0", "fake/1"),
            token_counts={"fake/action": 2 * head.horizon},
        )


class ActionPriorLayout:
    """Lays out trajectories: no token arrays, a row costs as many tokens as its chunk has steps."""

    numeric = False

    def count(self, sample: Sample) -> Mapping[str, int]:
        """Return the steps of the chunk; a sample without actions has nothing for this stage."""
        actions = sample.of(Action)
        return {"action": len(actions[0].values)} if actions else {}

    def build(self, sample: Sample) -> Row:
        """Return the row, the state beside the chunk where there is one.

        Raises:
            DataError: NaN or infinity, or not exactly one action and at most one state.
        """
        actions, states = sample.of(Action), sample.of(State)
        if len(actions) != 1 or len(states) > 1:
            raise DataError(
                f"sample {sample.id}",
                f"{len(actions)} actions and {len(states)} states",
                "one action and at most one state",
                "Use a robot source with history=1 for the motion prior.",
            )
        for what, part in (("action", actions[0]), *(("state", state) for state in states)):
            if not np.isfinite(part.values).all():
                raise DataError(
                    f"sample {sample.id}", f"NaN or infinity in the {what}", "finite numbers", "Mend or drop it."
                )
        counts = self.count(sample)
        return Row(
            sample_id=sample.id,
            length=counts["action"],
            counts=counts,
            state=np.asarray(states[0].values, np.float32) if states else None,
            actions=np.asarray(actions[0].values, np.float32),
            valid=np.asarray(actions[0].valid, bool),
            dims=sample.dims,
        )
