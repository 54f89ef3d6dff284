"""A data set for worker processes that do not fork: one block of shared memory, and the rest as bytes.

Such workers receive the data set through a pipe. PyTorch passes a file descriptor for each of its tensors, and a
process may open about a thousand. Here all tensors and arrays lie in one tensor, which takes one descriptor.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes, of the widest vector instructions


def pack(value: Any) -> tuple[bytes, Tensor]:
    """The value as bytes, and the values of its CPU tensors and arrays in one shared tensor, uint8 [bytes].

    Args:
        value: anything that pickles.
    Raises:
        TypeError: if a part of the value cannot be pickled, such as a lambda.
    """
    file = io.BytesIO()
    pickler = _Packer(file)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"Expected a data set that worker processes can receive, got a part that cannot be pickled ({error}). "
            "Give --num_workers 0, or a function of a module in place of a lambda."
        ) from error
    memory = torch.empty(max(1, pickler.size), dtype=torch.uint8).share_memory_()
    for start, tensor in pickler.blocks:
        memory[start : start + tensor.nbytes] = tensor.reshape(-1).view(torch.uint8)
    return file.getvalue(), memory


def unpack(content: bytes, memory: Tensor) -> Any:
    """The value of :func:`pack`. Its tensors and arrays are parts of ``memory``."""
    return _Unpacker(io.BytesIO(content), memory).load()


class _Packer(pickle.Pickler):
    """Notes the tensors, each with its place in the block, and writes the place."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.blocks: list[tuple[int, Tensor]] = []
        self.size = 0

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.device.type == "cpu" and value.layout is torch.strided:
            plain = value.detach().as_subclass(Tensor)
            return (_as_subclass, (_Block(plain), type(value), dict(value.__dict__)))
        return NotImplemented

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "buif" and value.dtype.isnative:
            return "array", *self._place(torch.from_numpy(np.require(value, requirements=["C", "W"])))
        return ("tensor", *self._place(value.tensor)) if isinstance(value, _Block) else None

    def _place(self, tensor: Tensor) -> tuple[int, torch.dtype, tuple[int, ...]]:
        start, tensor = self.size, tensor.contiguous()
        self.blocks.append((start, tensor))
        self.size = -(-(start + tensor.nbytes) // _ALIGNMENT) * _ALIGNMENT
        return start, tensor.dtype, tuple(tensor.shape)


class _Block:
    """A plain tensor that has its place in the block."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, memory: Tensor) -> None:
        super().__init__(file)
        self.memory = memory

    def persistent_load(self, place: Any) -> Any:
        kind, start, dtype, shape = place
        length = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        tensor = self.memory[start : start + length].view(dtype).reshape(shape)
        return tensor.numpy() if kind == "array" else tensor


def _as_subclass(tensor: Tensor, kind: type[Tensor], attributes: dict[str, Any]) -> Tensor:
    value = tensor.as_subclass(kind)
    value.__dict__.update(attributes)
    return value
