"""Acting by words: action tokens one by one instead of a chunk from the head, each with its probability."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from trivium.action.density import check_temperature
from trivium.action.tokenizer import ActionTokenizer
from trivium.connect.gate import Gate
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.errors import ConfigError, DataError
from trivium.core.sample import Sample
from trivium.data.row import Row, collate
from trivium.data.transform import Transform
from trivium.policy.act import VlaPolicy
from trivium.policy.attention import number_blocks
from trivium.policy.sequence import VlaLayout
from trivium.policy.visible import without_dark
from trivium.policy.vla import Model


@dataclass(frozen=True, eq=False)
class Spoken:
    """Chunks as they were written, and how likely each was."""

    actions: Float[Tensor, "m k a"]
    """Normalised."""
    log_prob: Float[Tensor, " m"]
    """Nats, of the whole sequence with its end."""
    tokens: list[list[int]]
    """Ids of the action tokenizer, without the end."""


class SpeakingPolicy(VlaPolicy):
    """The policy of a model that learned action tokens (`action_token_weight`): what it writes is what it does.

    Probabilities are exact, among the ids that may stand there: those of the action tokenizer and the end. Every
    sequence decodes. A chunk that is as long as it has numbers ends by itself. Keys and values are kept, so that a
    token costs one token. `draw`, `log_prob` and `features` stay those of the head.
    """

    def __init__(
        self, model: Model, transform: Transform, layout: VlaLayout, tokenizer: ActionTokenizer, seed: int = 0
    ) -> None:
        """Hold the parts; `layout` is that of observations, `seed` fixes the draws.

        Raises:
            ConfigError: the model's pictures enter through gates inside the trunk, or its vocabulary has no room for
                the action tokens.
        """
        super().__init__(model, transform, layout, seed)
        if isinstance(model.connect, Gate):
            found, expected = "kind 'gate'", "mlp or perceiver: gates are not read token by token"
            raise ConfigError("connect.kind", found, expected, "Let the action head act.")
        VlaLayout(layout.vocab, layout.tokens_per_image, tokenizer)  # refuses a vocabulary without room
        self.tokenizer, self.first = tokenizer, layout.vocab.extra_start
        self.length = tokenizer.horizon * tokenizer.action_dim
        self.begin, self.end = self.first + tokenizer.vocab_size, self.first + tokenizer.vocab_size + 1
        self._ids = torch.tensor([*range(self.first, self.begin), self.end], device=self.device)
        """What may be written: ids of actions, then the end."""

    def act(self, observations: Sequence[Sample], temperature: float | None = None) -> Float[np.ndarray, "m k _"]:
        """Return one chunk of commands an observation, in physical units.

        Args:
            observations: what the robot sees, feels and is told.
            temperature: 0, the same as None, writes the likeliest tokens; 1 draws as was learned.

        Raises:
            DataError: an observation holds an action.
        """
        if not observations:
            return np.zeros((0, self.tokenizer.horizon, self.tokenizer.action_dim), np.float32)
        return self.physical(self.speak(observations, temperature or 0.0).actions, observations)

    @torch.no_grad()
    def speak(self, observations: Sequence[Sample], temperature: float = 1.0) -> Spoken:
        """Write a chunk for each observation.

        At temperature 0 the likeliest tokens are written, and their probability is that at temperature 1.

        Raises:
            ConfigError: a temperature below 0.
            DataError: an observation holds an action.
        """
        spread = check_temperature(temperature)
        with self._evaluating():
            asked = self._collate([self._spoken(row, None) for row in self._rows(observations)])
            written, log_prob = self._write(asked, spread)
        ended = [ids[: ids.index(self.end)] if self.end in ids else ids for ids in written]
        tokens = [[i - self.first for i in ids] for ids in ended]
        chunks = torch.from_numpy(self.tokenizer.decode_all(tokens)).to(self.device)
        return Spoken(chunks, log_prob, tokens)

    def log_prob_of(
        self, observations: Sequence[Sample], tokens: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> Float[Tensor, " m"]:
        """Return the log-probabilities of written chunks under the policy as it is now, with gradient.

        Raises:
            ConfigError: temperature 0, at which nothing is drawn.
            DataError: an observation holds an action, or tokens that `speak` cannot have written.
        """
        self._check_tokens(observations, tokens)
        spread = check_temperature(temperature)
        if not spread:
            found = "0, at which the likeliest tokens are certain"
            raise ConfigError("temperature", found, "above 0", "Give the temperature that the chunks were drawn at.")
        rows = [self._spoken(row, ids) for row, ids in zip(self._rows(observations), tokens, strict=True)]
        batch = self._collate(rows)
        with self._evaluating():
            hidden = self.model(batch, without_dark(batch)).hidden
        assert batch.targets is not None
        assert batch.documents is not None
        asked = batch.targets != IGNORE
        scores = (self._scores(hidden[asked]) / spread).log_softmax(-1)
        found = scores.gather(1, self._places(batch.targets[asked])[:, None]).squeeze(1)
        return torch.zeros(len(rows), device=found.device).index_add(0, batch.documents[asked], found)

    def _write(self, batch: Batch, spread: float) -> tuple[list[list[int]], Float[Tensor, " m"]]:
        """Write on behind the [begin] that ends every row; return the ids, and the log-probabilities up to the end."""
        model, visible = self.model, without_dark(batch)
        x, _, _ = model.embed(batch, visible)
        documents, positions = visible.documents, visible.positions
        assert batch.documents is not None
        sizes = (batch.documents >= 0).sum(1)
        last = torch.arange(len(sizes), device=self.device), sizes - 1
        blocks = number_blocks(batch, visible, model.attention)
        if blocks is not None:
            blocks[last] = positions[last] + 1  # [begin] asks, and stands outside of what is given
        owner, place = documents[last][:, None], positions[last][:, None]
        cache, total = DynamicCache(), torch.zeros(len(sizes), device=self.device)
        open_, written = torch.ones(len(sizes), dtype=torch.bool, device=self.device), []
        hidden = model.language.extend(x, documents, positions, cache, blocks)[last]
        while len(written) < self.length and bool(open_.any()):
            chances = (self._scores(hidden) / (spread or 1.0)).log_softmax(-1)
            if spread:
                chosen = torch.multinomial(chances.exp(), 1, generator=self.generator)
            else:
                chosen = chances.argmax(-1, keepdim=True)
            total = total + torch.where(open_, chances.gather(1, chosen).squeeze(1), 0.0)
            tokens = self._ids[chosen]
            written.append(tokens)
            open_ = open_ & (tokens[:, 0] != self.end)
            place = place + 1
            documents, positions = torch.cat([documents, owner], 1), torch.cat([positions, place], 1)
            blocks = None if blocks is None else torch.cat([blocks, place + 1], 1)
            hidden = model.language.extend(model.language.embed(tokens), documents, positions, cache, blocks)[:, 0]
        return torch.cat(written, 1).tolist(), total

    def _places(self, ids: Int[Tensor, " x"]) -> Int[Tensor, " x"]:
        """Return where ids stand among those."""
        return torch.where(ids == self.end, self.begin, ids) - self.first

    def _scores(self, hidden: Float[Tensor, "x d"]) -> Float[Tensor, "x v"]:
        language = self.model.language
        head = language.embedding if language.head is None else language.head
        return F.linear(hidden, head.weight[self._ids]).float()

    def _check_tokens(self, observations: Sequence[Sample], tokens: Sequence[Sequence[int]]) -> None:
        if len(tokens) != len(observations):
            found, expected = f"{len(tokens)} sequences of tokens", f"{len(observations)}, one for each observation"
            raise DataError("tokens", found, expected, "Give those of `Spoken.tokens`, in its order.")
        for sample, ids in zip(observations, tokens, strict=True):
            bad = [i for i in ids if not 0 <= i < self.tokenizer.vocab_size]
            if bad or len(ids) > self.length:
                found = f"token {bad[0]}" if bad else f"{len(ids)} tokens"
                expected = f"at most {self.length} ids from 0 to {self.tokenizer.vocab_size - 1}"
                todo = "Give those of `Spoken.tokens`: they count from 0, without begin and end."
                raise DataError(f"tokens of observation {sample.id}", found, expected, todo)

    def _collate(self, rows: Sequence[Row]) -> Batch:
        return collate([[("", row)] for row in rows], max(row.length for row in rows)).to(self.device)

    def _spoken(self, row: Row, ids: Sequence[int] | None) -> Row:
        """Return an observation's row with [begin], and what was written behind it."""
        more = [self.begin]
        if ids is not None:
            ended = [self.end] if len(ids) < self.length else []
            more += [*(self.first + i for i in ids), *ended]
        targets = np.full(row.length + len(more), IGNORE, np.int64)
        targets[row.length : -1] = more[1:]
        return replace(
            row,
            length=row.length + len(more),
            counts={**row.counts, "action": len(more)},
            tokens=np.append(row.tokens, more),
            kinds=np.append(row.kinds, [int(Kind.ACTION)] * len(more)),
            targets=targets,
        )
