"""What the trunk of a causal language model is made of, and which mask each of its layers expects."""

from itertools import pairwise
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from trivium.core.errors import ConfigError
from trivium.nn.attention import Chunks, additive
from trivium.nn.mask import causal_mask

CHUNK = 512
"""Tokens that are worth an attention of their own: shorter documents share one, as rows of up to so many do."""
FULL, SLIDING = "full_attention", "sliding_attention"


def layer_list(trunk: Any) -> str:
    """Return the name of the trunk's list of layers ("layers", GPT-2's "h").

    Raises:
        ConfigError: it has none, or several.
    """
    lists = [name for name, child in trunk.named_children() if isinstance(child, nn.ModuleList)]
    if len(lists) != 1:
        raise _strange(trunk, f"{len(lists)} lists of layers", "one, right below the trunk")
    return lists[0]


def shorten(trunk: Any, num_layers: int) -> None:
    """Keep the first layers, in place."""
    name = layer_list(trunk)
    setattr(trunk, name, getattr(trunk, name)[:num_layers])
    config = trunk.config
    config.num_hidden_layers = num_layers
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:num_layers]


class Masks:
    """Makes the masks of packed rows that a family of models expects.

    Most want one mask; those whose layers differ (Gemma 3, Qwen with windows, OLMo 3) want one by kind of layer, and
    Mistral's window holds in all layers. A window is a matter of distance inside a document, so rows may be longer.
    """

    def __init__(self, trunk: Any) -> None:
        """Read the kinds of layers from the config.

        Raises:
            ConfigError: a layer that is neither full nor windowed attention; a recurrent one would carry the end of
                one packed document into the next.
        """
        config = trunk.config
        kinds = set(getattr(config, "layer_types", None) or ())
        if strange := sorted(kinds - {FULL, SLIDING}):
            raise _strange(trunk, f"{strange[0]} layers", "attention layers, full or with a sliding window")
        window = getattr(config, "sliding_window", None)
        self.window = None if window is None or (kinds and SLIDING not in kinds) else int(window)
        self.by_layer = SLIDING in kinds
        if self.by_layer and self.window is None:
            raise _strange(trunk, f"{SLIDING} layers and no sliding_window", "a window in config.json")

    def __call__(
        self,
        documents: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t"],
        dtype: Any,
        blocks: Int[Tensor, "b t"] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Return what to add to the scores: a mask of shape b 1 t t, or one by kind of layer."""
        seen = causal_mask(documents, positions if blocks is None else blocks)
        # Additive, in the model's own type: every attention kernel of transformers takes it as it is.
        full = additive(seen.unsqueeze(1), dtype)
        if self.window is None:
            return full
        near = positions.unsqueeze(2) - positions.unsqueeze(1) < self.window
        sliding = additive((seen & near).unsqueeze(1), dtype)
        return {FULL: full, SLIDING: sliding} if self.by_layer else sliding


def find_chunks(documents: Int[Tensor, "b t"]) -> Chunks | None:
    """Return stretches of about `CHUNK` tokens that no document crosses, padding at the end of a row left out.

    None where rows are short, or on a GPU, where reading the numbers back would wait for it.
    """
    if documents.shape[1] <= CHUNK or documents.device.type != "cpu":
        return None
    chunks: Chunks = []
    for row in documents:
        edges = [0, *((row[1:] != row[:-1]).nonzero().flatten() + 1).tolist(), len(row)]
        spans: list[tuple[int, int]] = []
        for begin, end in pairwise(edges):
            if row[begin] < 0 and end == len(row):
                break
            if spans and end - spans[-1][0] <= CHUNK:
                spans[-1] = spans[-1][0], end
            else:
                spans.append((begin, end))
        chunks.append(spans)
    return chunks


def _strange(trunk: Any, found: str, expected: str) -> ConfigError:
    return ConfigError(
        "language.path",
        f"a {type(trunk).__name__} with {found}",
        expected,
        "Choose another model, such as a Llama, Qwen, OLMo, Gemma 3 or GPT-2.",
    )
