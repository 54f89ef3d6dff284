r"""A data loader whose order and randomness are functions of (seed, epoch, index), so that a training resumes exactly.

A checkpoint needs no state of the loader, and neither worker processes nor prefetching change the batches:

- **order**: epoch e visits the items in a permutation of the seed and e; batch b of rank r among R ranks takes entries
  [(b R + r) B, (b R + r + 1) B), so that the ranks' batches together are one batch of R B. A resumed epoch begins at
  its next batch, and loads none of the batches before;
- **randomness of the transforms**: a number from (seed, e, index) seeds MONAI's random transforms and the generators of
  torch, NumPy and Python before an item is made;
- **whole batches**: a data set that makes a batch at once (:class:`Batched`) gets the indices and a seed of (seed, e).

Seeds are :math:`h(h(\text{seed} + c) + n) \bmod 2^{32}` with a bijection h, so that no two items of a training share
one.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from monai.data import DataLoader
from monai.transforms import Randomizable
from torch import distributed
from torch.utils.data import Dataset, Sampler

from monai_diffscore.data.shared_items import pack, unpack

_WORD = 0xFFFFFFFF
_BLOCKS_MIXED = 4


def scattered_seed(seed: int, stream: int, number: int) -> int:
    """Seed [0, 2^32) of one ``number`` of a stream: distinct for distinct numbers below 2^32, without a pattern."""
    return _mix(_mix(seed * 0x9E3779B1 + stream) + number)


def _mix(number: int) -> int:
    """A bijection of the 32-bit integers: the finaliser of MurmurHash3 (A. Appleby)."""
    number &= _WORD
    number = ((number ^ number >> 16) * 0x85EBCA6B) & _WORD
    number = ((number ^ number >> 13) * 0xC2B2AE35) & _WORD
    return number ^ number >> 16


def scattered_uniforms(seed: int, indices: np.ndarray, width: int) -> np.ndarray:
    """Uniform numbers in (0, 1), [B, width], float64: row b is a function of the seed and ``indices[b]`` alone.

    Args:
        seed: in [0, 2^32).
        indices: [B] of items; (index + 1) times width is below 2^32.
        width: numbers of an item.
    Source: SplitMix64, Steele et al. 2014, OOPSLA, Figure 17, with the number of the draw as its state.
    """
    number: Any = np.asarray(indices, dtype=np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
    state = (np.uint64(seed) << np.uint64(32) | number) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ state >> np.uint64(shift)) * np.uint64(factor)
    uniforms: np.ndarray = ((state ^ state >> np.uint64(31)) >> np.uint64(11)) * 2.0**-53 + 2.0**-54
    return uniforms


@runtime_checkable
class Batched(Protocol):
    """A data set that makes a batch at once."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """The collated batch of items. An item depends on the seed and its index, not on the rest of the batch."""


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of keys (epoch, index) for this rank, in an order that depends on the seed and the epoch.

    Args:
        count: number of items.
        batch_size: items in a batch of one rank; an epoch drops the rest that does not fill a batch on every rank.
        seed: of the order.
        shuffle: whether to permute.
        block_size: None permutes all items; a number permutes blocks of so many neighbours, and the items of four
            blocks at a time, for data that lies on the disk in blocks.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int = 0, shuffle: bool = True, block_size: int | None = None
    ) -> None:
        if batch_size < 1 or (block_size is not None and block_size < 1):
            raise ValueError(f"batch_size and block_size must be at least 1, got {batch_size} and {block_size}.")
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.block_size = block_size
        self.epoch, self.first = 1, 0

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Starts the next iteration in ``epoch`` (from 1), after its first ``batch`` batches."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.count // (self.batch_size * _ranks()[1])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, ranks = _ranks()
        epoch = self.epoch
        if self.shuffle:
            order = self._permuted(torch.Generator().manual_seed(scattered_seed(self.seed, 0, epoch)))
        else:
            order = list(range(self.count))
        for batch in range(self.first, len(self)):
            start = (batch * ranks + rank) * self.batch_size
            yield [(epoch, index) for index in order[start : start + self.batch_size]]

    def _permuted(self, generator: torch.Generator) -> list[int]:
        if self.block_size is None:
            return torch.randperm(self.count, generator=generator).tolist()
        blocks = torch.arange(self.count).split(self.block_size)
        places = torch.randperm(len(blocks), generator=generator).split(_BLOCKS_MIXED)
        order = []
        for group in places:
            items = torch.cat([blocks[place] for place in group.tolist()])
            order += items[torch.randperm(len(items), generator=generator)].tolist()
        return order


def _ranks() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class SeededItems(Dataset):
    """The items of ``dataset`` by keys (epoch, index), each with its own seed.

    Args:
        dataset: with a length and integer indices: MONAI's ``Dataset``, ``CacheDataset``, ``PersistentDataset``, ...
        seed: of the randomness.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed
        self.transforms = _transforms(dataset)
        self._packed: tuple[bytes, torch.Tensor] | None = None

    def __getstate__(self) -> tuple[bytes, torch.Tensor]:
        """For a worker that does not fork: all workers share the memory of the first."""
        if self._packed is None:
            self._packed = pack({"dataset": self.dataset, "seed": self.seed})
        return self._packed

    def __setstate__(self, packed: tuple[bytes, torch.Tensor]) -> None:
        self.__init__(**unpack(*packed))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if self.transforms:
            seed = scattered_seed(self.seed, 1, epoch * len(self.dataset) + index)
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # transforms of other packages draw from the global generators
            random.seed(seed)
            for transform in self.transforms:
                if isinstance(transform, Randomizable):
                    transform.set_random_state(seed=seed)
        return self.dataset[index]

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        """Items of one epoch: a list of them, or the batch of a data set that makes it at once."""
        if not isinstance(self.dataset, Batched):
            return [self[key] for key in keys]
        epoch, _ = keys[0]
        return self.dataset.batch([index for _, index in keys], scattered_seed(self.seed, 2, epoch))


