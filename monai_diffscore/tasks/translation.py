r"""An image of one contrast from the other images and label maps of its case.

Many images of the target are possible for the others. :class:`TranslationInferer` draws samples of
:math:`p(x \mid \text{given})` with a network that takes the others as a condition; an image that a case lacks is NaN.
The mean of the samples estimates the conditional mean, the answer of least expected squared error. Their standard
deviation says where the others leave the answer open. A single sample has the texture of a real image; the mean is
smoother. :class:`SaveTranslation` writes all of them, and one row of numbers for each case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.gallery import save_gallery
from monai_diffscore.inferers import Progress, SamplingInferer, std_over_draws
from monai_diffscore.sampling import sample_adams
from monai_diffscore.tasks.cases import CaseTable, WriteNifti, intensity_range, on_source_grid
from monai_diffscore.tasks.posterior import rms_error, share_within_2_std, std_picture
from monai_diffscore.tiling import any_size


class TranslationInferer(SamplingInferer):
    """Mean, standard deviation and samples of each case, [B, (2 + count) C, *S]: images of one channel have C = 1.

    The network is tiled, so it may be a network of patches: the tiling cuts conditions of the size of the image along
    with it. The values of the inputs have no effect. After Ctrl-C the output has the finished draws alone; the standard
    deviation of one draw is NaN.

    Args:
        window: window of the tiling, the patch size of the training. Two axes take a volume slice by slice.
        count: samples for each case, at least 2.
        overlap, windows_at_once: options of the tiling.
        sampler, sigmas, seed, progress: see :class:`~monai_diffscore.inferers.SamplingInferer`.
    Raises:
        ValueError: for a count below 2.
    """

    def __init__(
        self,
        window: Sequence[int],
        count: int = 8,
        overlap: float = 0.25,
        windows_at_once: int = 4,
        sampler: Callable[..., Tensor] = sample_adams,
        sigmas: Tensor | None = None,
        seed: int = 0,
        progress: Progress = True,
    ) -> None:
        super().__init__(sampler, sigmas, seed, progress)
        if count < 2:
            raise ValueError(f"TranslationInferer needs count >= 2 for a standard deviation, got {count}.")
        self.window, self.count = tuple(window), count
        self.overlap, self.windows_at_once = overlap, windows_at_once

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        images, numbers = self.open_batch(inputs, seed)
        denoiser = any_size(network, self.window, images.ndim - 2, self.overlap, self.windows_at_once)
        samples = self.draws(denoiser, images, numbers, self.count, **condition)
        return torch.cat([samples.mean(1), std_over_draws(samples, 1), samples.flatten(1, 2)], dim=1)


class SaveTranslation:
    """Writes the output of a :class:`TranslationInferer` for each case; a postprocessing of MONAI's evaluators.

    It writes ``<case>_mean``, ``<case>_std`` and ``<case>_sample<n>`` on the grid and in the unit of the target's file.
    For a case without the target, ``<case>`` ends in ``_to_<target>``, the grid is that of the first other image, and
    the unit that of the training cohort. ``<case>.png`` shows target, mean, first sample and standard deviation. The
    table ``cases.csv`` has ``given``, the roles that the case has, and ``misregistration_mm``, the largest of them. For
    a case with the target it has, in units of the normalised data, ``rmse`` of the mean, ``rmse_sample`` of one sample,
    and ``share_within_2_std``, the share of voxels within two standard deviations of the mean.

    Args:
        folder: folder of the files.
        target: role of the wanted image.
        roles: of the other images and label maps, in the order of :class:`~monai_diffscore.data.LoadGivend`.
        low, high: intensities of -1 and 1 of the training cohort, for cases without the target.
        given_key: key of the other images.
        preprocessing: transforms of the cases, whose inverse brings volumes back to the grid of their files. Voxels
            outside of the network's grid get the lowest intensity of the range. None leaves volumes on that grid.
        write: writer of mean and samples. The standard deviation is a map: it is always NIfTI.
        table: table of the cases; None makes one.
    """

    def __init__(
        self,
        folder: str | Path,
        target: str,
        roles: Sequence[str],
        low: float = -1.0,
        high: float = 1.0,
        given_key: str = "given",
        preprocessing: Compose | None = None,
        write: WriteNifti | None = None,
        table: CaseTable | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.target, self.roles, self.given_key = target, tuple(roles), given_key
        self.range = float(low), float(high)
        self.preprocessing = preprocessing
        self.write = write or WriteNifti()
        self.table = table or CaseTable(folder)

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        image, has_target = item["image"], bool(item.get("has_target", True))
        channels = len(image)
        mean, spread, *samples = convert_to_tensor(item["pred"], track_meta=False).float().cpu().split(channels)
        identity = self.table.identify(image)
        if not has_target:
            identity["case"] = f"{identity['case']}_to_{self.target}"
        case = identity["case"]
        low, high = intensity_range(image) if has_target else self.range
        back = partial(on_source_grid, image=image, preprocessing=self.preprocessing)
        volumes = {"mean": mean, **{f"sample{number + 1}": sample for number, sample in enumerate(samples)}}
        for name, volume in volumes.items():
            self.write(back(low + (volume + 1) * (high - low) / 2, outside=low), self.folder, f"{case}_{name}")
        self.write(back(spread * (high - low) / 2), self.folder, f"{case}_std", "map")
        row: dict[str, Any] = {**identity, **self._of_given(item[self.given_key]), "mean_std": float(spread.mean())}
        pictures = {"mean": mean, "one sample": samples[0]}
        if has_target:
            truth = convert_to_tensor(image, track_meta=False).float().cpu()
            row["rmse"] = rms_error(mean, truth)
            row["rmse_sample"] = rms_error(samples[0], truth)
            row["share_within_2_std"] = share_within_2_std(mean, spread, truth)
            pictures = {self.target: truth, **pictures}
        pictures["standard deviation"] = std_picture(spread)
        shown = torch.stack(list(pictures.values()))
        save_gallery(shown, self.folder / f"{case}.png", case, names=list(pictures))
        self.table.add(row)
        return item

    def _of_given(self, given: Any) -> dict[str, Any]:
        """The columns on the other images of a case."""
        present = torch.as_tensor(given.meta["is_given"]).flatten().tolist()
        shifts = torch.as_tensor(given.meta["misregistration_mm"]).flatten()
        shifts = shifts[~shifts.isnan()]
        measured = {"misregistration_mm": float(shifts.max())} if len(shifts) else {}
        return {"given": " ".join(role for role, has in zip(self.roles, present, strict=True) if has), **measured}
