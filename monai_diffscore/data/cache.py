"""Caches preprocessed data in memory if it fits, else on the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import convert_to_tensor

from monai_diffscore.data.patches import evenly_spaced

logger = logging.getLogger(__name__)
_SURE = 10  # an estimate so many times below the limit needs no further case


def cached_dataset(
    data: Sequence[Any],
    transform: Callable | Sequence[Callable],
    folder: str | Path,
    memory_gb: float = 16.0,
    measured: int = 3,
    copy_cache: bool = True,
) -> Dataset:
    """A data set that runs its deterministic transforms once for each distinct case and caches the results.

    The cache is in memory (``CacheDataset``) if the estimated size of all cases is at most ``memory_gb``, else in files
    (``PersistentDataset``), which later trainings with the same cases and transforms reuse. Worker processes share the
    memory; each rank has its own.

    Args:
        data: cases; equal ones have one entry.
        transform: the deterministic transforms come first.
        folder: of the files.
        memory_gb: largest size in memory, in 10^9 bytes; 0 always uses files.
        measured: largest number of cases, evenly spread, for the estimate of the size; one is enough if it shows that
            all fit ten times.
        copy_cache: copy a case before its random transforms. False is faster, if none of them writes into its input.
    """
    distinct = list({pickle_hashing(case): case for case in data}.values())
    if memory_gb > 0:
        steps = Compose(_deterministic(transform))
        sizes: list[int] = []
        estimated_gb = 0.0
        for case in evenly_spaced(distinct, measured):
            sizes.append(_bytes(steps(case)))
            estimated_gb = sum(sizes) / len(sizes) * len(distinct) / 1e9
            if _SURE * estimated_gb <= memory_gb:
                break
        if estimated_gb <= memory_gb:
            return CacheDataset(data=data, transform=transform, hash_as_key=True, copy_cache=copy_cache)
        logger.info(
            f"{len(distinct)} preprocessed cases take about {estimated_gb:.1f} GB, more than --cache_memory_gb "
            f"{memory_gb:g}: their cache is {folder}"
        )
    return _FileDataset(
        data=data,
        transform=transform,
        cache_dir=folder,
        hash_transform=pickle_hashing,  # other transforms have other files
        track_meta=True,
        weights_only=False,  # we wrote the files; a MetaTensor has geometry beside its values
    )


class _FileDataset(PersistentDataset):
    """Returns new cases with tensors for arrays, like cases from a file; otherwise the two do not collate."""

    def _cachecheck(self, item_transformed: Any) -> Any:
        return convert_to_tensor(
            super()._cachecheck(item_transformed), convert_numeric=False, track_meta=self.track_meta
        )


def _deterministic(transform: Callable | Sequence[Callable]) -> list[Callable]:
    steps = Compose(transform).flatten().transforms
    random = [isinstance(step, RandomizableTrait) or not isinstance(step, Transform) for step in steps]
    return list(steps[: random.index(True)] if True in random else steps)


def _bytes(case: Any) -> int:
    if isinstance(case, torch.Tensor):
        return case.nelement() * case.element_size()
    if isinstance(case, Mapping):
        return sum(map(_bytes, case.values()))
    if isinstance(case, list | tuple):
        return sum(map(_bytes, case))
    return int(getattr(case, "nbytes", 0))
