"""Vector quantisation: a codebook that follows its vectors, and several in a row for what the one before left over."""

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.nn.quantizer import Quantised, Quantizer, straight_through

MEMORY = 0.99
"""Of the running counts and sums, a step; the paper's gamma."""
EPS = 1e-5
"""Laplace smoothing of the counts: no code divides by zero."""
COMMITMENT = 0.25
"""The paper's beta, weight of the commitment loss; it says that 0.1 to 2 make no difference."""
DEAD = 0.05
"""A code used less than this share of the average use is dead and starts again at a vector of the batch."""
GRACE = 1.25
"""What a code starts again with, over the use at which it dies: 20 steps to be found by a vector."""
KMEANS_STEPS = 10
KMEANS_VECTORS = 32
"""Vectors a code that the first codes are found from."""
ROWS = 1 << 16
"""Vectors compared with all codes at once: 64 k x 1,024 distances are 256 MB."""


class VqConfig(Config):
    """A learned codebook, or several in a row (residual VQ). Papers: arxiv.org/abs/1711.00937, 2107.03312."""

    kind: Literal["vq"] = "vq"
    size: int = 512
    """Codes a level. 256-1024; many more than the data has kinds of vectors leaves codes dead."""
    num_levels: int = 1
    """Codebooks in a row, each for what the one before left over: so many ids a vector, 1-8. Every level makes the
    error smaller by about the same factor and the sequence of tokens longer."""

    def build(self, width: int) -> "VectorQuantizer":
        """Build with empty codebooks; the first batch of training fills them by k-means.

        Raises:
            ConfigError: fewer than two codes or no level.
        """
        for name, least in (("size", 2), ("num_levels", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"quantizer.{name}", str(getattr(self, name)), f"{least} or more", f"Change quantizer.{name}."
                )
        return VectorQuantizer(self.size, self.num_levels, width)


class VectorQuantizer(Quantizer):
    """One or more codebooks in a row; codes are moved by running means, not by gradients.

    The gradient passes once, however many levels there are (chaining straight-through levels passes it once a level).
    """

    def __init__(self, size: int, num_levels: int, width: int) -> None:
        """Build empty codebooks."""
        super().__init__()
        self.size, self.num_levels, self.width = size, num_levels, width
        self.levels = nn.ModuleList(Codebook(size, width) for _ in range(num_levels))

    @property
    def books(self) -> list["Codebook"]:
        """The codebooks, coarse first."""
        return [cast(Codebook, book) for book in self.levels]

    @property
    def ready(self) -> bool:
        """Whether every level has met its first batch."""
        return all(bool(book.started) for book in self.books)

    def forward(self, x: Float[Tensor, "*rest d"]) -> Quantised:
        """Round vectors, coarse level first; in training mode the codes follow."""
        shape = x.shape[:-1]
        exact = x.float().reshape(-1, self.width)
        rest, total = exact.detach(), torch.zeros_like(exact)
        commitment = torch.zeros_like(exact[:, 0])
        ids: list[Tensor] = []
        for book in self.books:
            with torch.autocast(x.device.type, enabled=False):  # it would compare in bfloat16
                chosen, found = book(rest)
            total = total + found
            commitment = commitment + (exact - total).square().mean(-1)
            rest = rest - found
            ids.append(chosen)
        vectors = straight_through(x, total.view(x.shape))
        return Quantised(vectors, torch.stack(ids, -1).view(*shape, self.num_levels), commitment.view(shape))

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*rest d"]) -> Int[Tensor, "*rest q"]:
        """Return the ids alone; nothing moves, whatever the mode."""
        rest, ids = x.float().reshape(-1, self.width), []
        with torch.autocast(x.device.type, enabled=False):
            for book in self.books:
                ids.append(book.nearest(rest))
                rest = rest - book.codes[ids[-1]]
        return torch.stack(ids, -1).view(*x.shape[:-1], self.num_levels)

    def lookup(self, ids: Int[Tensor, "*rest q"]) -> Float[Tensor, "*rest d"]:
        """Add the codes of all levels that there are ids for; an id of -1 adds nothing."""
        total = torch.zeros(*ids.shape[:-1], self.width, device=ids.device)
        for book, chosen in zip(self.books, ids.unbind(-1), strict=False):
            total = total + torch.where(chosen[..., None] < 0, 0.0, book.codes[chosen.clamp(min=0)])
        return total

    @torch.no_grad()
    def energy(self, x: Float[Tensor, "*rest d"]) -> list[float]:
        """Return the share of the vectors' energy that is left over after each level; it should fall with every one."""
        rest = x.float().reshape(-1, self.width)
        whole, left = rest.square().mean().clamp(min=1e-20), []
        for book in self.books:
            rest = rest - book.codes[book.nearest(rest)]
            left.append(float(rest.square().mean() / whole))
        return left


class Codebook(nn.Module):
    """Codes that are running means of their vectors, the same on all ranks; everything is a buffer, in float32.

    Where we differ from vector-quantize-pytorch: whether a code is dead is judged against the average use, not
    against a count (its 2 declares every code dead at each step where a batch has fewer vectors than twice the codes);
    and ranks exchange a share of their vectors once for k-means, instead of sums at every iteration.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, width: int) -> None:
        """Build without codes; `start` finds them."""
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, width))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, width))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Float[Tensor, "m d"]) -> tuple[Int[Tensor, " m"], Float[Tensor, "m d"]]:
        """Return the nearest code of each vector, by id and as it was before this batch moved it.

        In training mode every rank must have at least one vector: the ranks wait for one another.
        """
        if self.training:
            assert len(x), "a codebook cannot learn from a batch without vectors"
            if not self.started:
                self.start(x)
        ids = self.nearest(x)
        found = self.codes[ids]
        if self.training:
            self.follow(x, ids)
        return ids, found

    def nearest(self, x: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """Return the id of the nearest code of each vector; of equals the first."""
        return _nearest(x, self.codes)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "m d"]) -> None:
        """Find the first codes by k-means on vectors of all ranks, each giving the same number."""
        size, wanted = len(self.codes), KMEANS_VECTORS * len(self.codes)
        drawn = torch.randperm(len(x), device=x.device)[torch.arange(wanted, device=x.device) % len(x)]
        vectors = _gather(x[drawn])
        codes = vectors[:size].clone()
        for _ in range(KMEANS_STEPS):
            ids = _nearest(vectors, codes)
            counts, sums = _tally(vectors, ids, size)
            # A code that no vector is nearest to moves to one that is badly served, the worst first.
            worst = (vectors - codes[ids]).square().sum(-1).topk(size).indices
            spare = vectors[worst[((counts == 0).cumsum(0) - 1).clamp(min=0)]]
            codes = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], spare)
        counts, _ = _tally(vectors, _nearest(vectors, codes), size)
        # In vectors of one step of all ranks, as `follow` counts them.
        (total,) = _add(torch.full((1,), float(len(x)), device=x.device))
        self.counts.copy_(counts * (total / len(vectors)))
        self.sums.copy_(codes * self.counts[:, None])
        self.codes.copy_(codes)
        self.started.fill_(True)

    @torch.no_grad()
    def follow(self, x: Float[Tensor, "m d"], ids: Int[Tensor, " m"]) -> None:
        """Move the running counts and sums, the codes with them, and let dead codes start again."""
        size = len(self.codes)
        counts, sums = _tally(x, ids, size)
        fresh = x[torch.randint(len(x), (size,), device=x.device)]
        if _ranks() > 1:  # each rank proposes for codes of its own, so that the sum is a vector of one of them
            mine = torch.arange(size, device=x.device) % _ranks() == dist.get_rank()
            fresh = torch.where(mine[:, None], fresh, 0.0)
        counts, sums, fresh = _add(counts, sums, fresh)
        self.counts.lerp_(counts, 1 - MEMORY)
        self.sums.lerp_(sums, 1 - MEMORY)
        everything = self.counts.sum()
        smoothed = (self.counts + EPS) / (everything + size * EPS) * everything
        self.codes.copy_(self.sums / smoothed[:, None])
        least = DEAD * everything / size
        dead = self.counts < least
        self.counts.copy_(torch.where(dead, GRACE * least, self.counts))
        self.sums.copy_(torch.where(dead[:, None], fresh * (GRACE * least), self.sums))
        self.codes.copy_(torch.where(dead[:, None], fresh, self.codes))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codebook":
        """Move like any module but stay in float32: a running mean that gains 1 % a step stands still in bfloat16."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            before = exact[name]
            if moved is not None and before is not None and moved.dtype != before.dtype:
                self._buffers[name] = before.to(moved.device)
        return self


def _nearest(x: Float[Tensor, "m d"], codes: Float[Tensor, "c d"]) -> Int[Tensor, " m"]:
    half = codes.square().sum(-1) / 2
    # The distance less what is the same for all codes of a vector.
    return torch.cat([(half - part @ codes.T).argmin(-1) for part in x.split(ROWS)] or [x.new_zeros(0).long()])


def _tally(x: Float[Tensor, "m d"], ids: Int[Tensor, " m"], size: int) -> tuple[Tensor, Tensor]:
    """Count and add up the vectors of each code, as one product: on a GPU `index_add_` has no fixed order."""
    counts, sums = torch.zeros(size, device=x.device), torch.zeros(size, x.shape[-1], device=x.device)
    for vectors, chosen in zip(x.split(ROWS), ids.split(ROWS), strict=True):
        members = F.one_hot(chosen, size).to(x.dtype)
        counts += members.sum(0)
        sums += members.T @ vectors
    return counts, sums


def _ranks() -> int:
    # Not train.parallel: training stands beside the bricks, not below them.
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _add(*tensors: Tensor) -> list[Tensor]:
    """Add up tensors over all ranks in one go."""
    if _ranks() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _gather(x: Float[Tensor, "m d"]) -> Float[Tensor, "r d"]:
    """Collect equally many vectors of all ranks, the first of each in front."""
    if _ranks() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(_ranks())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)
