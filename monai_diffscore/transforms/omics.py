r"""Maps expression to the input of a score model, and back.

=============================  ===============================================  =====================================
transform                      y                                                inverse
=============================  ===============================================  =====================================
:class:`LogNormalize`          :math:`\log(1 + s\,x / l)`                        :math:`x = (e^y - 1)\,l / s`, rounded
:class:`StandardizeGenes`      :math:`(x - m_g) / s_g`                           :math:`x = m_g + s_g\,y`
=============================  ===============================================  =====================================

l is the total of the **whole** cell; the inverse needs it to restore counts. All transforms take one row [G] or a batch
[B, G]; a ``MetaTensor`` records the arguments of the inverse.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends, convert_to_tensor
from scipy import sparse
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.counts import refuse_other_than_counts
from monai_diffscore.transforms.dictionary import InvertibleDictionary, RecordingDictionary, recording
from monai_diffscore.transforms.intensity import source_of


class LogNormalize(InvertibleTransform):
    r"""Maps counts x [..., G] to :math:`\log(1 + s\,x / l)`.

    Args:
        target_sum: s, the total of every cell after scaling.
        counts: x is integers from 0, and the inverse rounds to integers; false takes any numbers from 0 (TPM,
            intensities).
    Raises:
        ValueError: unless target_sum > 0.
        DataError: in the call, for values that are no counts (z-scores, logarithms), and for a total that is not > 0.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, target_sum: float = 1e4, counts: bool = True) -> None:
        if not target_sum > 0:
            raise ValueError(f"LogNormalize needs target_sum > 0, got {target_sum}.")
        self.target_sum, self.counts = float(target_sum), counts

    def __call__(self, image: Any, library: Any = None, key: str = "image") -> Tensor:
        """``library``: l [...], the totals of whole cells; None sums ``image``, which must have all genes."""
        x: Tensor = convert_to_tensor(image, dtype=torch.float32, track_meta=isinstance(image, MetaTensor))
        values = convert_to_tensor(x, track_meta=False)
        if self.counts:
            refuse_other_than_counts(values.detach().cpu().numpy(), source_of(x), key)
        total = values.double().sum(-1) if library is None else torch.as_tensor(library).double().cpu()
        if total.shape != x.shape[:-1] or not bool((total > 0).all()):
            raise DataError(
                source_of(x),
                key=key,
                expected=f"a total > 0 for each cell, of shape {tuple(x.shape[:-1])}",
                got=f"shape {tuple(total.shape)}, from {float(total.min()):g}",
                remedy="Remove empty cells; give the totals of whole cells as library.",
            )
        scale = (self.target_sum / total).to(x).unsqueeze(-1)
        mapped: Tensor = torch.log1p(x * scale)
        if isinstance(mapped, MetaTensor):
            self.push_transform(mapped, extra_info={"library": total.tolist()})
        return mapped

    def inverse(self, image: Tensor, library: Any = None) -> Tensor:
        """x, by ``library``, else by the recorded totals; generated rows have no record."""
        if isinstance(image, MetaTensor) and library is None:
            library = self.pop_transform(image)["extra_info"]["library"]
        if library is None:
            raise ValueError("LogNormalize.inverse needs the totals: give library, or a MetaTensor that recorded them.")
        total = torch.as_tensor(library, dtype=torch.float64)
        x = torch.expm1(image.clamp_min(0)) * (total / self.target_sum).to(image).unsqueeze(-1)
        return x.round() if self.counts else x


class LogNormalized(InvertibleDictionary):
    """Dictionary form of :class:`LogNormalize`, with the totals under ``library_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        target_sum: float = 1e4,
        counts: bool = True,
        library_key: str | None = "library",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, LogNormalize(target_sum, counts), allow_missing_keys)
        self.library_key = library_key

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        library = None if self.library_key is None else data[self.library_key]
        return self.transform(recording(image), library, str(key))


@dataclass(frozen=True)
class GeneScale:
    """Mean and standard deviation of each gene in the training rows, and of all standardised values.

    Args:
        mean, std: [G]; a constant gene has std 0, and keeps its mean.
        sigma_data: standard deviation of all standardised values; below 1 only because of constant genes.
        rows: number of training rows.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_data: float
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """The arguments of :class:`StandardizeGenes`, with sigma_data and rows, for JSON."""
        return {"mean": list(self.mean), "std": list(self.std), "sigma_data": self.sigma_data, "rows": self.rows}


def measure_gene_scale(batches: Iterable[Any]) -> GeneScale:
    """Measures mean and standard deviation (population) of each gene in one pass over batches [n, G] of **training**
    rows, dense or sparse; in float64, merged pairwise (Chan et al. 1979), which is accurate for large means.

    Raises:
        DataError: for fewer than two rows, or a value that is not finite.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for batch in batches:
        rows = np.asarray(batch.toarray() if sparse.issparse(batch) else batch, dtype=np.float64)
        size, own = len(rows), rows.mean(0)
        delta = own - mean
        squares = squares + np.square(rows - own).sum(0) + delta**2 * (count * size / (count + size))
        mean = mean + delta * (size / (count + size))
        count += size
    if count < 2 or not np.isfinite(squares).all():
        raise DataError(
            "the training rows", expected="at least two, all finite", got=f"{count}, of them not all finite"
            if count > 1 else f"{count}", remedy="Give more rows, without NaN.",
        )  # fmt: skip
    std = np.sqrt(squares / count)
    std[std <= 1e-7 * np.maximum(1, np.abs(mean))] = 0
    sigma_data = float(np.sqrt(np.mean(std > 0)))
    if sigma_data == 0:
        raise DataError("the training rows", expected="genes that vary", got="constant genes", remedy="Check the data.")
    return GeneScale(tuple(mean.tolist()), tuple(std.tolist()), sigma_data, count)


class StandardizeGenes(InvertibleTransform):
    """Maps x [..., G] to :math:`(x - m_g) / s_g`; a constant gene (:math:`s_g = 0`) to 0, and back to its mean.

    Args:
        mean, std: m and s [G], of :func:`measure_gene_scale`.
    Raises:
        ValueError: for different lengths or a negative std; in the call, for another number of genes.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        if self.mean.shape != self.std.shape or self.mean.ndim != 1 or bool((self.std < 0).any()):
            raise ValueError(
                f"StandardizeGenes needs a mean and a std >= 0 for each gene, got shapes {tuple(self.mean.shape)} and "
                f"{tuple(self.std.shape)}."
            )

    def __call__(self, image: Any) -> Tensor:
        x: Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        self._check(x)
        scale = torch.where(self.std > 0, 1 / self.std.clamp_min(1e-300), 0.0)
        mapped = ((x.double() - self.mean.to(x.device)) * scale.to(x.device)).float()
        if isinstance(mapped, MetaTensor):
            self.push_transform(mapped)
        return mapped

    def inverse(self, image: Tensor) -> Tensor:
        """x; removes the record of a ``MetaTensor``."""
        self._check(image)
        if isinstance(image, MetaTensor):
            self.pop_transform(image)
        return (image.double() * self.std.to(image.device) + self.mean.to(image.device)).float()

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != len(self.mean):
            raise ValueError(f"StandardizeGenes has {len(self.mean)} genes, got an input of shape {tuple(x.shape)}.")


class StandardizeGenesd(RecordingDictionary):
    """Dictionary form of :class:`StandardizeGenes`."""

    def __init__(
        self, keys: KeysCollection, mean: Sequence[float], std: Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, StandardizeGenes(mean, std), allow_missing_keys)
