r"""What a trained prior is asked to do with a volume: restore it from a measurement.

A measurement :math:`y = A x + \sigma_y n` has many images that explain it; the samples of the posterior are those that
the prior finds likely. :class:`RestorationInferer` draws some and returns their mean, the estimate of least expected
squared error, and their standard deviation, which says where the image was measured and where it was made up.
:class:`SavePosterior` writes both, and one row of numbers for each case.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.data.files import whole_file
from monai_diffscore.denoiser import noise_like
from monai_diffscore.engines import SamplingInferer, random_stream
from monai_diffscore.gallery import save_gallery
from monai_diffscore.guidance import PosteriorGuidance
from monai_diffscore.operators import Operator
from monai_diffscore.sampling import sample_adams
from monai_diffscore.tiling import TiledDenoiser


def box_mask(size: Sequence[int], share: float = 0.4) -> Tensor:
    """A mask [*size] of ones with a box of zeros in the middle, ``share`` of each axis long: a region to inpaint."""
    mask = torch.ones(*size)
    mask[tuple(slice(round(s * (1 - share) / 2), round(s * (1 + share) / 2)) for s in size)] = 0
    return mask


def estimate_noise(x: Tensor) -> float:
    r"""The standard deviation of white noise in x [B, C, *S], from its finest details.

    :math:`\mathrm{median}\,|d| / 0.6745` of the Haar details d along all axes at once, over the voxels that are not
    saturated: edges are few, and the median does not see them. Smooth texture makes it a little too large.

    Source: Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425, Section 5.1.
    """
    detail, inside = x, x.abs() < 1
    for axis in range(2, x.ndim):
        even = x.shape[axis] // 2 * 2
        pairs = detail.narrow(axis, 0, even).unflatten(axis, (-1, 2))
        detail = (pairs.select(axis + 1, 0) - pairs.select(axis + 1, 1)) / math.sqrt(2)
        kept = inside.narrow(axis, 0, even).unflatten(axis, (-1, 2))
        inside = kept.select(axis + 1, 0) & kept.select(axis + 1, 1)
    if not bool(inside.any()):
        raise ValueError("estimate_noise: expected voxels strictly between -1 and 1, got none. Give noise_std instead.")
    return float(detail[inside].abs().median()) / 0.6745


class RestorationInferer(SamplingInferer):
    """Posterior mean, standard deviation and baseline of each input, [B, 3 C, *S].

    The baseline is the operator's pseudo-inverse of the same measurement. The network is tiled, and may be of patches.

    Args:
        operator: makes A for images of a spatial size, ``size -> Operator``.
        window: of the tiling; the patch that the network was trained on.
        noise_std: of the measurement, in units of the normalised data; None estimates it (of inputs that are measured).
        measure: the inputs are clean images, and the measurement is simulated here (a retrospective study); else the
            inputs **are** the measurement.
        count: posterior samples for each input, at least 2.
        method: of :class:`~monai_diffscore.guidance.PosteriorGuidance`.
        sigma_data: standard deviation of the data.
        overlap, windows_at_once: of the tiling.
        sampler, sigmas, seed, progress: as for :class:`~monai_diffscore.engines.SamplingInferer`.
    """

    def __init__(
        self,
        operator: Callable[[Sequence[int]], Operator],
        window: Sequence[int],
        noise_std: float | None = None,
        measure: bool = True,
        count: int = 4,
        method: Literal["mmps", "pigdm", "dps"] = "pigdm",
        sigma_data: float = 0.5,
        overlap: float = 0.25,
        windows_at_once: int = 4,
        sampler: Callable[..., Tensor] = sample_adams,
        sigmas: Tensor | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__(sampler, sigmas, seed, progress)
        if count < 2 or (measure and noise_std is None):
            raise ValueError(
                "RestorationInferer needs count >= 2 for a standard deviation, and noise_std for a simulated "
                f"measurement, got {count} and {noise_std}."
            )
        self.operator, self.window, self.noise_std, self.measure = operator, tuple(window), noise_std, measure
        self.count, self.method, self.sigma_data = count, method, sigma_data
        self.overlap, self.windows_at_once = overlap, windows_at_once

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        if self.stopped:
            raise KeyboardInterrupt
        images = convert_to_tensor(inputs, track_meta=False).float()
        numbers = list(range(len(images))) if seed is None else [int(number) for number in seed]
        tiled = TiledDenoiser(network, self.window, self.overlap, batch_size=self.windows_at_once)
        return torch.cat(
            [self._restore(images[i : i + 1], tiled, number, condition) for i, number in enumerate(numbers)]
        )

    def _restore(self, image: Tensor, tiled: nn.Module, number: int, condition: dict[str, Tensor]) -> Tensor:
        operator = self.operator(image.shape[2:]).to(image.device)
        if self.measure and self.noise_std is not None:
            y = operator(image)
            y = y + self.noise_std * noise_like(y, random_stream(self.seed, number, 1))
        else:
            y = image
        noise_std = estimate_noise(y) if self.noise_std is None else self.noise_std
        guided = PosteriorGuidance(
            tiled,
            operator,
            y,
            noise_std,
            self.method,
            self.sigma_data,
        )
        baseline = operator.pseudo_inverse(y, regularisation=1e-2)
        draws: list[Tensor] = []  # one after the other: memory is that of one volume
        for draw in range(self.count):
            if not self.stopped or not draws:
                draws.append(self.sample(guided, torch.zeros_like(image), [number * self.count + draw], **condition))
        samples = torch.cat(draws)
        spread = samples.std(0, keepdim=True) if len(draws) > 1 else torch.full_like(image, math.nan)
        return torch.cat([samples.mean(0, keepdim=True), spread, baseline], dim=1)


class SavePosterior:
    """Writes what a :class:`RestorationInferer` found for each case; a postprocessing of MONAI's evaluators.

    ``<case>_mean.nii.gz`` and ``<case>_std.nii.gz`` in the intensity units of the input and on the grid that the
    network works on (the affine says where it lies), ``<case>.png`` (the input, the mean, the baseline and the standard
    deviation), and the table ``cases.csv``.

    Args:
        folder: where they go.
        reference: the input is the truth (a simulated measurement), and errors against it are reported: root mean
            square error of the mean and of the baseline in units of the normalised data, and the share of voxels within
            two standard deviations of the mean (0.95 for a calibrated posterior).
    """

    def __init__(self, folder: str | Path, reference: bool = True) -> None:
        self.folder = Path(folder)
        self.reference = reference
        self.rows: list[dict[str, Any]] = []

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        image = item["image"]
        mean, spread, baseline = convert_to_tensor(item["pred"], track_meta=False).float().cpu().chunk(3)
        truth = convert_to_tensor(image, track_meta=False).float().cpu()
        name = Path(str(image.meta.get("filename_or_obj", "case"))).name.split(".nii")[0]
        taken = {row["case"] for row in self.rows}
        case = name if name not in taken else f"{name}_{len(self.rows)}"
        low, high = intensity_range(image)
        affine = np.asarray(image.affine)
        for kind, volume in (("mean", low + (mean + 1) * (high - low) / 2), ("std", spread * (high - low) / 2)):
            with whole_file(self.folder / f"{case}_{kind}.nii.gz") as file:
                file.write(_nifti(volume[0].numpy(), affine))
        row: dict[str, Any] = {"case": case, "mean_std": float(spread.mean())}
        if self.reference:
            row["rmse"] = float((mean - truth).square().mean().sqrt())
            row["rmse_baseline"] = float((baseline - truth).square().mean().sqrt())
            row["share_within_2_std"] = float(((mean - truth).abs() <= 2 * spread).float().mean())
        self.rows.append(row)
        pictures = torch.stack([truth, mean, baseline, spread / spread.max().clamp_min(1e-6) * 2 - 1])
        save_gallery(
            pictures, self.folder / f"{case}.png", f"{case}: input, posterior mean, baseline, standard deviation"
        )
        with whole_file(self.folder / "cases.csv") as file:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
            file.write(text.getvalue().encode())
        return item


def intensity_range(image: MetaTensor) -> tuple[float, float]:
    """The raw intensities that -1 and 1 stand for, as the last intensity transform recorded them; (-1, 1) if none
    did."""
    for operation in reversed(getattr(image, "applied_operations", [])):
        if isinstance(operation, Mapping) and "low" in operation.get("extra_info", {}):
            return float(operation["extra_info"]["low"]), float(operation["extra_info"]["high"])
    return -1.0, 1.0


def _nifti(volume: np.ndarray, affine: np.ndarray) -> bytes:
    import gzip

    return gzip.compress(nib.Nifti1Image(volume.astype(np.float32), affine).to_bytes())
