"""One stream of ids: pictures, words, states and actions are all next tokens (Emu3.5's way of pre-training)."""

from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from trivium.action.model import given
from trivium.action.tokenizer import ActionTokenizer
from trivium.core.batch import IGNORE, Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.core.objective import Loss, Losses, Objective
from trivium.data.row import Row, collate
from trivium.language.model import LanguageModel
from trivium.language.vocab import Vocab
from trivium.policy.objective import cross_entropy_sum
from trivium.policy.unified_layout import IMAGE, Pictures, UnifiedLayout, check_span
from trivium.policy.vla import Model
from trivium.vision.tokenizer import ImageTokenizer

FILE = ".safetensors"


class UnifiedConfig(Config):
    """Pictures as words of the language model: everything is learned by its next token."""

    kind: Literal["unified"] = "unified"
    tokenizer: str
    """What makes ids of pictures: the name of an earlier image_tokens stage of this run, or the path of a .safetensors
    file that one of another run left. It does not learn here. `language.spans.image` needs its codes and two more."""
    text_weight: float = Field(default=1.0, ge=0)
    """Weight of a word of a caption, an answer or a document, and of the mark by which a document opens a picture."""
    image_weight: float = Field(default=0.5, ge=0)
    """Weight of an id of a picture against a word; Emu3.5 takes 0.5. A picture is many ids: at 1 they rule the rest."""
    action_token_weight: float = Field(default=1.0, ge=0)
    """Weight of an action token against a word. At 0 actions are only read, as what the next picture follows from."""

    def build(self, model: Model, tokenizer: ImageTokenizer) -> "UnifiedObjective":
        """Build on the language model of `model`.

        Raises:
            ConfigError: all weights are 0, or the vocabulary has no room for the codes of pictures.
        """
        if not (self.text_weight or self.image_weight or self.action_token_weight):
            raise ConfigError("objective", "all weights 0", "something to learn", "Give one of the weights a value.")
        return UnifiedObjective(model.language, tokenizer, self)

    def layout(self, vocab: Vocab, pictures: Pictures, tokenizer: ActionTokenizer) -> UnifiedLayout:
        """Build the layout.

        Raises:
            ConfigError: the vocabulary has no room for the codes of pictures or for the action tokens.
        """
        return UnifiedLayout(vocab, pictures, tokenizer)


