"""A unified model at work: what comes next if this is done, and what to do to get there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from trivium.core.batch import Batch
from trivium.core.errors import DataError
from trivium.core.sample import Action, Image, Sample
from trivium.data.row import Row, collate
from trivium.data.transform import Transform
from trivium.policy.generate import generate
from trivium.policy.unified import UnifiedObjective
from trivium.policy.unified_layout import UnifiedLayout

AT_ONCE = 32
"""Prompts continued in one go."""


class WorldModel:
    """A trained unified model with the transform and the layout it was trained with.

    `foresee` answers with pictures of what follows an observation and its actions, `act` with the actions that follow
    an observation and its instruction. Both write ids one by one, constrained to those that can stand there, so that
    whatever is written is a picture or a chunk.
    """

    def __init__(
        self,
        objective: UnifiedObjective,
        transform: Transform,
        layout: UnifiedLayout,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Hold the parts; at temperature 0 the likeliest id is taken, else `seed` fixes the draws."""
        self.objective, self.transform, self.layout, self.temperature = objective, transform, layout, temperature
        self.device = objective.language.embedding.weight.device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def reset(self, seed: int) -> None:
        """Start the draws again, so that an episode can be repeated."""
        self.generator.manual_seed(seed)

    def act(self, observations: Sequence[Sample]) -> Float[np.ndarray, "m k a"]:
        """Return one chunk of commands an observation, in physical units.

        Raises:
            DataError: an observation holds an action.
        """
        for sample in observations:
            if sample.of(Action):
                todo = "Leave the action out."
                raise DataError(f"observation {sample.id}", "an action", "pictures, text and state", todo)
        tokenizer = self.layout.tokenizer
        assert tokenizer is not None, "a unified layout has an action tokenizer"
        first = self.layout.vocab.extra_start
        begin, end = first + tokenizer.vocab_size, first + tokenizer.vocab_size + 1
        allowed = [*range(first, begin), end]
        rows = [self.layout.prompt(self.transform.forward(sample, None)) for sample in observations]
        # A token is a coefficient at least, in every tokenizer: more than the numbers of a chunk say nothing.
        written = self._write(rows, begin, allowed, tokenizer.horizon * tokenizer.action_dim, end)
        chunks = [tokenizer.decode([token - first for token in ids]) for ids in written]
        pairs = zip(chunks, observations, strict=True)
        return np.stack([self.transform.inverse(chunk, sample) for chunk, sample in pairs])

    def foresee(self, samples: Sequence[Sample]) -> UInt8[Tensor, "m 3 h w"]:
        """Return the picture that follows the observation and the actions of every sample (its first view)."""
        return self.objective.tokenizer.decode(self.foresee_ids(samples))

    def foresee_ids(self, samples: Sequence[Sample]) -> Int[Tensor, "m t"]:
        """Return the ids of those pictures, counted from 0.

        Raises:
            DataError: a sample without an action or a picture: nothing follows from it.
        """
        for sample in samples:
            if not sample.of(Action) or not sample.of(Image):
                todo = "Give an observation and what is done."
                raise DataError(f"sample {sample.id}", "no picture or no action", "both", todo)
        rows = [self.layout.prompt(self.transform.forward(sample, None)) for sample in samples]
        codes = self.objective.codes
        written = self._write(rows, self.objective.begin, codes, self.layout.tokens_per_image, None)
        return torch.tensor(written, device=self.device) - codes.start

    def _write(
        self, rows: Sequence[Row], begin: int, allowed: Sequence[int], length: int, end: int | None
    ) -> list[list[int]]:
        """Put `begin` behind every row and write on."""
        language = self.objective.language
        training = language.training
        language.eval()
        try:
            found: list[list[int]] = []
            for start in range(0, len(rows), AT_ONCE):
                prompts = [[*ids, begin] for ids in self._ids(rows[start : start + AT_ONCE])]
                found += generate(language, prompts, allowed, length, end, self.temperature, self.generator)
            return found
        finally:
            language.train(training)

    def _ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the tokens of rows with the ids of their pictures in them."""
        batch = self.objective.fill(one_a_row(rows).to(self.device))
        assert batch.tokens is not None
        return [ids[: row.length] for ids, row in zip(batch.tokens.tolist(), rows, strict=True)]


def one_a_row(rows: Sequence[Row]) -> Batch:
    """Put every row into a row of its own."""
    return collate([[("", row)] for row in rows], max(row.length for row in rows))
