"""The model: vision, connect, language and action under fixed names, joined over packed rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from trivium.action.choice import TokenizerConfig
from trivium.action.fast import FastConfig
from trivium.action.model import ActionModel, Context, gather_state, given
from trivium.action.several import OneHead, SeveralConfig
from trivium.connect.connector import Connector
from trivium.connect.gate import Change, Gate, GateConfig, Readers
from trivium.connect.mlp import MlpConnectorConfig
from trivium.connect.perceiver import PerceiverConfig
from trivium.core.batch import Batch, Kind
from trivium.core.config import Config
from trivium.language.model import LanguageModel, PretrainedLanguageConfig, TinyLanguageConfig
from trivium.nn.compiled import compile_each
from trivium.policy.attention import Rule, number_blocks
from trivium.policy.context import HiddenContext, HiddenContextConfig, PatchContextConfig, group
from trivium.policy.visible import Visible, everything
from trivium.vision.encoder import Encoder
from trivium.vision.pretrained import PretrainedVisionConfig
from trivium.vision.resnet import ResnetConfig
from trivium.vision.vit import VitConfig


class ModelConfig(Config):
    """The four parts and what joins them."""

    vision: Annotated[PretrainedVisionConfig | VitConfig | ResnetConfig, Field(discriminator="kind")]
    """The image encoder."""
    connect: Annotated[MlpConnectorConfig | PerceiverConfig | GateConfig, Field(discriminator="kind")]
    """What turns its patches into words' neighbours: a perceptron, latents that ask them, or gates in the trunk."""
    language: Annotated[PretrainedLanguageConfig | TinyLanguageConfig, Field(discriminator="kind")]
    """The trunk that reads pictures, words and state."""
    action: Annotated[OneHead | SeveralConfig, Field(discriminator="kind")]
    """The head that acts: flow matching, regression, ACT's auto-encoder, diffusion (transformer or U-Net), or several
    that learn together."""
    context: Annotated[HiddenContextConfig | PatchContextConfig, Field(discriminator="kind")] = HiddenContextConfig()
    """What the action head may look at."""

    attention: Rule = "causal"
    """Who may look at whom in the trunk. "causal": every token at those before it, as language models learned.
    "prefix": pictures, instruction and state at one another both ways, which pi0 trains; a causal model has to learn
    it. `trivium show` says the rules in full."""
    state: Literal["embedding", "words"] = "embedding"
    """How the trunk reads the state. "embedding": one learned vector. "words": each number as one of 256 steps from
    -1 to 1, in digits (pi0.5): 3 to 5 tokens a dimension, no new weights, and a language model knows digits."""
    tokenizer: TokenizerConfig = FastConfig()
    """How action chunks become tokens; fitted on the robot's training episodes before the first stage."""

    def build(self, action_dim: int, state_dim: int) -> "Model":
        """Build all parts.

        Raises:
            ConfigError: two parts do not fit each other.
            SetupError: pretrained weights are missing.
        """
        return self.join(self.vision.build(), self.language.build(), action_dim, state_dim)

    def join(self, vision: Encoder, language: LanguageModel, action_dim: int, state_dim: int) -> "Model":
        """Build what joins a built encoder and a built language model, and the head.

        Raises:
            ConfigError: two parts do not fit each other.
        """
        connect = self.connect.build(vision.width, vision.grid, language.width, len(language.layers))
        action = self.action.build(action_dim, state_dim, language.width)
        context = self.context.build(vision.width, vision.num_patches, language.width)
        return Model(vision, connect, language, action, context, self.attention, self.state == "words")


@dataclass(frozen=True, eq=False)
class Thought:
    """What the trunk made of a batch."""

    hidden: Float[Tensor, "b t d"]
    patches: Float[Tensor, "n p e"] | None
    """The encoder's output, for heads that want to look closer."""
    visible: Visible


