"""Any causal language model of transformers behind one small interface (the only user of transformers in this wing)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.language.vocab import Vocab, byte_tokenizer
from trivium.nn.attention import additive
from trivium.nn.hub import load_part, refuse_missing, use_our_attention
from trivium.nn.mask import causal_mask


class PretrainedLanguageConfig(Config):
    """A causal LM that learned elsewhere: from a folder or by name, its first layers or all."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    """Local folder or hub name of any transformers causal LM with a fast tokenizer (Llama, Qwen, OLMo, SmolLM2 ...)."""
    num_layers: int
    """How many of its first layers to keep; more than it has is refused. Fewer is faster and knows less."""
    num_extra_tokens: int
    """Ids added for actions and the like; at least what the action tokenizer emits."""

    def build(self) -> "LanguageModel":
        """Load weights (float32), keep the first layers, grow the vocabulary.

        Raises:
            SetupError: the weights or tokenizer files are not there or not complete.
            ConfigError: not a causal LM, no fast tokenizer, or too many layers.
        """
        where = "language.path"
        load = transformers.AutoModelForCausalLM.from_pretrained
        model, report = load_part(load, self.path, where, dtype=torch.float32, output_loading_info=True)
        refuse_missing(report["missing_keys"], self.path, where)
        vocab = self._vocab(model.get_input_embeddings().num_embeddings)
        depth = model.config.num_hidden_layers
        if not 1 <= self.num_layers <= depth:
            raise ConfigError(
                "language.num_layers", str(self.num_layers), f"1..{depth} for {self.path}", "Change num_layers."
            )
        return LanguageModel(model, vocab, self.num_layers)

    def vocab(self) -> Vocab:
        """Return the vocabulary that the model will have, from its config and tokenizer: no weights are read.

        Raises:
            SetupError: the files are not there or not complete.
            ConfigError: no fast tokenizer.
        """
        config = load_part(transformers.AutoConfig.from_pretrained, self.path, "language.path")
        return self._vocab(config.get_text_config().vocab_size)

    def _vocab(self, num_embeddings: int) -> Vocab:
        where = "language.path"
        tokenizer = load_part(transformers.AutoTokenizer.from_pretrained, self.path, where)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                where,
                f"{self.path} with a {type(tokenizer).__name__}",
                "a fast tokenizer that has an end-of-text token",
                "Put a tokenizer.json beside the model.",
            )
        # Embeddings are often padded beyond the tokenizer: ids in that gap are unused, and stay so.
        highest = max(backend.get_vocab(with_added_tokens=True).values())
        return Vocab(backend, tokenizer.eos_token_id, max(highest + 1, num_embeddings), self.num_extra_tokens)


class TinyLanguageConfig(Config):
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
        return Vocab(byte_tokenizer(), end=256, extra_start=257, num_extra=self.num_extra_tokens)


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
        _shorten(trunk, num_layers)
        probe = torch.arange(4).unsqueeze(0)
        with torch.no_grad():
            expected = model.eval()(probe, use_cache=False).logits
        use_our_attention(model)
        self.vocab = vocab
        self.width = embedding.embedding_dim
        self.max_length = _window(trunk.config)
        # Gemma multiplies its embeddings inside the module that we replace.
        self.embedding_scale = float(getattr(embedding, "embed_scale", 1.0))
        self.embedding = nn.Embedding.from_pretrained(grow(embedding.weight, vocab.size), freeze=False)
        self.head = None
        if head.weight is not embedding.weight:
            self.head = nn.Linear(self.width, vocab.size, bias=False)
            self.head.weight = nn.Parameter(grow(head.weight, vocab.size))
        # The trunk's children become ours, under our names, so that "language.layers.0" means the same for every
        # model; the trunk itself is kept out of the module tree, or each weight would have two names. Children
        # without weights (rotary tables) stay out too: `.to(bfloat16)` would ruin their frequencies.
        for name, child in trunk.named_children():
            if isinstance(child, nn.ModuleList):
                self.layers = child
            elif child is not embedding and any(True for _ in child.parameters()):
                self.add_module(name, child)
        trunk.set_input_embeddings(None)
        self._trunk = (trunk,)
        self._verify(probe, expected)
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
    ) -> Float[Tensor, "b t d"]:
        """Run the layers over packed rows: a token sees its own document up to itself, padding sees padding.

        Raises:
            ConfigError: the rows are longer than the model's (sliding) window.
        """
        if embeddings.shape[1] > self.max_length:
            raise ConfigError(
                "mixture.row_length",
                str(embeddings.shape[1]),
                f"at most {self.max_length}, the window of the language model",
                "Shorten the rows or choose another language model.",
            )
        seen = causal_mask(documents, positions).unsqueeze(1)
        # Additive, in the model's own type: every attention kernel of transformers takes it as it is.
        mask = additive(seen, embeddings.dtype)
        (trunk,) = self._trunk
        output = trunk(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
        return output.last_hidden_state

    @torch.no_grad()
    def _verify(self, tokens: Int[Tensor, "b t"], expected: Float[Tensor, "b t v"]) -> None:
        """Refuse a model that does something around its trunk which we leave out (soft caps, scaled logits, biases)."""
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        hidden = self.eval()(self.embed(tokens), torch.zeros_like(tokens), positions)
        found = self.logits(hidden.flatten(0, 1))[:, : expected.shape[-1]].view_as(expected)
        error = (found - expected).abs().max().item()
        if not error <= 1e-3 * max(expected.abs().max().item(), 1.0):
            raise ConfigError(
                "language.path",
                f"a {type(self._trunk[0]).__name__} whose logits we miss by {error:.2g}",
                "a plain causal language model (tied or untied head without bias, cap or scale)",
                "Choose another model, such as a Llama, Qwen, OLMo, Gemma 3 or GPT-2.",
            )

    def logits(self, hidden: Float[Tensor, "x d"]) -> Float[Tensor, "x v"]:
        """Score every word for each given position (tied to the embedding where the model ties them)."""
        return F.linear(hidden, self.embedding.weight if self.head is None else self.head.weight)

    def token_losses(self, hidden: Float[Tensor, "x d"], targets: Int[Tensor, " x"]) -> Float[Tensor, " x"]:
        """Return the cross-entropy of each target, in float32, from the hidden vectors of supervised positions."""
        return F.cross_entropy(self.logits(hidden).float(), targets, reduction="none")


@torch.no_grad()
def grow(rows: Float[Tensor, "v d"], size: int) -> Float[Tensor, "w d"]:
    """Return the rows with new ones below: their mean plus a tenth of their spread.

    The mean keeps the new words as likely as an average old one, so a tied head's loss on text hardly moves; the
    spread makes them tell apart. The old rows are copied bit by bit.
    """
    spread, mean = torch.std_mean(rows.float(), dim=0)
    fresh = mean + 0.1 * spread * torch.randn(size - len(rows), rows.shape[1], device=rows.device)
    return torch.cat([rows, fresh.to(rows.dtype)])


def _shorten(trunk: Any, num_layers: int) -> None:
    """Keep the first layers, in place, whatever the model calls its list."""
    (name,) = (name for name, child in trunk.named_children() if isinstance(child, nn.ModuleList))
    setattr(trunk, name, getattr(trunk, name)[:num_layers])
    trunk.config.num_hidden_layers = num_layers


def _window(config: Any) -> int:
    """Return the longest row for which full causal attention is what the model does."""
    sliding = getattr(config, "sliding_window", None)
    longest = int(config.max_position_embeddings)
    return longest if sliding is None else min(longest, int(sliding))
