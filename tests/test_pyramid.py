"""The pyramid is an orthogonal map: its transpose is its inverse, for every wavelet and every size that it takes."""

from __future__ import annotations

import math

import pytest
import torch

from monai_diffscore.pyramid import Pyramid, daubechies

# the smallest sizes are shorter than the longest filters, which then wrap around several times
SIZES = [(1, 1, (2,)), (1, 3, (24,)), (2, 1, (2, 6)), (2, 2, (12, 4)), (3, 1, (2, 4, 6)), (3, 2, (8, 4, 4))]
each_size = pytest.mark.parametrize(("dims", "scales", "size"), SIZES)
each_wavelet = pytest.mark.parametrize("moments", [1, 2, 3, 4, 8])


def flat(coarse, details):
    return torch.cat([part.flatten(1) for part in (coarse, *details)], 1)


def matrix(pyramid, size, dtype=torch.float64):
    """The transform as a matrix [d, d]: its columns are the images of the unit vectors."""
    count = math.prod(size)
    return flat(*pyramid.analysis(torch.eye(count, dtype=dtype).reshape(count, 1, *size))).T


@each_wavelet
@each_size
def test_the_transpose_is_the_inverse(dims, scales, size, moments):
    pyramid = Pyramid(dims, scales, moments)
    transform = matrix(pyramid, size)
    identity = torch.eye(len(transform), dtype=torch.float64)
    torch.testing.assert_close(transform.T @ transform, identity, atol=1e-9, rtol=0)
    single = matrix(pyramid, size, torch.float32)
    torch.testing.assert_close(single.T @ single, identity.float(), atol=1e-6, rtol=0)


@each_wavelet
@each_size
def test_synthesis_is_the_inverse_of_analysis(dims, scales, size, moments):
    pyramid = Pyramid(dims, scales, moments)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    coarse, details = pyramid.analysis(x)
    assert [tuple(part.shape) for part in (coarse, *details)] == pyramid.shapes(x.shape)
    torch.testing.assert_close(pyramid.synthesis(coarse, details), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(flat(coarse, details).norm(dim=1), x.flatten(1).norm(dim=1), atol=1e-9, rtol=0)


@each_size
def test_the_gradient_of_analysis_is_synthesis(dims, scales, size):
    pyramid = Pyramid(dims, scales, 2)
    x = torch.randn(2, 1, *size, dtype=torch.float64, requires_grad=True)
    parts = pyramid.analysis(x)
    weights = torch.randn_like(parts[0]), [torch.randn_like(detail) for detail in parts[1]]
    (flat(*parts) * flat(*weights)).sum().backward()
    torch.testing.assert_close(x.grad, pyramid.synthesis(*weights))


@each_wavelet
def test_the_filter_is_orthonormal_and_ignores_polynomials(moments):
    h = daubechies(moments)
    assert h.shape == (2 * moments,)
    for m in range(moments):
        assert float((h[2 * m :] * h[: len(h) - 2 * m]).sum()) == pytest.approx(float(m == 0), abs=1e-9)
    k = torch.arange(2 * moments, dtype=torch.float64)
    high = torch.where(k % 2 == 0, 1.0, -1.0) * h.flip(0)
    for degree in range(moments):
        assert float((high * (k / len(k)) ** degree).sum()) == pytest.approx(0, abs=1e-7)


def test_two_moments_give_the_filter_of_the_literature():
    """Daubechies 1992, Table 6.1: (1 + r, 3 + r, 3 - r, 1 - r) / (4 sqrt 2) with r the root of 3."""
    root = math.sqrt(3)
    expected = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * math.sqrt(2))
    torch.testing.assert_close(daubechies(2), expected)


def test_haar_is_sums_and_differences_of_neighbours():
    coarse, details = Pyramid(2, 1).analysis(torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]]))
    assert coarse.flatten().tolist() == pytest.approx([5.5])
    # along the last axis, along the first, along both
    assert details[0].flatten().tolist() == pytest.approx([-1.5, -2.5, 0.5])


@each_wavelet
def test_a_constant_has_no_details(moments):
    coarse, details = Pyramid(3, 2, moments).analysis(torch.full((1, 1, 8, 8, 4), 0.7, dtype=torch.float64))
    torch.testing.assert_close(coarse, torch.full_like(coarse, 0.7 * 2**3), atol=1e-9, rtol=0)
    assert all(float(detail.abs().max()) < 1e-9 for detail in details)


@each_wavelet
def test_the_coarse_image_is_in_register(moments):
    """The centre of mass of a bump stays where it is, to a voxel of the fine grid."""
    place = torch.arange(64, dtype=torch.float64)
    bump = torch.exp(-((place - 30.0) ** 2) / 32)
    coarse, _ = Pyramid(1, 1, moments).analysis(bump[None, None])
    centre = float((coarse.flatten() * (2 * place[:32] + 0.5)).sum() / coarse.sum())
    assert abs(centre - 30.0) < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_stays(dtype):
    pyramid = Pyramid(2, 1, 2)
    coarse, details = pyramid.analysis(torch.ones(1, 1, 4, 4, dtype=dtype))
    assert {part.dtype for part in (coarse, *details, pyramid.synthesis(coarse, details))} == {dtype}


def test_a_size_that_is_no_multiple_is_refused_with_the_size_to_pad_to():
    with pytest.raises(ValueError, match=r"multiple of 4, got shape \(1, 1, 8, 10, 3\)\. Pad to \(8, 12, 4\)"):
        Pyramid(3, 2).analysis(torch.zeros(1, 1, 8, 10, 3))
    with pytest.raises(ValueError, match="multiple of 2, got shape"):
        Pyramid(1, 2).split(torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="3 spatial axes"):
        Pyramid(3, 1).analysis(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"floating point numbers, got torch\.int64"):
        Pyramid(1, 1).analysis(torch.zeros(1, 1, 8, dtype=torch.int64))


def test_coefficients_that_do_not_fit_are_refused():
    pyramid = Pyramid(2, 2)
    coarse, details = pyramid.analysis(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="details of 2 scales, the coarsest first, got 1"):
        pyramid.synthesis(coarse, details[:1])
    with pytest.raises(ValueError, match=r"expects details of shape \(1, 3, 2, 2\)"):
        pyramid.synthesis(coarse, details[::-1])


@pytest.mark.parametrize("arguments", [(0, 1), (4, 1), (2, 0), (2, 1, 0), (2, 1, 9)])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"[Ee]xpect"):
        Pyramid(*arguments)
