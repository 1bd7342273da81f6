from types import SimpleNamespace

import pytest
import torch

from trivium.core.errors import ConfigError
from trivium.language import trunk
from trivium.language.model import TinyLanguageConfig
from trivium.language.trunk import Masks, find_chunks


def pack():
    """Two rows: documents of 3, 2, 9 and 4 tokens and 6 of padding; one of 24."""
    documents = torch.tensor([[0] * 3 + [1] * 2 + [2] * 9 + [3] * 4 + [-1] * 6, [4] * 24])
    positions = torch.tensor([[*range(3), *range(2), *range(9), *range(4), *range(6)], [*range(24)]])
    return torch.randint(257, (2, 24)), documents, positions


def test_short_documents_share_a_chunk_and_padding_is_in_none(monkeypatch):
    _, documents, _ = pack()
    monkeypatch.setattr(trunk, "CHUNK", 6)
    assert find_chunks(documents) == [[(0, 5), (5, 14), (14, 18)], [(0, 24)]]
    assert find_chunks(torch.full((1, 9), -1)) == [[]]
    assert find_chunks(documents[:, :6]) is None, "short rows are one piece"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_same_answers_and_gradients(monkeypatch, dtype):
    torch.manual_seed(0)
    model = TinyLanguageConfig().build().to(dtype)
    tokens, documents, positions = pack()
    inside = documents >= 0
    found = []
    for chunk in (512, 6):
        monkeypatch.setattr(trunk, "CHUNK", chunk)
        model.zero_grad()
        hidden = model(model.embed(tokens), documents, positions)[inside]
        hidden.float().pow(3).sum().backward()
        gradients = torch.cat([p.grad.flatten().float() for p in model.layers.parameters()])
        found.append((hidden.detach().float(), gradients))
    (whole, slope), (parts, other) = found
    near = 1e-5 if dtype == torch.float32 else 0.05
    assert (whole - parts).abs().max() <= near
    assert (slope - other).abs().max() <= near * slope.abs().max()
    assert other.isfinite().all()


def test_chunks_do_not_leak_by_a_bit(monkeypatch):
    monkeypatch.setattr(trunk, "CHUNK", 6)
    model = TinyLanguageConfig().build().eval()
    tokens, documents, positions = pack()
    other = torch.where(documents == 2, (tokens + 7) % 257, tokens)
    with torch.no_grad():
        before, after = (model(model.embed(t), documents, positions) for t in (tokens, other))
    assert torch.equal(before[documents != 2], after[documents != 2])
    assert not torch.equal(before[documents == 2], after[documents == 2])


def test_windowed_layers_without_a_window_are_refused():
    config = SimpleNamespace(layer_types=["sliding_attention"], sliding_window=None)
    with pytest.raises(ConfigError, match="a SimpleNamespace with sliding_attention layers and no sliding_window"):
        Masks(SimpleNamespace(config=config))
