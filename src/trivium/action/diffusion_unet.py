"""The U-Net of Diffusion Policy: convolutions over the steps of a chunk, conditioned by scale and shift."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trivium.action.expert import ExpertConfig, ReadAttention, embed_state
from trivium.action.model import Context
from trivium.nn.block import Branch
from trivium.nn.mlp import Mlp
from trivium.nn.position import embed_time

KERNEL, GROUPS = 5, 8


class Unet(nn.Module):
    """Predicts the noise in a chunk. Paper: https://arxiv.org/abs/2303.04137, its ConditionalUnet1D.

    Layers are its code's, the first level's skip that nothing reads left out. Where we differ: the condition is the
    state and one question, asked by the state, to context tokens of any number (there the features of one vector an
    observation are strung together), and steps that are not valid enter as zeros.
    """

    def __init__(self, config: ExpertConfig, action_dim: int, state_dim: int, context_width: int) -> None:
        """Build the levels; see `DiffusionUnetConfig`."""
        super().__init__()
        width = config.width
        self.width = width
        self.state = nn.Linear(state_dim, width)
        self.no_state = nn.Parameter(torch.zeros(width))
        self.time = Mlp(width, 4 * width)
        self.context = nn.Sequential(nn.LayerNorm(context_width), nn.Linear(context_width, width))
        self.cross = ReadAttention(width, config.heads, silent=True)
        self.sight = Branch(Mlp(width, 4 * width), width, None)
        sizes = [action_dim, *(width * 2**level for level in range(config.depth))]
        levels = list(pairwise(sizes))
        self.down = nn.ModuleList([_pair(size, out, 2 * width) for size, out in levels])
        self.shrink = nn.ModuleList([nn.Conv1d(size, size, 3, 2, 1) for size in sizes[1:-1]])
        self.middle = _pair(sizes[-1], sizes[-1], 2 * width)
        self.up = nn.ModuleList([_pair(2 * out, size, 2 * width) for size, out in reversed(levels[1:])])
        self.grow = nn.ModuleList([nn.ConvTranspose1d(size, size, 4, 2, 1) for size, _ in reversed(levels[1:])])
        self.last = _convolution(width, width)
        self.fall = nn.Conv1d(width, action_dim, 1)
        # An answer of zero at the start, as in every head: the first loss is that of ignorance.
        nn.init.zeros_(self.fall.weight)
        assert self.fall.bias is not None
        nn.init.zeros_(self.fall.bias)

    def look(self, context: Context) -> Float[Tensor, "m d"]:
        """Return state and context of every sample as one vector; where there are no tokens, the state alone."""
        state = embed_state(context, self.state, self.no_state)
        if context.tokens is not None and context.mask is not None:
            tokens = self.context(context.tokens.to(state.dtype))
            state = state + self.cross(state[:, None], *self.cross.read(tokens, context.mask))[:, 0]
        return self.sight(state[:, None], None)[:, 0]

    def forward(
        self,
        sight: Float[Tensor, "m d"],
        noisy: Float[Tensor, "q k a"],
        time: Float[Tensor, " q"],
        seen: Bool[Tensor, "q k"] | None = None,
    ) -> Float[Tensor, "q k a"]:
        """Predict the noise in float32. A sample's draws lie side by side; `seen` is False where a step is hidden."""
        dtype = self.fall.weight.dtype
        mine = sight.repeat_interleave(len(noisy) // len(sight), 0)
        condition = torch.cat([self.time(embed_time(time, self.width).to(dtype)), mine], 1)
        if seen is not None:
            noisy = torch.where(seen[..., None], noisy, 0.0)
        x = noisy.to(dtype).transpose(1, 2)
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = _run(blocks, x, condition)
            kept.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = _run(self.middle, x, condition)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = grow(_run(blocks, torch.cat([x, kept.pop()], 1), condition))
        return self.fall(self.last(x)).transpose(1, 2).float()


class Residual(nn.Module):
    """Two convolutions beside a shortcut; between them every channel is scaled and shifted by the condition (FiLM)."""

    def __init__(self, size: int, out: int, condition: int) -> None:
        """Build the layers from `size` to `out` channels."""
        super().__init__()
        self.first, self.second = _convolution(size, out), _convolution(out, out)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * out))
        self.short = nn.Conv1d(size, out, 1) if size != out else nn.Identity()

    def forward(self, x: Float[Tensor, "q c k"], condition: Float[Tensor, "q e"]) -> Float[Tensor, "q out k"]:
        """Run the block."""
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.short(x)


def _convolution(size: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(size, out, KERNEL, padding=KERNEL // 2), nn.GroupNorm(GROUPS, out), nn.Mish())


def _pair(size: int, out: int, condition: int) -> nn.ModuleList:
    return nn.ModuleList([Residual(size, out, condition), Residual(out, out, condition)])


def _run(blocks: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        x = block(x, condition)
    return x
