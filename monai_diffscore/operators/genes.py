"""Measurements of some genes of an expression profile, in the space of the genes or of their components."""

from __future__ import annotations

from torch import Tensor

from monai_diffscore.operators.linear_map import Operator
from monai_diffscore.operators.mask import Mask


class GeneDropout(Mask):
    """A measurement of some genes of expression [B, G]: a targeted panel, or the dropouts of single cells.

    It works in the (normalised) space of the denoiser. A gene without a measurement has no information; a measured zero
    has.

    Args:
        observed: [G] for a panel, or [B, G] for each cell; true for measured genes.
        capture: gain of a measured gene, one number or [B, 1], such as a relative sequencing depth.
    Raises:
        ValueError: as of :class:`Mask`.
    """

    def __init__(self, observed: Tensor, capture: Tensor | float = 1.0) -> None:
        super().__init__(observed.float() * capture)


class GeneLoadings(Operator):
    r"""A measurement of some genes in the space of their components: :math:`y = M \Lambda^\top z`, [B, K] to [B, G].

    Divide the loadings of each gene by the standard deviation of its residual. With noise of standard deviation 1 this
    is then the likelihood of factor analysis.

    Args:
        loadings: :math:`\Lambda` [K, G].
        observed: M, [G] or [B, G]; true for measured genes.
    Raises:
        ValueError: if the numbers of genes differ.
    """

    loadings: Tensor
    observed: Tensor

    def __init__(self, loadings: Tensor, observed: Tensor) -> None:
        super().__init__()
        if loadings.ndim != 2 or loadings.shape[1] != observed.shape[-1]:
            raise ValueError(
                f"GeneLoadings needs loadings [K, G] and observed [..., G], got {tuple(loadings.shape)} and "
                f"{tuple(observed.shape)}."
            )
        self.register_buffer("loadings", loadings)
        self.register_buffer("observed", observed.bool())

    def forward(self, x: Tensor) -> Tensor:
        return self.observed.to(x) * (x @ self.loadings.to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.observed.to(y) * y) @ self.loadings.to(y).T
