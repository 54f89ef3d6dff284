r"""Volumes restored from measurements.

Many images explain a measurement :math:`y = A x + \sigma_y n`. The posterior weighs them by the prior.
:class:`RestorationInferer` draws samples of the posterior. It returns their mean, the estimate of least expected
squared error, and their standard deviation: small where the measurement determines the image, large where the prior
does. :class:`SavePosterior` writes both, and one row of numbers for each case.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.gallery import save_gallery
from monai_diffscore.guidance import GuidanceMethod, PosteriorGuidance
from monai_diffscore.inferers import Progress, SamplingInferer, std_over_draws
from monai_diffscore.operators import Mask, Operator
from monai_diffscore.sampling import asinh_sigmas, sample_dpmpp_2m_sde
from monai_diffscore.tasks.cases import CaseTable, WriteNifti, intensity_range, on_source_grid
from monai_diffscore.tasks.posterior import rms_error, share_within_2_std, std_picture
from monai_diffscore.tensors import noise_like, random_stream
from monai_diffscore.tiling import any_size

logger = logging.getLogger(__name__)

#: residual of the mean in units of the noise from which a posterior contradicts its measurement
_CONTRADICTION = 3.0


def box_mask(size: Sequence[int], share: float = 0.4) -> Tensor:
    """A mask [*size] of ones with a box of zeros in the middle, ``share`` of each axis long: a region to inpaint."""
    mask = torch.ones(*size)
    mask[tuple(slice(round(s * (1 - share) / 2), round(s * (1 + share) / 2)) for s in size)] = 0
    return mask


def line_angles(views: int, degrees: float = 180.0) -> Tensor:
    """Angles [views] in degrees of a parallel-beam scan, evenly spread over [0, ``degrees``): fewer are sparse views,
    less than 180 degrees a limited angle."""
    return torch.arange(views, dtype=torch.float64) * (degrees / views)


def estimate_noise(x: Tensor) -> float:
    r"""The standard deviation of white noise in x [B, C, *S], from its finest details.

    :math:`\mathrm{median}\,|d| / 0.6745` of the Haar details d along all axes at once, over the voxels that are not
    saturated: edges are few, and the median does not see them. Smooth texture makes it a little too large.

    Source: Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425.
    """
    detail, inside = x, x.abs() < 1
    for axis in [axis for axis in range(2, x.ndim) if x.shape[axis] > 1]:  # one slice has no neighbour
        even = x.shape[axis] // 2 * 2
        pairs = detail.narrow(axis, 0, even).unflatten(axis, (-1, 2))
        detail = (pairs.select(axis + 1, 0) - pairs.select(axis + 1, 1)) / math.sqrt(2)
        pairs = inside.narrow(axis, 0, even).unflatten(axis, (-1, 2))
        inside = pairs.select(axis + 1, 0) & pairs.select(axis + 1, 1)
    if not bool(inside.any()):
        raise ValueError("estimate_noise: expected voxels strictly between -1 and 1, got none. Give --noise_std.")
    return float(detail[inside].abs().median()) / 0.6745


class RestorationInferer(SamplingInferer):
    """Posterior mean, standard deviation and baseline of each input, [B, 3 C, *S].

    The baseline is the operator's pseudo-inverse of the same measurement. The network is tiled, so it may be a network
    of patches. After Ctrl-C mean and standard deviation (NaN for one draw) are those of the finished draws. Without a
    finished draw of each case of the batch it raises ``KeyboardInterrupt``. With batches of one case, only the current
    case is lost.

    Args:
        operator: ``size -> Operator`` makes A for images of a spatial size.
        window: window of the tiling, the patch size of the training. Two axes take a volume slice by slice.
        noise_std: standard deviation of the noise, in units of the normalised data; None estimates it from a measured
            input.
        measure: True takes the inputs as clean images and simulates their measurement (a retrospective study). False
            takes them as the measurement.
        count: posterior samples for each input, at least 2. The standard deviation of few samples is uncertain: two of
            them about the mean of an exact posterior hold 0.83 of the voxels for 4 samples, 0.90 for 8, 0.95 for many.
        method: method of :class:`~monai_diffscore.guidance.PosteriorGuidance`.
        sigma_data: standard deviation of the data; None takes it from the network.
        overlap, windows_at_once: options of the tiling.
        sampler, sigmas, seed, progress: see :class:`~monai_diffscore.inferers.SamplingInferer`. The default is
            :func:`~monai_diffscore.sampling.sample_dpmpp_2m_sde`.
    """

    def __init__(
        self,
        operator: Callable[[Sequence[int]], Operator],
        window: Sequence[int],
        noise_std: float | None = None,
        measure: bool = True,
        count: int = 8,
        method: GuidanceMethod = "diffpir",
        sigma_data: float | None = None,
        overlap: float = 0.25,
        windows_at_once: int = 4,
        sampler: Callable[..., Tensor] = sample_dpmpp_2m_sde,
        sigmas: Tensor | None = None,
        seed: int = 0,
        progress: Progress = True,
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
        images, numbers = self.open_batch(inputs, seed)
        prior = self._prior(network, images.ndim - 2)
        return torch.cat(
            [self._restore(images[i : i + 1], prior, number, condition) for i, number in enumerate(numbers)]
        )

    def _prior(self, network: nn.Module, spatial_dims: int) -> nn.Module:
        """The network as a denoiser of images of any size."""
        return any_size(network, self.window, spatial_dims, self.overlap, self.windows_at_once)

    def _measurement(self, image: Tensor, number: int) -> tuple[Operator, Tensor, float]:
        """A, the measurement y and the standard deviation of its noise."""
        operator = self.operator(image.shape[2:]).to(image.device)
        y = image
        if self.measure and self.noise_std is not None:
            y = operator(image)
            y = y + self.noise_std * noise_like(y, random_stream(self.seed, number, 1))
        return operator, y, estimate_noise(y) if self.noise_std is None else self.noise_std

    def _restore(self, image: Tensor, prior: nn.Module, number: int, condition: dict[str, Tensor]) -> Tensor:
        operator, y, noise_std = self._measurement(image, number)
        if isinstance(operator, Mask) and bool((operator.mask == 1).all()):
            return self._denoise(y, noise_std, prior, number, condition)
        guided = PosteriorGuidance(prior, operator, y, noise_std, self.method, self.sigma_data)
        baseline = operator.pseudo_inverse(y, regularisation=1e-2)
        samples = self.draws(guided, torch.zeros_like(image), [number], self.count, **condition)[0]
        mean = samples.mean(0, keepdim=True)
        self._warn_of_contradiction(guided, operator(mean), noise_std, number)
        return torch.cat([mean, std_over_draws(samples, 0)[None], baseline], dim=1)

    def _warn_of_contradiction(
        self, guided: PosteriorGuidance, measured: Tensor, noise_std: float, number: int
    ) -> None:
        """Says in one line that samples do not explain their measurement."""
        adjoint = guided.operator.adjoint
        trace, _ = guided.operator.traces(measured)
        ratio = float(adjoint(guided.y - measured).norm()) / (noise_std * float(trace.sum().sqrt()))
        if not ratio < _CONTRADICTION:
            logger.warning(
                f"case {number}: the posterior mean contradicts its measurement by {ratio:.1f} times the noise "
                f"({self.method}, {len(self.sigmas) - 1} steps). Use method diffpir, or more steps."
            )

    def _denoise(
        self, y: Tensor, noise_std: float, tiled: nn.Module, number: int, condition: dict[str, Tensor]
    ) -> Tensor:
        """The posterior of an image with white noise, without an approximation: y is a state of the diffusion.

        The mean is D(y, noise_std). The reverse SDE from y draws samples. The standard deviation is about that mean,
        and the baseline is y.
        """
        if noise_std == 0:
            return torch.cat([y, torch.zeros_like(y), y], dim=1)
        mean = tiled(y, y.new_full([len(y)], noise_std), **condition)
        # the bend of the grid follows its first level, which is the noise of the image
        grid = asinh_sigmas(max(2, len(self.sigmas) - 1), noise_std, scale=noise_std / 2)
        options = {"start": y, "sigmas": grid, "sampler": sample_dpmpp_2m_sde}
        samples = self.draws(tiled, y, [number], self.count, **options, **condition)[0]
        return torch.cat([mean, (samples - mean).square().mean(0, keepdim=True).sqrt(), y], dim=1)


class SavePosterior:
    """Writes the output of a :class:`RestorationInferer` for each case; a postprocessing of MONAI's evaluators.

    It writes ``<case>_mean`` and ``<case>_std`` in the intensity units of the input, ``<case>.png`` (input, mean,
    baseline and standard deviation, on the network's grid), and the table ``cases.csv``.

    Args:
        folder: folder of the files.
        reference: True takes the input as the truth of a simulated measurement. The table then has the root mean
            square error of the mean and of the baseline in units of the normalised data, and the share of voxels within
            two standard deviations of the mean (0.95 for a calibrated posterior).
        preprocessing: transforms of the cases, whose inverse brings volumes back to the grid of their files. Voxels
            outside of the network's grid get the lowest intensity of the range. None leaves volumes on that grid.
        write: writer of the mean. The standard deviation is a map: it is always NIfTI.
        table: table of the cases; None makes one.
    """

    def __init__(
        self,
        folder: str | Path,
        reference: bool = True,
        preprocessing: Compose | None = None,
        write: WriteNifti | None = None,
        table: CaseTable | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.reference = reference
        self.preprocessing = preprocessing
        self.write = write or WriteNifti()
        self.table = table or CaseTable(folder)

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        image = item["image"]
        mean, spread, baseline = convert_to_tensor(item["pred"], track_meta=False).float().cpu().chunk(3)
        truth = convert_to_tensor(image, track_meta=False).float().cpu()
        identity = self.table.identify(image)
        case = identity["case"]
        low, high = intensity_range(image)
        estimate = on_source_grid(low + (mean + 1) * (high - low) / 2, image, self.preprocessing, outside=low)
        self.write(estimate, self.folder, f"{case}_mean")
        deviation = on_source_grid(spread * (high - low) / 2, image, self.preprocessing)
        self.write(deviation, self.folder, f"{case}_std", "map")
        row: dict[str, Any] = {**identity, "mean_std": float(spread.mean())}
        if self.reference:
            row["rmse"] = rms_error(mean, truth)
            row["rmse_baseline"] = rms_error(baseline, truth)
            row["share_within_2_std"] = share_within_2_std(mean, spread, truth)
        pictures = torch.stack([truth, mean, baseline, std_picture(spread)])
        names = ["input", "posterior mean", "baseline", "standard deviation"]
        save_gallery(pictures, self.folder / f"{case}.png", case, names=names)
        self.table.add(row)
        return item
