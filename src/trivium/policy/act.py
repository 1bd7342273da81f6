"""Acting: observations in, physical action chunks out, by the road that training took."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from trivium.core.errors import DataError
from trivium.core.sample import Action, Sample
from trivium.data.row import collate
from trivium.data.transform import Transform
from trivium.policy.sequence import VlaLayout
from trivium.policy.visible import without_dark
from trivium.policy.vla import Model


class VlaPolicy:
    """A trained model with the transform and the layout it was trained with.

    `Transform.forward` (without randomness), `Layout.build`, the model, `Transform.inverse`: no other road exists.
    A black picture is that of a dead camera and is left out, as modality dropout leaves it out in training.
    """

    def __init__(self, model: Model, transform: Transform, layout: VlaLayout, seed: int = 0) -> None:
        """Hold the parts; `seed` fixes the noise that the action head starts from."""
        self.model, self.transform, self.layout = model, transform, layout
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def reset(self, seed: int) -> None:
        """Start the noise again, so that an episode can be repeated."""
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def act(self, observations: Sequence[Sample]) -> Float[np.ndarray, "m k a"]:
        """Return one chunk of commands an observation, in physical units; the model's mode is left as it was.

        Raises:
            DataError: an observation holds an action, or the model answered with NaN or infinity.
        """
        if not observations:
            return np.zeros((0, self.model.action.horizon, self.model.action.action_dim), np.float32)
        for sample in observations:
            if sample.of(Action):
                raise DataError(
                    f"observation {sample.id}", "an action", "pictures, text and state", "Leave the action out."
                )
        rows = [self.layout.build(self.transform.forward(sample, None)) for sample in observations]
        batch = collate([[("", row)] for row in rows], max(row.length for row in rows)).to(self.device)
        training = self.model.training
        self.model.eval()
        try:
            documents = torch.arange(len(rows), device=self.device)
            context = self.model.gather_context(self.model(batch, without_dark(batch)), batch, documents)
            chunks = self.model.action.sample(context, self.generator).cpu().numpy()
        finally:
            self.model.train(training)
        bad = np.flatnonzero(~np.isfinite(chunks).all((1, 2)))
        if len(bad):
            raise DataError(
                f"observation {observations[bad[0]].id}",
                "an action with NaN or infinity",
                "finite commands",
                "Look at the losses of the checkpoint; its weights are broken.",
            )
        pairs = zip(chunks, observations, strict=True)
        return np.stack([self.transform.inverse(chunk, sample) for chunk, sample in pairs])
