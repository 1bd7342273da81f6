"""Several processes training as one; with a single process every function here does nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
BUCKET_ELEMENTS = 16_000_000
"""Gradients summed at once: 64 MB in fp32, big enough for bandwidth, small beside the model."""


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; the process of rank 0 alone writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Add up numbers by name over all ranks; a name that some ranks lack counts as 0 there.

    Every rank adds in the order of the ranks, so that all get the same bits and decide alike.
    """
    if world_size() == 1:
        return dict(values)
    everyone: list[dict[str, float]] = [{} for _ in range(world_size())]
    dist.all_gather_object(everyone, dict(values))
    names = dict.fromkeys(name for one in everyone for name in one)
    return {name: sum(one.get(name, 0.0) for one in everyone) for name in names}


def from_all_ranks(values: Sequence[T]) -> list[T]:
    """Return what every rank has to say, in the order of the ranks, to all of them alike."""
    if world_size() == 1:
        return list(values)
    everyone: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(everyone, list(values))
    return [value for one in everyone for value in one]


def any_rank(flag: bool) -> bool:
    """Tell every rank whether the flag is up on one of them: a signal often reaches one process only."""
    return flag if world_size() == 1 else sum_over_ranks({"flag": float(flag)})["flag"] > 0


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over ranks (no mean: the losses are already divided by global counts).

    A weight that one rank did not use (a batch without images) has no gradient there. The ranks first agree on
    which weights were used anywhere, then those without a gradient join with zeros; else the ranks would wait for
    each other for ever. A weight used nowhere keeps no gradient, so that it does not decay.
    """
    if world_size() == 1:
        return
    every = list(weights)
    if not every:
        return
    used = torch.tensor([weight.grad is not None for weight in every], dtype=torch.int32, device=every[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    bucket: list[Tensor] = []
    for weight, is_used in zip(every, used.tolist(), strict=True):
        if not is_used:
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        if bucket and sum(grad.numel() for grad in bucket) + weight.grad.numel() > BUCKET_ELEMENTS:
            _reduce(bucket)
            bucket = []
        bucket.append(weight.grad)
    if bucket:
        _reduce(bucket)


def _reduce(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
