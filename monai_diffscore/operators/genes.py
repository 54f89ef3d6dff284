"""Expression of which some genes are seen: in the space of the genes, or in that of their components."""

from __future__ import annotations

from torch import Tensor

from monai_diffscore.operators.linear_map import Operator
from monai_diffscore.operators.mask import Mask


class GeneDropout(Mask):
    """Expression [B, G] of which some genes were not seen: a targeted panel, or the zeros of single cells.

    In the (normalised) space of the denoiser: a gene that is unseen carries no information, where a measured zero
    would.

    Args:
        observed: [G] for a panel, or [B, G] for each cell; true where measured.
        capture: gain of a measured gene, one number or [B, 1], such as a relative sequencing depth.
    """

    def __init__(self, observed: Tensor, capture: Tensor | float = 1.0) -> None:
        super().__init__(observed.float() * capture)


class GeneLoadings(Operator):
    r"""Genes of which some were seen, read off components: :math:`y = M \Lambda^\top z`, [B, K] to [B, G].

    With :math:`\Lambda` in units of what the components leave of each gene, noise of standard deviation 1 makes this
    the likelihood of factor analysis.

    Args:
        loadings: :math:`\Lambda` [K, G].
        observed: [G] or [B, G]; true where measured.
    Raises:
        ValueError: for numbers of genes that differ.
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
