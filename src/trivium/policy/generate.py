"""Writing token by token: ids of a picture, of actions, or words, each held to its own ids."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from trivium.language.model import LanguageModel


@torch.no_grad()
def generate(
    language: LanguageModel,
    prompts: Sequence[Sequence[int]],
    allowed: Sequence[int],
    length: int,
    end: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue each prompt by ids from `allowed` alone, and return what was added.

    Keys and values of what is written are kept, so that a token costs one token; prompts of other lengths are padded
    on the left, where nothing sees the padding. Set the model to eval mode before.

    Args:
        language: what scores the next token.
        prompts: one or more, none of them empty.
        allowed: the ids that may be written: all others have no chance, however likely.
        length: how many ids a prompt gets, at most where there is an `end`.
        end: the id that ends a text, one of `allowed`; it is not returned. None writes exactly `length` ids.
        temperature: 0 takes the likeliest id; 1 draws as the model says.
        generator: of the draws, on the model's device.
    """
    assert all(map(len, prompts)), "a prompt without a token says nothing of the next"
    device, size = language.embedding.weight.device, max(map(len, prompts))
    tokens = torch.tensor([[0] * (size - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    starts = torch.tensor([size - len(prompt) for prompt in prompts], device=device)[:, None]
    words = torch.tensor(allowed, device=device)
    cache, written = DynamicCache(), torch.empty(len(prompts), 0, dtype=torch.long, device=device)
    open_ = torch.ones(len(prompts), dtype=torch.bool, device=device)
    while written.shape[1] < length and bool(open_.any()):
        place = torch.arange(size + written.shape[1], device=device).expand(len(prompts), -1)
        documents = torch.where(place >= starts, 0, -1)
        hidden = language.extend(language.embed(tokens), documents, (place - starts).clamp(min=0), cache)
        tokens = _choose(language, hidden[:, -1], words, temperature, generator)
        written = torch.cat([written, tokens], 1)
        open_ = open_ & (tokens[:, 0] != (-1 if end is None else end))
    found = written.tolist()
    return [ids[: ids.index(end)] if end in ids else ids for ids in found]


def _choose(
    language: LanguageModel,
    hidden: Float[Tensor, "b d"],
    words: Int[Tensor, " v"],
    temperature: float,
    generator: torch.Generator | None,
) -> Int[Tensor, "b 1"]:
    head = language.embedding if language.head is None else language.head
    scores = F.linear(hidden, head.weight[words]).float()
    if temperature == 0:
        return words[scores.argmax(-1, keepdim=True)]
    return words[torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)]
