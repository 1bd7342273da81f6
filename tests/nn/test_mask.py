import torch

from trivium.nn.mask import causal_mask


def test_mask_by_hand():
    documents = torch.tensor([[0, 0, 1, 1, -1, -1]])
    positions = torch.tensor([[0, 1, 0, 1, 0, 0]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(causal_mask(documents, positions)[0], torch.tensor(expected, dtype=torch.bool))


def test_no_row_is_empty():
    torch.manual_seed(0)
    documents = torch.randint(-1, 3, (4, 9))
    assert causal_mask(documents, torch.randint(0, 9, (4, 9))).any(-1).all()
