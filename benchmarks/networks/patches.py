"""Patches of the MNI152 head: the data of all networks. Its front is held out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.transforms import Compose, CropForegroundd, Orientationd, Spacingd
from torch import Tensor

from monai_diffscore import samples
from monai_diffscore.data import HeldOutSlabd, LoadVolumed
from monai_diffscore.transforms import PercentileScaled

#: voxels of an edge, by the number of dimensions
EDGE = {2: 64, 3: 32}


def volume(part: str, dims: int) -> Tensor:
    """The training or the held-out part of MNI152 in [-1, 1], at 1 mm in 2-D and 2 mm in 3-D."""
    steps = [
        LoadVolumed("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=[1.0 if dims == 2 else 2.0] * 3),
        CropForegroundd("image", "image", allow_smaller=True),
        PercentileScaled("image", lower=0.5, upper=99.5),
        HeldOutSlabd("image", axis=1, share=0.3),
    ]
    return Compose(steps)({"image": samples.mni152(), "slab": part})["image"].as_tensor()[0]


def patches(source: Tensor, dims: int, count: int, seed: int, edge: int | None = None) -> Tensor:
    """Random patches [count, 1, *S]; axial ones in 2-D; mirrored at random, padded with air where the volume ends."""
    generator = torch.Generator().manual_seed(seed)
    edge = edge or EDGE[dims]
    drawn = []
    for _ in range(count):
        starts = [int(torch.randint(max(1, size - edge + 1), (1,), generator=generator)) for size in source.shape]
        cut = [slice(start, start + edge) for start in starts]
        if dims == 2:
            cut[2] = int(torch.randint(source.shape[2], (1,), generator=generator))
        patch = source[tuple(cut)]
        patch = patch.flip(0) if torch.rand(1, generator=generator) < 0.5 else patch
        drawn.append(F.pad(patch, [n for size in reversed(patch.shape) for n in (0, edge - size)], value=-1.0))
    return torch.stack(drawn)[:, None]
