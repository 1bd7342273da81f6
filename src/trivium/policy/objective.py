"""Learning to read, to speak and to act at once: next token and flow on one trunk."""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trivium.action.model import given, head_losses, num_elements
from trivium.action.tokenizer import ActionTokenizer
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.objective import Loss, Losses, Objective
from trivium.data.row import Row, collate
from trivium.language.model import LanguageModel
from trivium.language.vocab import Vocab
from trivium.policy.context import PatchContext
from trivium.policy.sequence import VlaLayout
from trivium.policy.visible import ModalityDropoutConfig, drop_modalities, without_dark
from trivium.policy.vla import Model, Thought

CHUNK = 1024
"""Positions scored at once: 1024 x 49,152 logits in float32 are 200 MB."""


class VlaConfig(Config):
    """Next-token loss on words and action tokens, flow-matching loss on action chunks.

    The token losses share a denominator, the weighted number of tokens; the flow loss has its own and is added with
    `flow_weight`. A weight of 0 leaves the loss out, its computation too.
    """

    kind: Literal["vla"] = "vla"
    text_weight: float = 1.0
    """Weight of a word of a caption, an answer or a document."""
    action_token_weight: float = 1.0
    """Weight of an action token against a word."""
    token_average: Literal["token", "sample", "square"] = "token"
    """What a learned token of a sample with x of them counts: 1, 1/x (every sample alike) or 1/sqrt(x), InternVL's
    middle way, in which long answers do not drown short ones and short ones do not rule."""
    flow_weight: float = 1.0
    """Weight of the flow loss against all tokens together. 1-10; pi0.5 takes 10."""
    insulate: bool = False
    """Stop the flow head's gradient at the trunk (knowledge insulation): the trunk then learns to act from action
    tokens alone. True without action tokens in the data means a trunk that never hears of actions."""
    z_loss: float = 0.0
    """Weight of the squared log-sum-exp of a token's scores: keeps them from drifting, which bfloat16 cannot bear. 1e-5
    (OLMo 2) to 1e-4 (PaLM) in long runs; above 1e-3 it flattens what the model has to say."""
    dropout: ModalityDropoutConfig = ModalityDropoutConfig()
    """Chances with which a robot sample loses its pictures, one of its cameras, state or instruction in training."""

    def build(self, model: Model) -> "VlaObjective":
        """Build on the parts of `model`.

        Raises:
            ConfigError: a negative weight, all weights 0, a chance outside 0..1, or one that can take nothing.
        """
        weights = {name: getattr(self, name) for name in ("text_weight", "action_token_weight", "flow_weight")}
        for name, weight in (weights | {"z_loss": self.z_loss}).items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"objective.{name}", str(weight), "0 or more", f"Change {name}.")
        if not any(weights.values()):
            raise ConfigError("objective", "all weights 0", "something to learn", "Give one of the weights a value.")
        self.dropout.check("objective.dropout")
        if self.dropout.view and isinstance(model.context, PatchContext) and model.context.num_views == 1:
            raise ConfigError(
                "objective.dropout.view",
                f"{self.dropout.view} with context.num_views=1",
                "several cameras, of which one can fail",
                "Set dropout.view=0, or give the data and context.num_views more views.",
            )
        return VlaObjective(model, self)

    def layout(
        self, vocab: Vocab, tokens_per_image: int, tokenizer: ActionTokenizer, state_in_words: bool = False
    ) -> VlaLayout:
        """Build the layout; action tokens are laid out only where they have a weight.

        Raises:
            ConfigError: the model's vocabulary has no room for the action tokens.
        """
        return VlaLayout(vocab, tokens_per_image, tokenizer if self.action_token_weight else None, state_in_words)


