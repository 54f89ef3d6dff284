"""Linear maps with their adjoints, and the solution of their linear systems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_diffscore.tensors import per_sample

#: largest cosine between successive residuals; it is 0 for symmetric M, apart from rounding
_LARGEST_COSINE = 0.1


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    iterations: int = 100,
    tolerance: float = 1e-6,
    least: float = 0.0,
    on_breakdown: Callable[[], None] | None = None,
) -> Tensor:
    r"""The solution u [B, ...] of :math:`M u = b` for symmetric positive definite M, for each sample.

    Args:
        apply: maps u to M u, for a batch [B, ...]. Samples must not influence each other.
        right: b, [B, ...].
        iterations: largest number of applications of M.
        tolerance: norm of the residual over the norm of b. The iteration stops when all samples have reached it.
        least: a lower bound of the eigenvalues of M.
        on_breakdown: called if M shows that it is not symmetric (a residual has over twice the norm of b, and is not
            orthogonal to the last one) or has an eigenvalue below ``least``. Such a sample keeps its solution before
            that step. None does not test M.

    Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(1), a)

    solution, residual = torch.zeros_like(right), right
    direction, power = residual, dot(residual, residual)
    start, goal = power, tolerance**2 * power
    for _ in range(iterations):
        if bool((power <= goal).all()):
            break
        image = apply(direction)
        curvature = dot(direction, image)
        # the direction of a converged sample is 0: its solution does not change
        step = torch.where(curvature > 0, power / curvature.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        next_residual = residual - step * image
        next_power = dot(next_residual, next_residual)
        if on_breakdown is not None:
            cosine = dot(residual, next_residual).abs() / (power * next_power).sqrt()
            broken = (power > goal) & (curvature < least * dot(direction, direction))
            broken = broken | ((next_power > 4 * start) & (cosine > _LARGEST_COSINE))
            step, next_residual, next_power = (torch.where(broken, 0.0, t) for t in (step, next_residual, next_power))
            if bool(broken.any()):
                on_breakdown()
        solution = solution + step * direction
        ratio = torch.where(power > 0, next_power / power.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        residual, power = next_residual, next_power
        direction = residual + ratio * direction
    return solution


class Operator(nn.Module, ABC):
    """A linear map of each sample of a batch.

    Subclasses must implement ``forward`` and ``adjoint``. A subclass with a faster ``solve`` replaces it.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, in the shape of x."""

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
        r""":math:`A^T (A A^T + \epsilon \lVert A\rVert^2 I)^{-1} y`, regularised least squares.

        Without regularisation it is the least-squares solution of smallest norm.

        Args:
            y: measurements [B, ...].
            regularisation: epsilon, in units of the largest eigenvalue of A A^T. It limits the noise of the result.
        """
        return self.adjoint(self.solve(y, 1.0, regularisation * self.squared_norm(y[:1])))

    @torch.no_grad()
    def squared_norm(self, like: Tensor, iterations: int = 20) -> float:
        """The largest eigenvalue of A A^T, by power iteration from a fixed start.

        Args:
            like: a tensor of the shape, dtype and device of y.
            iterations: of the power method. The result is a lower bound; it is close after few iterations.
        """
        u = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype).to(like.device)
        value = 0.0
        for _ in range(iterations):
            u = u / u.norm()
            image = self(self.adjoint(u))
            value, u = float((u * image).sum()), image
        return value

    @torch.no_grad()
    def traces(self, like: Tensor, probes: int = 4) -> tuple[Tensor, Tensor]:
        """The traces [B] of A A^T and of its square, exact for diagonal A A^T, else by probes of random signs.

        Args:
            like: a tensor of the shape, dtype and device of y.
            probes: number of them.

        Source: Hutchinson 1989, doi:10.1080/03610918908812806.
        """
        generator = torch.Generator().manual_seed(0)
        trace, trace_of_square = (like.new_zeros(len(like)) for _ in range(2))
        for _ in range(probes):
            signs = torch.randint(2, like.shape[1:], generator=generator) * 2 - 1
            image = self.adjoint(signs.to(like).expand_as(like))
            trace += image.square().flatten(1).sum(1) / probes
            trace_of_square += self(image).square().flatten(1).sum(1) / probes
        return trace, trace_of_square


def over_samples(values: Tensor | float, like: Tensor) -> Tensor:
    """One number, or one for each sample [B], in a shape that broadcasts against ``like`` [B, ...]."""
    return per_sample(torch.as_tensor(values, dtype=like.dtype, device=like.device), like)