def _as_it_is(batch: Any) -> Any:
    return batch


def _transforms(dataset: Any) -> list[Any]:
    """The transforms of a data set, and of the data sets inside it, that may draw random numbers."""
    transforms = [dataset] if isinstance(dataset, Randomizable) else []
    if getattr(dataset, "transform", None) is not None:
        transforms.append(dataset.transform)
    inner = [
        *getattr(dataset, "datasets", []),
        *([dataset.dataset] if hasattr(dataset, "dataset") else []),
    ]
    return transforms + [transform for data in inner for transform in _transforms(data)]


def _forks(context: str | BaseContext | None) -> bool:
    method = context if isinstance(context, str) else multiprocessing.get_start_method()
    return (context.get_start_method() if isinstance(context, BaseContext) else method) == "fork"


class ResumableLoader(DataLoader):
    """MONAI's ``DataLoader`` over whole batches, whose order and randomness :class:`ScoreTrainer` resumes exactly.

    Under ``torch.distributed`` each rank takes its share of the batches; no other sampler is needed.

    Args:
        dataset: with a length and integer indices, or a :class:`Batched` one.
        batch_size: items in a batch of one rank.
        seed: of order and transforms.
        shuffle: whether to visit the items in another order at each epoch.
        num_workers: worker processes; they change nothing but the speed. Those that do not fork live until the loader
            ends, and keep the data set as it is at the first iteration.
        block_size: see :class:`EpochBatches`.
        keywords: go to ``DataLoader``.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        block_size: int | None = None,
        **keywords: Any,
    ) -> None:
        self.batches = EpochBatches(len(dataset), batch_size, seed, shuffle, block_size)
        # its own generator: the seeds of workers do not advance the generator of the training's noise
        keywords.setdefault("generator", torch.Generator().manual_seed(seed))
        if num_workers > 0 and not _forks(keywords.get("multiprocessing_context")):
            keywords.setdefault("persistent_workers", True)  # a new worker imports torch and receives the data set
        if isinstance(dataset, Batched):
            keywords.setdefault("collate_fn", _as_it_is)
        super().__init__(SeededItems(dataset, seed), num_workers=num_workers, batch_sampler=self.batches, **keywords)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Starts the next iteration in ``epoch`` (from 1), after its first ``batch`` batches."""
        self.batches.start_at(epoch, batch)

    def iterations(self, epochs: int) -> int:
        """The number of batches in so many epochs."""
        return epochs * len(self)