class VlaObjective(Objective):
    """Losses "text", "action_token" (cross entropy in nats), "z" and the action head's own ("flow" for flow matching).

    Action tokens are scored against the extra ids only: nothing else can follow [begin], decoding is constrained to
    them anyway, and at 49,152 words the full softmax would cost more than the trunk. Its entropy at the start is
    therefore ln(number of extra ids).
    """

    def __init__(self, model: Model, config: VlaConfig) -> None:
        """Hang the model's own parts under their fixed names."""
        super().__init__()
        self.vision, self.connect, self.language, self.action = (
            model.vision,
            model.connect,
            model.language,
            model.action,
        )
        self.state, self.context = model.state, model.context
        # Not a submodule: each weight would have two names.
        self._model = (model,)
        self.config = config
        self._share = 1.0

    def begin_step(self, share: float) -> None:
        """Follow the schedule of modality dropout; without a loop that tells, the chances are at their height."""
        self._share = share

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the weighted counts by group; dropout does not change them (no learned position is ever dropped)."""
        counts: dict[str, float] = {}
        tokens, shares = 0.0, self._shares(batch)
        for _, weight, chosen in self._spoken(batch):
            tokens += weight * _size(chosen, shares)
        elements = self._elements(batch)
        if tokens or not elements:
            counts["tokens"] = tokens
        if tokens and self.config.z_loss:
            counts["z"] = tokens
        if elements:
            counts |= dict.fromkeys(self.action.parts(), elements)
        return counts

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses; a batch without anything to learn gives one loss of 0 over 0 elements.

        In training modality dropout takes its part; in evaluation dead cameras are left out, as at work.
        """
        (model,) = self._model
        visible = drop_modalities(batch, self.config.dropout, self._share) if self.training else without_dark(batch)
        thought: Thought = model(batch, visible)
        losses, shares = Losses(), self._shares(batch)
        squares, spoken = [], 0.0
        for name, weight, chosen in self._spoken(batch):
            if count := _size(chosen, shares):
                start = self.language.vocab.extra_start if name == "action_token" else 0
                aims = given(batch.targets, "targets")[chosen]
                part = None if shares is None else shares[chosen].float()
                found = score_tokens(self.language, thought.hidden[chosen], aims, start, part, bool(self.config.z_loss))
                losses[name] = Loss(found[0], count, weight)
                squares.append(weight * found[1])
                spoken += weight * count
        if squares and self.config.z_loss:
            losses["z"] = Loss(torch.stack(squares).sum(), spoken, group="z", scale=self.config.z_loss)
        if self._elements(batch):
            documents = given(batch.actions_document, "actions_document")
            actions, valid = given(batch.actions, "actions"), given(batch.actions_valid, "actions_valid")
            context = model.gather_context(thought, batch, documents, self.config.insulate)
            losses |= head_losses(self.action, actions, valid, context, self.config.flow_weight)
        if not losses:
            losses["text"] = Loss(thought.hidden.float().sum() * 0.0, 0)
        return losses

    def fake_batch(self) -> Batch:
        """Make one row with a robot sample, which answers a word before it acts, and a caption."""
        per_image, vocab = self.connect.num_tokens, self.language.vocab
        picture = np.zeros((self.vision.image_size, self.vision.image_size, 3), np.uint8)
        head = self.action
        acts = [vocab.extra_start + i for i in range(min(4, vocab.num_extra))]
        look = (Kind.IMAGE, [0] * per_image, False)
        robot = _fake(
            look,
            (Kind.TEXT, [1, 2, 3], False),
            (Kind.STATE, [0], False),
            (Kind.TEXT, [4], False),
            (Kind.TEXT, [5, vocab.end], True),
            (Kind.ACTION, acts[:1], False),
            (Kind.ACTION, acts[1:], True),
        )
        caption = _fake(look, (Kind.TEXT, [1], False), (Kind.TEXT, [4, 5, vocab.end], True))
        shared: dict[str, Any] = {"images": (picture,)}
        rows = [
            Row(
                sample_id="fake/robot",
                state=np.zeros(head.state_dim, np.float32),
                actions=np.zeros((head.horizon, head.action_dim), np.float32),
                valid=np.ones(head.horizon, bool),
                **robot,
                **shared,
            ),
            Row(sample_id="fake/caption", **caption, **shared),
        ]
        return collate([[("fake", row) for row in rows]], sum(row.length for row in rows) + 1)

    def _spoken(self, batch: Batch) -> list[tuple[str, float, Bool[Tensor, "b t"]]]:
        """Name the positions whose next token is learned, by the kind of that token."""
        if batch.targets is None:
            return []
        acts, learned = self.language.vocab.span("action"), batch.targets != IGNORE
        act = (batch.targets >= acts.start) & (batch.targets < acts.stop)  # sentinels of code lie above, and are text
        kinds = [
            ("text", self.config.text_weight, learned & ~act),
            ("action_token", self.config.action_token_weight, learned & act),
        ]
        return [kind for kind in kinds if kind[1]]

    def _shares(self, batch: Batch) -> Float[Tensor, "b t"] | None:
        """Return what a learned token counts, by the number of learned tokens of its sample; None where all count 1."""
        if self.config.token_average == "token" or batch.targets is None:
            return None
        documents, learned = given(batch.documents, "documents"), torch.zeros_like(batch.targets, dtype=torch.bool)
        for _, _, chosen in self._spoken(batch):
            learned |= chosen
        numbers = torch.bincount(documents[learned], minlength=max(len(batch.ids), 1)).clamp(min=1).double()
        # Padding belongs to no sample (-1); it takes any number, since nothing is learned there.
        return numbers[documents.clamp(min=0)] ** (-1.0 if self.config.token_average == "sample" else -0.5)

    def _elements(self, batch: Batch) -> float:
        if batch.actions is None or batch.actions_valid is None or not self.config.flow_weight:
            return 0.0
        dims = None if batch.dims is None else batch.dims[given(batch.actions_document, "actions_document")]
        return num_elements(batch.actions_valid, batch.actions.shape[2], dims)


