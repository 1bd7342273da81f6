import torch

from trivium.nn.block import Block, Branch
from trivium.nn.mlp import Mlp


def test_a_conditioned_branch_starts_as_the_identity_and_learns():
    torch.manual_seed(0)
    branch = Branch(Mlp(8, 16), 8, condition_width=4)
    x, condition = torch.randn(2, 3, 8), torch.randn(2, 4)
    assert torch.equal(branch(x, condition), x)
    branch(x, condition).square().sum().backward()
    assert branch.norm.modulate.weight.grad.abs().max() > 0


def test_a_plain_branch_adds_its_inner_module():
    torch.manual_seed(0)
    inner = Mlp(8, 16)
    branch = Branch(inner, 8, condition_width=None)
    x = torch.randn(2, 3, 8)
    expected = x + inner(torch.nn.functional.layer_norm(x, (8,), eps=1e-6))
    torch.testing.assert_close(branch(x, None), expected)


def test_block_moves_with_its_tokens():
    torch.manual_seed(0)
    block = Block(16, 4)
    x = torch.randn(1, 6, 16)
    order = torch.randperm(6)
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]), atol=1e-5, rtol=0)
