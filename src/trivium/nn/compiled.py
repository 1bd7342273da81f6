"""Blocks compiled one by one, so that what differs from batch to batch stays outside."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

from trivium.core.errors import SetupError

GRAPHS = 64
"""Graphs that one class of blocks may have: every stage that freezes other layers adds some, and at torch's own limit
of 8 the rest would run uncompiled."""


def compile_each(blocks: nn.ModuleList, backend: str | Callable, varying: bool = False) -> None:
    """Compile the forward pass of every block, in place; names of parameters stay.

    Blocks of one class share their graphs: thirty layers cost two compilations (the first has an input without
    gradient). Forward alone is compiled, so hooks run outside of the graph, and only where a gradient is wanted: the
    shapes of acting and probing change with every call.

    Args:
        blocks: changed in place.
        backend: of `torch.compile`.
        varying: whether the first axis of the first input differs from batch to batch (pictures), as it does not in
            rows of fixed length. It may then have any size; a size of 1 has a graph of its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    for block in blocks:
        block.forward = _compiled(block.forward, backend, varying)


def _compiled(plain: Callable, backend: str | Callable, varying: bool) -> Callable:
    fast = torch.compile(plain, backend=backend)

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        if varying:
            torch._dynamo.maybe_mark_dynamic(args[0], 0)
        return fast(*args, **kwargs)

    return forward


def check_compiler(device: torch.device) -> None:
    """Compile a line, so that a machine that cannot is told so before the first step.

    Raises:
        SetupError: torch cannot compile here.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of whatever stands between Python and a compiler: it is named
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SetupError(
            "compile",
            f"true, and torch cannot compile for {device.type} ({why})",
            "a C++ compiler (g++) that torch.compile finds",
            "Install one, or set compile=false.",
        ) from error