class Model(nn.Module):
    """A vision-language-action model over packed rows.

    Parameter names start with `vision`, `connect`, `language`, `action`, `state` (the projection of the state into
    the row, where it is not put in words) or `context` (the projection of patches for the action head); freeze
    patterns address them so.
    """

    def __init__(
        self,
        vision: Encoder,
        connect: Connector,
        language: LanguageModel,
        action: ActionModel,
        context: HiddenContext,
        attention: Rule = "causal",
        state_in_words: bool = False,
    ) -> None:
        """Join built parts."""
        super().__init__()
        self.vision, self.connect, self.language, self.action = vision, connect, language, action
        self.context = context
        self.attention: Rule = attention
        self.state = None if state_in_words else project_state(action.state_dim, language.width)

    def forward(self, batch: Batch, visible: Visible | None = None) -> Thought:
        """Read a batch of packed rows; `visible` says what may be seen (everything, if not given)."""
        visible = everything(batch) if visible is None else visible
        x, patches, inside = self.embed(batch, visible)
        blocks = number_blocks(batch, visible, self.attention)
        hidden = self.language(x, visible.documents, visible.positions, blocks, inside)
        return Thought(hidden, patches, visible)

    def embed(
        self, batch: Batch, visible: Visible
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "n p e"] | None, Mapping[int, Change]]:
        """Return what the trunk is given: words, pictures and states in their places, and what gates change inside.

        The encoder's patches stand between the two.
        """
        for kind, parts in ((Kind.IMAGE, batch.images), (Kind.STATE, batch.states)):
            empty = parts is None and bool((batch.kinds == kind).any())
            assert not empty, f"{kind.name} placeholders in a batch without any {kind.name.lower()}"
        x = self.language.embed(given(batch.tokens, "tokens"))
        patches, inside = None, {}
        if batch.images is not None:
            # Black where it may not be seen: running statistics of the encoder would remember it.
            patches = self.vision(torch.where(visible.images[:, None, None, None], batch.images, 0))
            x = _put(x, batch, Kind.IMAGE, batch.images_document, self.connect(patches))
            if isinstance(self.connect, Gate):
                inside = self.connect.inside(patches, find_readers(batch, visible))
        if batch.states is not None and self.state is not None:
            states = self.state(batch.states.to(self.state.weight.dtype))
            x = _put(x, batch, Kind.STATE, batch.states_document, states[:, None])
        return x, patches, inside

    def gather_context(
        self, thought: Thought, batch: Batch, documents: Int[Tensor, " m"], insulate: bool = False
    ) -> Context:
        """Collect what the action head may look at for these documents.

        With `insulate` the head's gradient stops here: its own projections learn, the trunk and the encoder do not
        hear of its errors (knowledge insulation, https://arxiv.org/abs/2505.23705; there on keys and values of every
        layer, here on the hidden states, the only thing the head reads).
        """
        hidden, patches = thought.hidden, thought.patches
        if insulate:
            hidden, patches = hidden.detach(), None if patches is None else patches.detach()
        tokens, mask = self.context(batch, thought.visible, documents, hidden, patches)
        state, known = gather_state(batch, documents, self.action.state_dim)
        known = known & thought.visible.state[documents]
        dims = None if batch.dims is None else batch.dims[documents]
        return Context(state=state, state_known=known, tokens=tokens, mask=mask, dims=dims)

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Compile the encoder's blocks and the language model's layers, where nearly all of a step's time goes.

        What puts pictures into rows, reads gates and takes losses stays outside: its shapes follow the numbers of
        pictures and of learned tokens, and would compile anew at every batch.
        """
        compile_each(self.vision.blocks, backend, varying=True)
        self.language.compile_layers(backend)

    def features(self, batch: Batch, cells: int = 4) -> Float[Tensor, "m d"]:
        """Return one vector a document that keeps where things are: what probes and critics read.

        The vision patches of every picture in order, then what the trunk makes of the pictures' tokens, both averaged
        in at most `cells` x `cells` regions and laid side by side; last the mean of the trunk's hidden states over the
        prompt. A mean over the whole picture would forget positions. Tokens without a place (latents) have an order
        instead: each asks the same of every picture, and neighbours in that order are averaged until no more than
        `cells` x `cells` are left. Every document must have as many pictures.
        """
        thought = self(batch)
        documents = torch.arange(len(batch.ids), device=thought.hidden.device)
        index, mask = HiddenContext()(batch, thought.visible, documents, thought.hidden.float(), None)
        parts = [index.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)]
        if thought.patches is not None:
            owners = given(batch.images_document, "images_document")
            count = torch.bincount(owners, minlength=len(documents))
            assert bool((count == count[0]).all()), "features need the same number of pictures in every sample"
            tokens = thought.hidden[given(batch.kinds, "kinds") == Kind.IMAGE].unflatten(0, (len(owners), -1))
            seen = ((thought.patches, self.vision.grid), (tokens, self.connect.token_grid))
            parts = [_regions(maps, grid, cells).reshape(len(documents), -1) for maps, grid in seen] + parts
        return torch.cat(parts, 1)


def find_readers(batch: Batch, visible: Visible) -> Readers:
    """Give every token the last picture before it, or on it, in its own document; a picture that was dropped has none.

    For models whose pictures take one placeholder each.
    """
    holes = given(batch.kinds, "kinds") == Kind.IMAGE
    owners = given(batch.images_document, "images_document")
    numbers = holes.flatten().cumsum(0).view_as(holes) - 1
    last = torch.where(holes & (visible.documents >= 0), numbers, -1).cummax(1).values
    mine = (last >= 0) & (owners[last.clamp(min=0)] == visible.documents)
    last = torch.where(mine, last, -1)
    index, real = group(last.flatten(), torch.arange(len(owners), device=last.device), len(owners))
    return Readers(index, index[real], real.flatten().nonzero().squeeze(1))


def project_state(state_dim: int, width: int) -> nn.Linear:
    """Make the layer that puts a state into the row as loud as a word.

    Language models keep their embeddings around 0.02 to 0.1; torch's default would give 1.
    """
    layer = nn.Linear(state_dim, width)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _regions(maps: Float[Tensor, "n p d"], grid: tuple[int, int] | None, cells: int) -> Float[Tensor, "n e"]:
    """Average the vectors of each picture in at most `cells` x `cells` regions and lay the regions side by side."""
    if grid is None:
        line = maps.float().transpose(1, 2)
        return F.adaptive_avg_pool1d(line, min(cells**2, maps.shape[1])).flatten(1)
    square = maps.float().unflatten(1, grid).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(square, (min(cells, grid[0]), min(cells, grid[1]))).flatten(1)


def _put(
    x: Float[Tensor, "b t d"],
    batch: Batch,
    kind: Kind,
    owners: Int[Tensor, " n"] | None,
    parts: Float[Tensor, "n q d"],
) -> Float[Tensor, "b t d"]:
    """Put vectors into the placeholders of one kind, having checked that each lands in its own document."""
    holes = given(batch.kinds, "kinds") == kind
    expected = given(owners, f"document of every {kind.name.lower()}").repeat_interleave(parts.shape[1])
    found = given(batch.documents, "documents")[holes]
    if len(found) != len(expected) or not bool((found == expected).all()):
        # Not a user's error: the layout and the model were built for different numbers of tokens.
        counts = [torch.bincount(side, minlength=len(batch.ids)) for side in (found, expected)]
        wrong = int((counts[0] != counts[1]).nonzero()[0]) if not torch.equal(*counts) else 0
        raise AssertionError(
            f"sample {batch.ids[wrong]}: {int(counts[0][wrong])} {kind.name} placeholders for "
            f"{int(counts[1][wrong])} vectors"
        )
    return x.masked_scatter(holes[..., None], parts.flatten(0, 1).to(x.dtype))
