"""One segmenter: a MONAI U-Net that is trained on pairs of image and label map, and its Dice on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import Dataset
from monai.engines import PrepareBatchDefault
from monai.handlers import LrScheduleHandler
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.metrics import compute_dice
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByLabelClassesd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from monai_diffscore.data import ResumableLoader
from monai_diffscore.engines import ScoreTrainer
from monai_diffscore.handlers import Progress, ResumableCheckpoint

_KEYS = ("image", "label")


def augmentations() -> list[Any]:
    """Affine and intensity augmentation, as segmenters are usually trained: rotations to 15 degrees, sizes and shears
    to 15 and 5 %, gamma, scale, shift, blur and noise."""
    affine: Any = {"rotate_range": 0.26, "scale_range": 0.15, "shear_range": 0.05}
    return [
        RandAffined(_KEYS, prob=0.8, mode=("bilinear", "nearest"), padding_mode="border", **affine),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", factors=0.2, prob=0.5),
        RandShiftIntensityd("image", offsets=0.2, prob=0.5),
        RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), (0.3, 1.0), prob=0.2),
        RandGaussianNoised("image", prob=0.3, std=0.1),
    ]


@dataclass(frozen=True)
class Segmenter:
    """The choices of a segmenter. It runs on the device that Ignite finds.

    Args:
        classes: number of classes with the background.
        in_channels: channels of an image.
        window: voxels of a training patch and of a window of the test; multiples of 8.
        iterations: steps of the optimizer.
        batch_size: patches of a step.
        channels: of the U-Net's levels.
        learning_rate: at the start; it falls to 0 by a power of 0.9.
    """

    classes: int
    in_channels: int = 1
    window: tuple[int, int, int] = (64, 64, 64)
    iterations: int = 1000
    batch_size: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 128)
    learning_rate: float = 1e-3

    def network(self, seed: int) -> nn.Module:
        """The untrained U-Net, with residual units and instance normalisation."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return UNet(
                spatial_dims=3,
                in_channels=self.in_channels,
                out_channels=self.classes,
                channels=self.channels,
                strides=(2,) * (len(self.channels) - 1),
                num_res_units=2,
            )

    def train(
        self, pairs: Sequence[Sequence[Mapping[str, Any]]], augmented: bool, seed: int, folder: str | Path
    ) -> nn.Module:
        """The trained network. It sees as many patches of each set of ``pairs``, however large the sets are.

        A training that was stopped continues at its last checkpoint.

        Args:
            pairs: sets of pairs of :func:`~monai_diffscore.segmentation.label_pairs.load_pairs`.
            augmented: whether to use :func:`augmentations`.
            seed: of the first weights, the order and the patches.
            folder: of the checkpoints.
        """
        network = self.network(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        schedule: Any = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.iterations, power=0.9)
        objects = {"network": network, "optimizer": optimizer, "schedule": schedule}
        trainer = ScoreTrainer(
            device=idist.device(),
            max_epochs=1,
            train_data_loader=ResumableLoader(self._patches(pairs, augmented), self.batch_size, seed),
            network=network.to(idist.device()),
            optimizer=optimizer,
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            inferer=SimpleInferer(),
            prepare_batch=PrepareBatchDefault(),
            seed=seed,
            train_handlers=[LrScheduleHandler(schedule, print_lr=False, epoch_level=False), Progress()],
        )
        ResumableCheckpoint(folder, objects, save_every=max(1, self.iterations // 4), keep=1).attach(trainer)
        trainer.run()
        return network

    def _patches(self, pairs: Sequence[Sequence[Mapping[str, Any]]], augmented: bool) -> Subset:
        """The patches of a whole training as one epoch; the sets of ``pairs`` take turns."""
        crop: Any = RandCropByLabelClassesd(
            _KEYS, "label", self.window, num_classes=self.classes, num_samples=1, warn=False
        )
        steps = [SpatialPadd(_KEYS, self.window, mode="edge"), crop, *(augmentations() if augmented else [])]
        starts = [sum(map(len, pairs[:number])) for number in range(len(pairs))]
        order = []
        for number in range(self.iterations * self.batch_size):
            turn, which = divmod(number, len(pairs))
            order.append(starts[which] + turn % len(pairs[which]))
        return Subset(Dataset([pair for part in pairs for pair in part], Compose(steps)), order)

    @torch.no_grad()
    def dice(self, network: nn.Module, pairs: Sequence[Mapping[str, Any]], desc: str = "testing") -> Tensor:
        """Dice [pairs, classes - 1] of the predicted classes; NaN where the label map lacks the class."""
        infer = SlidingWindowInferer(self.window, sw_batch_size=2, overlap=0.25, mode="gaussian")
        network = network.to(idist.device()).eval()
        rows = []
        for pair in tqdm(pairs, desc=desc, dynamic_ncols=True):
            image, label = (convert_to_tensor(pair[key], track_meta=False)[None].to(idist.device()) for key in _KEYS)
            predicted = infer(image, network).argmax(1, keepdim=True)  # type: ignore[union-attr]
            rows.append(compute_dice(predicted, label, include_background=False, num_classes=self.classes)[0].cpu())
        return torch.stack(rows)
