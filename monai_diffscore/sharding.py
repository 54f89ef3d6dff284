"""Fully sharded data parallel training: each rank holds a share of weights, gradients, optimizer state and averages.

The parameters of a sharded network are ``DTensor`` objects, split along their first axis over the ranks. torch gathers
the parameters of a block before the block computes, and frees them after it. It averages gradients and scatters them.
A call of a sharded network, its norm and its whole state are therefore collective: all ranks call them equally often,
in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def sharded_copy(module: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy of ``module`` on ``device``, sharded over all ranks, with the weights of rank 0.

    ``module`` does not change. ``fully_shard`` gathers the modules of each list named ``blocks`` one at a time, and all
    other parameters together.

    Args:
        module: the whole network.
        device: of this rank.
    Raises:
        RuntimeError: without a process group, or with torch older than 2.6.
    """
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise RuntimeError(f"Sharding needs torch 2.6 or newer, got {torch.__version__}.") from None
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "Expected an initialized process group, got none. Start the training with torchrun or srun, with one "
            "process for each rank, and with the process_group of the overlay."
        )
    network = copy.deepcopy(module).to(device)
    for tensor in [*network.parameters(), *network.buffers()]:
        distributed.broadcast(tensor.detach(), src=0)
    mesh = distributed.init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))
    for owner in list(network.modules()):
        for block in getattr(owner, "blocks", ()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    return network


def is_sharded(value: Any) -> bool:
    """Whether a tensor, or any parameter of a module, is split over the ranks."""
    if isinstance(value, nn.Module):
        return any(is_sharded(parameter) for parameter in value.parameters())
    return hasattr(value, "full_tensor")  # the import of DTensor would take a second


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together, sharded and whole ones. It is equal on all ranks."""
    groups = [[t for t in tensors if is_sharded(t) is sharded] for sharded in (True, False)]
    norms = [torch.nn.utils.get_total_norm(group) for group in groups if group or not tensors]
    norms = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]  # type: ignore[attr-defined]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
