"""Acting: observations in, physical action chunks out, by the road that training took."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trivium.action.model import Context, Drawn
from trivium.core.batch import Batch
from trivium.core.errors import DataError
from trivium.core.sample import Action, Sample
from trivium.data.row import Row, collate
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
        self.model, self.transform, self.layout, self.seed = model, transform, layout, seed
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def reset(self, seed: int) -> None:
        """Start the noise again, so that an episode can be repeated."""
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def act(self, observations: Sequence[Sample], temperature: float | None = None) -> Float[np.ndarray, "m k a"]:
        """Return one chunk of commands an observation, in physical units; the model's mode is left as it was.

        Args:
            observations: what the robot sees, feels and is told; of any number of words.
            temperature: how much to explore, as `ActionModel.sample` takes it; None as the head was taught.

        Raises:
            DataError: an observation holds an action, or the model answered with NaN or infinity.
        """
        if not observations:
            return np.zeros((0, self.model.action.horizon, self.model.action.action_dim), np.float32)
        with self._evaluating():
            chunks = self.model.action.sample(self._look(observations), self.generator, temperature)
        return self.physical(chunks, observations)

    @torch.no_grad()
    def draw(self, observations: Sequence[Sample], temperature: float | None = None) -> Drawn:
        """Draw normalised chunks with their log-probabilities, for reinforcement learning; `physical` makes commands.

        Raises:
            ConfigError: the head has no density, or draws nothing at this temperature.
            DataError: an observation holds an action.
        """
        with self._evaluating():
            return self.model.action.draw(self._look(observations), self.generator, temperature)

    def log_prob(
        self,
        observations: Sequence[Sample],
        actions: Float[Tensor, "m k a"],
        temperature: float | None = None,
        noise: Float[Tensor, "m k a"] | None = None,
    ) -> Float[Tensor, " m"]:
        """Return the log-probabilities (nats) of normalised chunks under the policy as it is now, with gradient.

        Args:
            observations: what was seen.
            actions: what was done, as `draw` gave it: normalised, not clipped.
            temperature: that of `draw`.
            noise: that of `draw`, where it was kept; the search for the chunk begins there.

        Raises:
            ConfigError: the head has no density, or draws nothing at this temperature.
            TrainingError: a chunk that this policy cannot make.
        """
        with self._evaluating():
            return self.model.action.log_prob(actions, self._look(observations), temperature, noise)

    def features(self, observations: Sequence[Sample]) -> Float[Tensor, "m d"]:
        """Return what a value function may read, one row an observation in float32, with gradient (`Model.features`).

        All observations must have as many pictures; `width` says how long a row is.
        """
        with self._evaluating():
            return self.model.features(self._batch(observations)).float()

    @torch.no_grad()
    def width(self, observation: Sample) -> int:
        """Return the numbers in a row of `features` for observations like this one."""
        return self.features([observation]).shape[1]

    def physical(self, chunks: Float[Tensor, "m k a"], observations: Sequence[Sample]) -> Float[np.ndarray, "m k _"]:
        """Return normalised chunks as commands in physical units, in the robot's own dimensions.

        Raises:
            DataError: NaN or infinity.
        """
        values = chunks.detach().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values).all((1, 2)))
        if len(bad):
            raise DataError(
                f"observation {observations[bad[0]].id}",
                "an action with NaN or infinity",
                "finite commands",
                "Look at the losses of the checkpoint; its weights are broken.",
            )
        pairs = zip(values, observations, strict=True)
        return np.stack([self.transform.inverse(chunk, sample) for chunk, sample in pairs])

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Leave dropout and the like out, and put the model's mode back."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _look(self, observations: Sequence[Sample]) -> Context:
        batch = self._batch(observations)
        documents = torch.arange(len(observations), device=self.device)
        return self.model.gather_context(self.model(batch, without_dark(batch)), batch, documents)

    def _batch(self, observations: Sequence[Sample]) -> Batch:
        rows = self._rows(observations)
        return collate([[("", row)] for row in rows], max(row.length for row in rows)).to(self.device)

    def _rows(self, observations: Sequence[Sample]) -> list[Row]:
        for sample in observations:
            if sample.of(Action):
                raise DataError(
                    f"observation {sample.id}", "an action", "pictures, text and state", "Leave the action out."
                )
        return [self.layout.build(self.transform.forward(sample, None)) for sample in observations]