class UnifiedObjective(Objective):
    """Losses "text", "image", "next_image" and "action_token": cross entropies in nats, over one denominator.

    "next_image" is a picture that comes after the actions of its document, the world model's part; it has the weight
    of "image". Paper: Emu3.5, https://arxiv.org/abs/2510.26583. Where we differ: ids of pictures and of actions are
    scored against their own ids alone, for nothing else can follow their [begin] (decoding holds to it as well, and a
    full softmax at every id would cost more than the trunk); a model that knows nothing scores ln(number of codes).
    """

    def __init__(self, language: LanguageModel, tokenizer: ImageTokenizer, config: UnifiedConfig) -> None:
        """Hang the language model under its fixed name; the tokenizer is looked through, never trained."""
        super().__init__()
        self.language, self.config = language, config
        self.codes, self.begin = check_span(language.vocab, tokenizer.vocab_size)
        # Not a submodule: no pattern of `learn` reaches it, no checkpoint holds it twice, and it stays in float32, so
        # that ids are the same in every precision.
        self._tokenizer = (tokenizer.eval(),)

    @property
    def tokenizer(self) -> ImageTokenizer:
        """What makes ids of pictures."""
        return self._tokenizer[0]

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the weighted number of learned tokens."""
        return {"tokens": sum(weight * int(chosen.sum()) for _, weight, chosen, _ in self.parts(batch))}

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses of one micro-batch.

        Raises:
            DataError: pictures of another size than the image tokenizer takes.
        """
        batch = self.fill(batch)
        documents, positions = given(batch.documents, "documents"), given(batch.positions, "positions")
        hidden = self.language(self.language.embed(given(batch.tokens, "tokens")), documents, positions)
        losses = Losses()
        for name, weight, chosen, ids in self.parts(batch):
            targets = given(batch.targets, "targets")[chosen]
            stop = None if name == "text" else ids.stop
            error = cross_entropy_sum(self.language, hidden[chosen], targets, ids.start, stop=stop)
            losses[name] = Loss(error, len(targets), weight)
        return losses

    def fill(self, batch: Batch) -> Batch:
        """Put the ids of the pictures into the row and its targets; a batch without pictures has them already.

        Raises:
            DataError: pictures of another size than the image tokenizer takes.
        """
        if batch.images is None:
            return batch
        tokens, targets = given(batch.tokens, "tokens"), given(batch.targets, "targets")
        with torch.no_grad():
            ids = self.tokenizer.to(batch.images.device).encode(batch.images) + self.codes.start
        holes = (given(batch.kinds, "kinds") == Kind.IMAGE) & self._code(tokens)
        owners = given(batch.images_document, "images_document").repeat_interleave(ids.shape[1])
        assert torch.equal(given(batch.documents, "documents")[holes], owners), "a layout for another image tokenizer"
        tokens = tokens.masked_scatter(holes, ids)
        # A target is the token behind it in its own document; the layout has left none at a document's end.
        targets = torch.where(self._code(targets), tokens.roll(-1, 1), targets)
        return Batch(**{**vars(batch), "tokens": tokens, "targets": targets, "images": None, "images_document": None})

    def fake_batch(self) -> Batch:
        """Make a robot's row and a caption; the ids of the pictures are in it."""
        vocab, size = self.language.vocab, self.tokenizer.tokens_per_image
        acts = [vocab.extra_start + i for i in range(min(4, vocab.num_extra))]

        def picture(first: int) -> list[tuple[Kind, int, bool]]:
            codes = [(Kind.IMAGE, self.codes.start + (first + i) % len(self.codes), True) for i in range(size)]
            return [(Kind.IMAGE, self.begin, False), *codes, (Kind.IMAGE, self.begin + 1, False)]

        robot = [*picture(0), (Kind.TEXT, 1, False), *((Kind.ACTION, i, n > 0) for n, i in enumerate(acts))]
        caption = [*picture(5), (Kind.TEXT, 2, False), (Kind.TEXT, 3, True), (Kind.TEXT, vocab.end, True)]
        rows = [_row("fake/robot", [*robot, *picture(1)]), _row("fake/caption", caption)]
        return collate([[("fake", row) for row in rows]], sum(row.length for row in rows) + 1)

    def _code(self, ids: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
        return (ids >= self.codes.start) & (ids < self.codes.stop)

    def parts(self, batch: Batch) -> list[tuple[str, float, Bool[Tensor, "b t"], range]]:
        """Return name, weight and places of every loss, and the ids that its targets are scored against."""
        targets, vocab = given(batch.targets, "targets"), self.language.vocab
        acts = vocab.span("action")
        image, act = self._code(targets), (targets >= acts.start) & (targets < acts.stop)
        text, later = (targets != IGNORE) & ~image & ~act, _after_actions(batch)
        parts = [
            ("text", self.config.text_weight, text, range(vocab.size)),
            (IMAGE, self.config.image_weight, image & ~later, self.codes),
            ("next_image", self.config.image_weight, image & later, self.codes),
            ("action_token", self.config.action_token_weight, act, acts),
        ]
        return [part for part in parts if part[1]]


def _after_actions(batch: Batch) -> Bool[Tensor, "b t"]:
    """Mark the tokens that come after the first action of their document."""
    documents, positions = given(batch.documents, "documents"), given(batch.positions, "positions")
    acts = (given(batch.kinds, "kinds") == Kind.ACTION) & (documents >= 0)
    first = torch.full((max(len(batch.ids), 1),), documents.shape[1], dtype=torch.long, device=documents.device)
    first = first.scatter_reduce(0, documents[acts], positions[acts], "amin")
    return (documents >= 0) & (positions > first[documents.clamp(min=0)])


def _row(name: str, parts: list[tuple[Kind, int, bool]]) -> Row:
    """Make a row of (kind, id, whether a loss is taken on it)."""
    kinds, ids, learned = zip(*parts, strict=True)
    targets = [token if loss else IGNORE for token, loss in zip(ids[1:], learned[1:], strict=True)]
    numbers = {kind.name.lower(): kinds.count(kind) for kind in dict.fromkeys(kinds)}
    tokens, kinds, targets = torch.tensor([ids, kinds, [*targets, IGNORE]]).numpy()
    return Row(sample_id=name, length=len(ids), counts=numbers, tokens=tokens, kinds=kinds, targets=targets)
