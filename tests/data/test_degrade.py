"""MATLAB's bicubic and both phases of BD against float64 restatements of the published procedures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vsr.data.degrade import (
    DEGRADATIONS,
    Degradation,
    bicubic_upscale_frame,
    degrade_frame,
    gaussian_downsample,
    imresize,
    mod_crop,
)


def image(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 255).to(dtype)


def keys_cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def matlab_matrix(size: int, scale: float) -> NDArray[np.float64]:
    """Resampling matrix (out, in) of one axis as MATLAB describes it: 1-based, widened when reducing."""
    out = math.ceil(size * scale - 1e-9)
    matrix = np.zeros((out, size))
    widen = min(scale, 1.0)
    width = 4 / widen
    mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    for i in range(1, out + 1):
        centre = i / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(centre - width / 2)
        taps = left + np.arange(math.ceil(width) + 2)
        weights = widen * keys_cubic(widen * (centre - taps))
        weights /= weights.sum()
        for tap, weight in zip(taps, weights, strict=True):
            matrix[i - 1, mirror[(tap - 1) % (2 * size)]] += weight
    return matrix


def matlab_resize(x: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    return matlab_matrix(x.shape[-2], scale) @ x @ matlab_matrix(x.shape[-1], scale).T


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("size", [(24, 36), (37, 50), (7, 5), (3, 2), (1, 1)])
def test_imresize_is_matlabs(scale: float, size: tuple[int, int]) -> None:
    x = image(2, 3, *size)
    expected = matlab_resize(x.numpy(), scale)
    got = imresize(x, scale)
    assert got.dtype == torch.float64
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 2.0, 4.0])
def test_imresize_in_float32(scale: float) -> None:
    x = image(3, 48, 64, dtype=torch.float32)
    got = imresize(x, scale)
    assert got.dtype == torch.float32
    # Four hundred times less than the half step that rounding to 8 bit forgives.
    np.testing.assert_allclose(got.numpy(), matlab_resize(x.double().numpy(), scale), atol=2e-4)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 2.0, 4.0])
def test_imresize_against_resize_right(scale: float) -> None:
    resize_right = pytest.importorskip("resize_right", reason="resize-right is an independent implementation")
    cubic = pytest.importorskip("resize_right.interp_methods").cubic

    x = image(3, 40, 48)
    expected = resize_right.resize(
        x.numpy(), scale_factors=[1, scale, scale], interp_method=cubic, pad_mode="symmetric"
    )
    np.testing.assert_allclose(imresize(x, scale).numpy(), expected, atol=1e-9)


def test_imresize_takes_any_leading_dimensions_and_strides() -> None:
    x = image(2, 3, 4, 16, 20)
    expected = imresize(x, 0.25)
    assert expected.shape == (2, 3, 4, 4, 5)
    assert torch.equal(imresize(x[1, 2], 0.25), expected[1, 2])
    channels_last = x[0].to(memory_format=torch.channels_last)
    torch.testing.assert_close(imresize(channels_last, 0.25), expected[0], atol=1e-10, rtol=0)
    transposed = x.transpose(-1, -2)
    torch.testing.assert_close(imresize(transposed, 0.25), expected.transpose(-1, -2), atol=1e-10, rtol=0)


def test_imresize_keeps_flat_images_and_is_symmetric() -> None:
    flat = torch.full((1, 13, 9), 77.0, dtype=torch.float64)
    torch.testing.assert_close(imresize(flat, 0.25), torch.full((1, 4, 3), 77.0, dtype=torch.float64))
    x = image(1, 16, 24)
    torch.testing.assert_close(imresize(x.flip(-1), 0.25), imresize(x, 0.25).flip(-1), atol=1e-10, rtol=0)


def test_imresize_names_bad_input() -> None:
    with pytest.raises(TypeError, match=r"imresize: x must be float32 or float64, got torch\.uint8"):
        imresize(torch.zeros(3, 8, 8, dtype=torch.uint8), 0.5)
    with pytest.raises(ValueError, match=r"imresize: x must be \(..., C, H, W\).*\(8, 8\)"):
        imresize(torch.zeros(8, 8), 0.5)
    with pytest.raises(ValueError, match=r"without empty dimensions, got shape \(3, 0, 8\)"):
        imresize(torch.zeros(3, 0, 8), 0.5)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            imresize(torch.zeros(3, 8, 8), scale)
    for scale in (1e-9, math.pi):
        with pytest.raises(ValueError, match="denominator up to 256"):
            imresize(torch.zeros(3, 8, 8), scale)


def bd_centre(x: NDArray[np.float64], scale: int, sigma: float) -> NDArray[np.float64]:
    """The published BD script: fspecial, imfilter with replicated border, samples from scale / 2 - 1 on."""
    size = math.ceil(sigma * 3) * 2 + 2
    axis = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    origin = (size - 1) // 2
    padded = np.pad(x, ((origin, size), (origin, size)), mode="edge")
    height, width = x.shape
    filtered = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            filtered[i, j] = (kernel * padded[i : i + size, j : j + size]).sum()
    return filtered[scale // 2 - 1 :: scale, scale // 2 - 1 :: scale]


@pytest.mark.parametrize(("scale", "sigma"), [(4, 1.6), (2, 0.8), (4, 1.0), (2, 1.6)])
def test_bd_in_basicvsrs_phase(scale: int, sigma: float) -> None:
    x = image(2, 3, 24, 32)
    got = gaussian_downsample(x, scale, sigma=sigma)
    assert got.shape == (2, 3, 24 // scale, 32 // scale)
    np.testing.assert_allclose(got[1, 2].numpy(), bd_centre(x[1, 2].numpy(), scale, sigma), atol=1e-10)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(12, 24), (36, 48)])
def test_bd_in_dufs_phase_against_scipy(scale: int, size: tuple[int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is the reference for the Gaussian filter")
    x = image(2, 3, *size)
    filtered = ndimage.gaussian_filter(x.numpy(), 0.4 * scale, axes=(-2, -1), mode="mirror", truncate=4.0)
    got = gaussian_downsample(x, scale, phase="duf")
    np.testing.assert_allclose(got.numpy(), filtered[..., ::scale, ::scale], atol=1e-10)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_each_phase_samples_where_it_says(scale: int) -> None:
    """The image of a coordinate is the coordinate of the sample: a blur does not move a ramp."""
    ramp = torch.arange(scale * 24, dtype=torch.float64).repeat(scale * 24, 1)[None]
    index = torch.arange(24, dtype=torch.float64)
    inner = slice(6, -6)  # away from the borders
    centre = gaussian_downsample(ramp, scale, phase="centre")[0, 12]
    torch.testing.assert_close(centre[inner], (scale * index + (scale - 1) / 2)[inner])
    duf = gaussian_downsample(ramp, scale, phase="duf")[0, 12]
    torch.testing.assert_close(duf[inner], (scale * index)[inner])


def test_bd_of_images_smaller_than_the_kernel() -> None:
    x = image(1, 4, 4)
    np.testing.assert_allclose(gaussian_downsample(x)[0].numpy(), bd_centre(x[0].numpy(), 4, 1.6), atol=1e-10)
    assert gaussian_downsample(x, phase="duf").shape == (1, 1, 1)


def test_bd_names_bad_input() -> None:
    x = torch.zeros(3, 8, 10)
    with pytest.raises(ValueError, match=r"multiples of 4, got 8x10 \(height x width\)"):
        gaussian_downsample(x)
    with pytest.raises(ValueError, match="scale must be a whole number of at least 2, got 1"):
        gaussian_downsample(x, 1)
    with pytest.raises(ValueError, match="phase must be 'centre' or 'duf', got 'left'"):
        gaussian_downsample(x, 2, phase="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        gaussian_downsample(x, 2, sigma=0)
    with pytest.raises(TypeError, match=r"float32 or float64, got torch\.float16"):
        gaussian_downsample(x.half(), 2)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_degrade_frame_rounds_and_clamps(degradation: str) -> None:
    frames = torch.zeros(2, 16, 24, 3, dtype=torch.uint8)
    frames[:, :, 12:] = 255  # an edge, so that bicubic overshoots
    frames[1] = (image(16, 24, 3, seed=4)).round().to(torch.uint8)
    planes = frames.permute(0, 3, 1, 2).double()
    exact = {
        "bicubic": lambda: torch.from_numpy(matlab_resize(planes.numpy(), 0.25)),
        "bd": lambda: gaussian_downsample(planes, 4),
        "bd-duf": lambda: gaussian_downsample(planes, 4, phase="duf"),
    }[degradation]()
    got = degrade_frame(frames, 4, degradation)  # type: ignore[arg-type]
    assert got.dtype == torch.uint8
    assert got.shape == (2, 4, 6, 3)
    expected = exact.round().clamp(0, 255).permute(0, 2, 3, 1)
    assert torch.equal(got.double(), expected)
    if degradation == "bicubic":
        assert exact.min() < -0.5
        assert exact.max() > 255.5


def test_degrade_frame_names_bad_input() -> None:
    frames = torch.zeros(8, 8, 3, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"frames must be uint8, got torch\.float32"):
        degrade_frame(frames.float(), 2)
    with pytest.raises(ValueError, match=r"multiples of 3, got 8x8 \(height x width\)"):
        degrade_frame(frames, 3)
    with pytest.raises(ValueError, match="one of bicubic, bd, bd-duf, got 'nearest'"):
        degrade_frame(frames, 2, "nearest")  # type: ignore[arg-type]


def test_bicubic_upscale_frame() -> None:
    frames = image(2, 6, 5, 3).round().to(torch.uint8)
    got = bicubic_upscale_frame(frames, 4)
    exact = matlab_resize(frames.permute(0, 3, 1, 2).double().numpy(), 4.0)
    assert got.shape == (2, 24, 20, 3)
    assert np.abs(got.permute(0, 3, 1, 2).numpy() - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
    with pytest.raises(TypeError, match="must be uint8"):
        bicubic_upscale_frame(frames.float(), 4)


def test_mod_crop_cuts_at_the_lower_right() -> None:
    frames = torch.arange(2 * 7 * 9 * 3).reshape(2, 7, 9, 3)
    cut = mod_crop(frames, 4)
    assert torch.equal(cut, frames[:, :4, :8])
    assert mod_crop(frames, 1).shape == frames.shape
    with pytest.raises(ValueError, match="at least 8 pixels, got 9x7"):
        mod_crop(frames, 8)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
@pytest.mark.parametrize(("scale", "margin"), [(2, 1), (2, 3), (3, 3), (4, 2), (4, 3), (4, 5)])
def test_a_margin_is_what_is_left_out(degradation: Degradation, scale: int, margin: int) -> None:
    frames = torch.randint(0, 256, (2, 12 * scale, 14 * scale, 3), dtype=torch.uint8)
    whole = degrade_frame(frames, scale, degradation)
    inside = degrade_frame(frames, scale, degradation, margin=margin)
    assert torch.equal(inside, whole[:, margin:-margin, margin:-margin])
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=r"margin: expected less than half"):
            degrade_frame(frames, scale, degradation, margin=wrong)
