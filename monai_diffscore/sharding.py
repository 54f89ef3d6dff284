"""Fully sharded data parallel training: each rank keeps its share of weights, gradients, optimizer and averages.

A sharded network is made of ``DTensor`` parameters, each cut along its first axis over the ranks. Before a block
computes, its parameters are gathered; after it, let go again; gradients are averaged and scattered. So every call of a
sharded network, and reading its norm or its whole state, is collective: all ranks do it together, equally often.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def sharded_copy(module: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy of ``module`` on ``device``, with rank 0's weights, sharded over all ranks; ``module`` stays whole.

    The modules of each list named ``blocks`` are gathered one at a time, the rest together (``torch``'s
    ``fully_shard``).

    Raises:
        RuntimeError: if there is no process group, or torch is older than 2.6.
    """
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise RuntimeError(f"Sharding needs torch 2.6 or newer, got {torch.__version__}.") from None
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "Expected an initialized process group, got none. Start the training with torchrun or srun, one process a "
            "rank, and take the overlay's initialize list."
        )
    made = copy.deepcopy(module).to(device)
    for tensor in [*made.parameters(), *made.buffers()]:
        distributed.broadcast(tensor.detach(), src=0)
    mesh = distributed.init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))
    for owner in list(made.modules()):
        for block in getattr(owner, "blocks", ()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(made, mesh=mesh, reshard_after_forward=True)
    return made


def is_sharded(value: Any) -> bool:
    """Whether a tensor, or any parameter of a module, is cut over the ranks."""
    if isinstance(value, nn.Module):
        return any(is_sharded(parameter) for parameter in value.parameters())
    return hasattr(value, "full_tensor")  # without the import of DTensor, which takes a second


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, sharded or not; the same on every rank."""
    kinds = [[t for t in tensors if is_sharded(t) is cut] for cut in (True, False)]
    norms = [torch.nn.utils.get_total_norm(kind) for kind in kinds if kind or not tensors]
    norms = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]  # type: ignore[attr-defined]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
