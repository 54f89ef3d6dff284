"""What every measurement is: a linear map with its adjoint, and the systems that follow from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_diffscore.tensors import per_sample


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int = 100, tolerance: float = 1e-6
) -> Tensor:
    r"""The solution u of :math:`M u = b` for symmetric positive definite M, each sample of the batch on its own.

    Args:
        apply: u to M u, for a batch [B, ...]; samples must not influence each other.
        right: b, [B, ...].
        iterations: at most this many applications of M.
        tolerance: of the residual norm relative to that of b; the batch stops when all samples have reached it.

    Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(1), a)

    solution, residual = torch.zeros_like(right), right
    direction, power = residual, dot(residual, residual)
    goal = tolerance**2 * power
    for _ in range(iterations):
        if bool((power <= goal).all()):
            break
        image = apply(direction)
        curvature = dot(direction, image)
        # a sample that has converged has no direction left: it stays where it is
        step = torch.where(curvature > 0, power / curvature.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        following = dot(residual, residual)
        ratio = torch.where(power > 0, following / power.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        direction, power = residual + ratio * direction, following
    return solution


class Operator(nn.Module, ABC):
    """A linear map of each sample of a batch.

    Subclasses must implement ``forward`` and ``adjoint``; they implement ``solve`` where it is cheap.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, of the shape of x."""

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        r""":math:`(r^2 A A^T + \sigma_y^2 I)^{-1} y`.

        Args:
            y: measurements [B, ...].
            prior_variance: r^2, one number or [B].
            noise_variance: sigma_y^2 > 0.
        """
        prior = over_samples(prior_variance, y)
        return conjugate_gradients(lambda u: prior * self(self.adjoint(u)) + noise_variance * u, y)

    def pseudo_inverse(self, y: Tensor, regularisation: float = 1e-3) -> Tensor:
        r""":math:`A^T (A A^T + \epsilon \lVert A\rVert^2 I)^{-1} y`: least squares of smallest norm, noise kept in
        bounds.

        Args:
            y: measurements [B, ...].
            regularisation: epsilon, relative to the largest eigenvalue of A A^T.
        """
        return self.adjoint(self.solve(y, 1.0, regularisation * self.squared_norm(y[:1])))

    @torch.no_grad()
    def squared_norm(self, like: Tensor, iterations: int = 20) -> float:
        """The largest eigenvalue of A A^T, by power iteration from a fixed start.

        Args:
            like: a tensor of the shape, dtype and device of y.
            iterations: of the power method; the result is a lower bound that is close after few.
        """
        u = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype).to(like.device)
        value = 0.0
        for _ in range(iterations):
            u = u / u.norm()
            image = self(self.adjoint(u))
            value, u = float((u * image).sum()), image
        return value


def over_samples(values: Tensor | float, like: Tensor) -> Tensor:
    """One number, or one for each sample [B], that broadcasts against ``like`` [B, ...]."""
    return per_sample(torch.as_tensor(values, dtype=like.dtype, device=like.device), like)
