"""Any causal language model of transformers behind one small interface (the only user of transformers in this wing)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.language.chat import read_chat
from trivium.language.trunk import Masks, find_chunks, layer_list, shorten
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.nn.compiled import compile_each
from trivium.nn.hub import find_gguf, first_line, load_part, refuse_missing, use_our_attention

_PATH = "language.path"
_OTHER = "Choose another model, such as a Llama, Qwen, OLMo, Gemma 3 or GPT-2."
_PROBE = 8
"""Tokens of the two documents on which a model that was taken apart is held against itself."""
Change = Callable[[Float[Tensor, "b t d"]], Float[Tensor, "b t d"]]
"""What happens to the hidden states before a layer."""


class GrowthConfig(Config):
    """The ids that a language model gets on top of those of its tokenizer."""

    spans: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Ids for what is neither text nor action, by name: {"image": 1024, "state": 256}. Their rows grow before the
    first stage; one that nothing uses costs memory and lowers no loss."""
    sentinels: tuple[str, ...] = ()
    """Words that mark structure in code, such as "<fim_prefix>", to be one token each: the tokenizer's own where it
    has that word, else a new id. A sentinel of a code source that is in neither is spelled out, some 5 tokens each."""


class PretrainedLanguageConfig(GrowthConfig):
    """A causal LM that learned elsewhere: from a folder or by name, its first layers or all."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    """Local folder or hub name of any transformers causal LM with a fast tokenizer (Llama, Qwen, OLMo, SmolLM2 ...), or
    a GGUF file. Weights must be safetensors or GGUF."""
    num_layers: int
    """How many of its first layers to keep; more than it has is refused. Fewer is faster and knows less."""
    num_extra_tokens: int = Field(ge=0)
    """Ids added for actions and the like; at least what the action tokenizer emits."""
    chat: bool = False
    """Whether conversations and what a robot is told are laid out in the model's own chat template. True for a model
    that learned to answer in it; a base model has none, and a newline before every answer then costs one token."""

    def build(self) -> "LanguageModel":
        """Load weights (float32), keep the first layers, grow the vocabulary.

        Raises:
            SetupError: the weights or tokenizer files are not there or not complete.
            ConfigError: not a causal LM that can be packed, no fast tokenizer, or too many layers.
        """
        self._check_kind()
        options = {} if find_gguf(self.path, _PATH)[1] else {"use_safetensors": True}  # never a pickle
        load = transformers.AutoModelForCausalLM.from_pretrained
        model, report = load_part(load, self.path, _PATH, dtype=torch.float32, output_loading_info=True, **options)
        refuse_missing(report["missing_keys"], self.path, _PATH)
        vocab = self._vocab(model.get_input_embeddings().num_embeddings)
        depth = model.config.num_hidden_layers
        if not 1 <= self.num_layers <= depth:
            raise ConfigError(
                "language.num_layers", str(self.num_layers), f"1..{depth} for {self.path}", "Change num_layers."
            )
        name = type(model).__name__
        try:
            return LanguageModel(model, vocab, self.num_layers)
        except ConfigError:
            raise
        except Exception as error:  # hundreds of architectures; one that takes no mask or no embeddings ends here
            raise ConfigError(
                _PATH,
                f"{self.path}: a {name} that does not run on packed rows ({first_line(error)})",
                "a decoder that takes embeddings, positions and a mask",
                _OTHER,
            ) from error

    def vocab(self) -> Vocab:
        """Return the vocabulary that the model will have, from its config and tokenizer: no weights are read.

        Raises:
            SetupError: the files are not there or not complete.
            ConfigError: not a causal LM, or no fast tokenizer.
        """
        return self._vocab(self._check_kind().vocab_size)

    def _check_kind(self) -> Any:
        config = load_part(transformers.AutoConfig.from_pretrained, self.path, _PATH)
        sees = any(name in config.to_dict() for name in ("vision_config", "audio_config"))
        if sees or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ConfigError(
                _PATH,
                f"{self.path}, which holds a {config.model_type}",
                "a causal language model, text alone",
                _OTHER,
            )
        return config

    def _vocab(self, num_embeddings: int) -> Vocab:
        tokenizer = load_part(transformers.AutoTokenizer.from_pretrained, self.path, _PATH)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                _PATH,
                f"{self.path} with a {type(tokenizer).__name__}",
                "a fast tokenizer that has an end-of-text token",
                "Put a tokenizer.json beside the model.",
            )
        # A control word may lie beyond the embedding (Gemma 3: that of a picture); a word of the text may not.
        text = max(backend.get_vocab(with_added_tokens=False).values())
        if text >= num_embeddings:
            raise ConfigError(
                _PATH,
                f"{self.path} with a tokenizer of {text + 1} words and {num_embeddings} embeddings",
                "a tokenizer that belongs to the model",
                "Put the model's own tokenizer.json beside it.",
            )
        # Embeddings are often padded beyond the tokenizer: ids in that gap are unused, and stay so.
        highest = max(backend.get_vocab(with_added_tokens=True).values())
        start = max(highest + 1, num_embeddings)
        chat = read_chat(tokenizer, "language.chat") if self.chat else None
        end = tokenizer.eos_token_id
        return Vocab(backend, end, start, self.num_extra_tokens, self.spans, self.sentinels, chat)


class TinyLanguageConfig(GrowthConfig):
    """A small Llama with random weights and a byte-level tokenizer: tests and dry runs, no download."""

    kind: Literal["tiny"] = "tiny"
    width: int = 64
    """Length of a hidden vector; a multiple of 2 * `heads`."""
    num_layers: int = 2
    """Number of layers."""
    heads: int = 4
    """Attention heads."""
    num_extra_tokens: int = 0
    """Ids added for actions and the like; at least what the action tokenizer emits."""

    def build(self) -> "LanguageModel":
        """Build with random weights.

        Raises:
            ConfigError: the width does not divide into even heads.
        """
        if self.width % (2 * self.heads):
            raise ConfigError(
                "language.width", str(self.width), f"a multiple of {2 * self.heads} (2 * heads)", "Change width."
            )
        config = transformers.LlamaConfig(
            vocab_size=257,
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.heads,
            tie_word_embeddings=True,
        )
        return LanguageModel(transformers.LlamaForCausalLM(config), self.vocab(), self.num_layers)

    def vocab(self) -> Vocab:
        """Return the vocabulary: bytes, the end, and the ids added."""
        return Vocab(byte_tokenizer(), 256, 257, self.num_extra_tokens, self.spans, self.sentinels)


class LanguageModel(nn.Module):
    """A causal LM over packed rows, with its head apart from its trunk.

    The head is called on the supervised positions only: at 49,152 words it costs as much as ten layers. The trunk is
    the model's own forward pass (so scaled embeddings, learned positions and the like come out right), given our
    block-diagonal mask, and without cache: transformers packs wrongly from position ids alone with a cache.
    """

    def __init__(self, model: Any, vocab: Vocab, num_layers: int) -> None:
        """Take a transformers causal LM apart, keep `num_layers` layers, and grow it to `vocab.size` words."""
        super().__init__()
        trunk, embedding, head = model.base_model, model.get_input_embeddings(), model.get_output_embeddings()
        self._masks = Masks(trunk)
        layers = layer_list(trunk)
        shorten(trunk, num_layers)
        probe = torch.arange(_PROBE).unsqueeze(0)
        with torch.no_grad():
            apart = [model.eval()(part, use_cache=False).logits for part in probe.split(_PROBE // 2, dim=1)]
        use_our_attention(model)
        self.vocab = vocab
        self.width = embedding.embedding_dim
        self.max_length = int(trunk.config.max_position_embeddings)
        # Gemma multiplies its embeddings inside the module that we replace.
        self.embedding_scale = float(getattr(embedding, "embed_scale", 1.0))
        self.embedding = nn.Embedding.from_pretrained(grow(embedding.weight, vocab.size, vocab.num_text), freeze=False)
        self.head = None
        if head.weight is not embedding.weight:
            self.head = nn.Linear(self.width, vocab.size, bias=False)
            self.head.weight = nn.Parameter(grow(head.weight, vocab.size, vocab.num_text))
        # The trunk's children become ours, under our names, so that "language.layers.0" means the same for every
        # model; the trunk itself is kept out of the module tree, or each weight would have two names. Children
        # without weights (rotary tables) stay out too: `.to(bfloat16)` would ruin their frequencies.
        for name, child in trunk.named_children():
            if name == layers:
                self.layers = child
            elif child is not embedding and any(True for _ in child.parameters()):
                self.add_module(name, child)
        trunk.set_input_embeddings(None)
        self._trunk = (trunk,)
        # A family that swallows the chunks, or hands them to nobody, attends to whole rows through the mask.
        self._takes_chunks = "kwargs" in signature(trunk.forward).parameters
        self._verify(probe, torch.cat(apart, dim=1))
        self.train()

    @property
    def vocab_size(self) -> int:
        """Number of words, extra ids included."""
        return self.vocab.size

    def embed(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Look tokens up; placeholders (id 0) are overwritten by the caller."""
        rows = self.embedding(tokens)
        return rows if self.embedding_scale == 1.0 else rows * self.embedding_scale

    def forward(
        self,
        embeddings: Float[Tensor, "b t d"],
        documents: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t"],
        blocks: Int[Tensor, "b t"] | None = None,
        inside: Mapping[int, Change] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Run the layers over packed rows: a token sees its own document up to itself, padding sees padding.

        Args:
            embeddings: of the tokens.
            documents: number of the sample of every token; -1 for padding.
            positions: place of every token in its sample.
            blocks: numbers that rise along a sample; tokens that share one see each other both ways. By place, if None.
            inside: changes the hidden states before the layers of these numbers (gated cross-attention).

        Raises:
            ConfigError: the rows are longer than the model's window.
        """
        if embeddings.shape[1] > self.max_length:
            raise ConfigError(
                "mixture.row_length",
                str(embeddings.shape[1]),
                f"at most {self.max_length}, the window of the language model",
                "Shorten the rows or choose another language model.",
            )
        mask = self._masks(documents, positions, embeddings.dtype, blocks)
        (trunk,) = self._trunk
        chunks = find_chunks(documents) if self._takes_chunks else None
        more = {} if chunks is None else {"chunks": chunks}
        more |= {"attention_mask": mask, "position_ids": positions, "use_cache": False}
        with _changed(self.layers, inside or {}):
            return trunk(inputs_embeds=embeddings, **more).last_hidden_state

    def compile_layers(self, backend: str | Callable) -> None:
        """Compile every layer; attention then spans whole rows, since chunks would be numbers in the graph."""
        self._takes_chunks = False
        compile_each(self.layers, backend)

    def extend(
        self,
        embeddings: Float[Tensor, "b q d"],
        documents: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t"],
        cache: transformers.Cache,
        blocks: Int[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Run the layers over the last q tokens of rows whose earlier keys and values `cache` holds; it grows by them.

        `documents`, `positions` and `blocks` are those of all t tokens. The masks are those of `forward`, row by row,
        so that hidden vectors are the same as without a cache.

        Raises:
            ConfigError: the rows are longer than the model's window.
        """
        if documents.shape[1] > self.max_length:
            found, todo = str(documents.shape[1]), "Ask for less, or choose another language model."
            raise ConfigError("tokens to generate", found, f"rows of at most {self.max_length}", todo)
        new = slice(-embeddings.shape[1], None)
        masks = self._masks(documents, positions, embeddings.dtype, blocks)
        last = {kind: mask[:, :, new] for kind, mask in masks.items()} if isinstance(masks, dict) else masks[:, :, new]
        (trunk,) = self._trunk
        more = {"past_key_values": cache, "use_cache": True}
        output = trunk(inputs_embeds=embeddings, attention_mask=last, position_ids=positions[:, new], **more)
        return output.last_hidden_state

    @torch.no_grad()
    def _verify(self, tokens: Int[Tensor, "b t"], expected: Float[Tensor, "b t v"]) -> None:
        """Refuse a model whose logits we miss, or that leaks: two documents packed here stood alone there.

        What a family does around its trunk and we leave out (soft caps, scales, biases, sinks) shows in the first
        document; recurrent layers and positions that a mask cannot reset show in the second.
        """
        place = torch.arange(tokens.shape[1]).expand_as(tokens)
        half = tokens.shape[1] // 2
        hidden = self.eval()(self.embed(tokens), place // half, place % half)
        found = self.logits(hidden.flatten(0, 1))[:, : expected.shape[-1]].view_as(expected)
        error = (found - expected).abs().max().item()
        if not error <= 1e-4 * max(expected.abs().max().item(), 1.0):
            raise ConfigError(
                _PATH,
                f"a {type(self._trunk[0]).__name__} whose logits we miss by {error:.2g}",
                "a plain causal language model (attention only; tied or untied head without bias, cap or scale)",
                _OTHER,
            )

    def logits(self, hidden: Float[Tensor, "x d"]) -> Float[Tensor, "x v"]:
        """Score every word for each given position (tied to the embedding where the model ties them)."""
        return F.linear(hidden, self.embedding.weight if self.head is None else self.head.weight)

    def token_losses(self, hidden: Float[Tensor, "x d"], targets: Int[Tensor, " x"]) -> Float[Tensor, " x"]:
        """Return the cross-entropy of each target, in float32, from the hidden vectors of supervised positions."""
        return F.cross_entropy(self.logits(hidden).float(), targets, reduction="none")


@contextmanager
def _changed(layers: nn.ModuleList, inside: Mapping[int, Change]) -> Iterator[None]:
    """Change what some layers are given, for one forward pass.

    By hooks that live as long as the pass: they work for whatever a family's own loop does around its layers, and
    what they call stays a module of its owner, with one name.
    """
    handles = [
        layers[number].register_forward_pre_hook(_before(change), with_kwargs=True) for number, change in inside.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(change: Change) -> Callable:
    def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return hook


@torch.no_grad()
def grow(rows: Float[Tensor, "v d"], size: int, num_text: int) -> Float[Tensor, "w d"]:
    """Return the rows with new ones below: the mean of the first `num_text` rows plus a tenth of their spread.

    As an output, the mean scores the mean of all old scores, so by Jensen a new word is at most as likely as an old
    one on average, and the loss on text rises by no more than log(1 + new / old), nearly nothing
    (https://nlp.stanford.edu/~johnhew/vocab-expansion.html). The spread makes new words tell apart; there it is drawn
    from the full covariance, here from its diagonal: a tenth of it is gone after some steps either way, and a
    4096 x 4096 factor need not be computed. The old rows are copied bit by bit.
    """
    spread, mean = torch.std_mean(rows[:num_text].float(), dim=0)
    fresh = mean + 0.1 * spread * torch.randn(size - len(rows), rows.shape[1], device=rows.device)
    return torch.cat([rows, fresh.to(rows.dtype)])