def cross_entropy_sum(
    language: LanguageModel,
    hidden: Float[Tensor, "x d"],
    targets: Int[Tensor, " x"],
    start: int = 0,
    shares: Float[Tensor, " x"] | None = None,
    stop: int | None = None,
) -> Float[Tensor, ""]:
    """Sum the cross entropy alone; see `score_tokens`."""
    return score_tokens(language, hidden, targets, start, shares, squared=False, stop=stop)[0]


def score_tokens(
    language: LanguageModel,
    hidden: Float[Tensor, "x d"],
    targets: Int[Tensor, " x"],
    start: int,
    shares: Float[Tensor, " x"] | None,
    squared: bool,
    stop: int | None = None,
) -> Float[Tensor, "2"]:
    """Sum the cross entropy over words from id `start` on, and the squared log-sum-exp (0 unless `squared`).

    In float32, in chunks that are computed again backwards. `shares` are what the tokens count; 1 each, if None.
    `stop` is the id before which the words end.
    """

    def part(rows: Tensor, aims: Tensor, shares: Tensor | None = None) -> Tensor:
        head = language.embedding if language.head is None else language.head
        every = not start and stop is None
        scores = (language.logits(rows) if every else F.linear(rows, head.weight[start:stop])).float()
        total = scores.logsumexp(1).square() if squared else scores.new_zeros(len(rows))
        if shares is None:
            return torch.stack([F.cross_entropy(scores, aims - start, reduction="sum"), total.sum()])
        return torch.stack([F.cross_entropy(scores, aims - start, reduction="none") @ shares, total @ shares])

    columns = [hidden, targets] if shares is None else [hidden, targets, shares]
    if len(hidden) <= CHUNK:
        return part(*columns)
    pieces = zip(*(column.split(CHUNK) for column in columns), strict=True)
    return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum(0)


def _size(chosen: Bool[Tensor, "b t"], shares: Float[Tensor, "b t"] | None) -> float:
    return int(chosen.sum()) if shares is None else shares[chosen].sum().item()


def _fake(*spans: tuple[Kind, list[int], bool]) -> dict[str, Any]:
    """Make the token fields of a row from (kind, ids, whether a loss is taken on them)."""
    parts = [span for span in spans if span[1]]
    tokens = np.array([token for _, ids, _ in parts for token in ids], np.int64)
    kinds = np.array([int(kind) for kind, ids, _ in parts for _ in ids], np.int64)
    learned = np.array([loss for _, ids, loss in parts for _ in ids], bool)
    targets = np.full(len(tokens), IGNORE, np.int64)
    targets[:-1] = np.where(learned[1:], tokens[1:], IGNORE)
    counts = {kind.name.lower(): int((kinds == kind).sum()) for kind, _, _ in parts}
    return {"tokens": tokens, "kinds": kinds, "targets": targets, "counts": counts, "length": len(tokens)}
