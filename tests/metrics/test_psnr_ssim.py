"""PSNR and SSIM against closed forms, scikit-image and a float64 restatement of the definitions."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vsr.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y, to_y

METRICS = (psnr_y, psnr_rgb, ssim_y, ssim_rgb)


def frame(height: int = 48, width: int = 70, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with some noise, so that SSIM is neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / p) * np.cos(columns / q) for p, q in ((3, 7), (5, 4), (9, 6))], axis=-1)
    noisy = 127 + 80 * waves + rng.normal(0, 10, waves.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def disturbed(picture: NDArray[np.uint8], seed: int = 1) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-20, 21, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def luma(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return 16 + picture.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def test_luma_of_black_white_and_primaries() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    expected = [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]
    np.testing.assert_allclose(to_y(colours).numpy()[0], expected, atol=1e-12)


def test_luma_is_not_rounded() -> None:
    value = float(to_y(np.full((1, 1, 3), 100, dtype=np.uint8)))
    assert value == pytest.approx(16 + 219 * 100 / 255, abs=1e-12)
    assert value != round(value)


@pytest.mark.parametrize("difference", [1, 2, 16, 255])
def test_psnr_of_a_constant_difference(difference: int) -> None:
    black = np.zeros((12, 15, 3), dtype=np.uint8)
    grey = np.full_like(black, difference)
    assert psnr_rgb(black, grey) == pytest.approx(20 * math.log10(255 / difference), abs=1e-10)
    # Luma has 219 steps where RGB has 255.
    assert psnr_y(black, grey) == pytest.approx(20 * math.log10(255 / (difference * 219 / 255)), abs=1e-10)


def test_psnr_of_one_wrong_value() -> None:
    a = np.full((10, 20, 3), 90, dtype=np.uint8)
    b = a.copy()
    b[4, 5, 1] += 30
    assert psnr_rgb(a, b) == pytest.approx(10 * math.log10(255**2 / (30**2 / 600)), abs=1e-10)
    assert psnr_y(a, b) == pytest.approx(10 * math.log10(255**2 / ((30 * 128.553 / 255) ** 2 / 200)), abs=1e-10)


def test_equal_frames_have_infinite_psnr_and_ssim_one() -> None:
    a = frame()
    assert psnr_y(a, a.copy()) == math.inf
    assert psnr_rgb(a, a.copy()) == math.inf
    assert ssim_y(a, a.copy()) == pytest.approx(1, abs=1e-12)
    assert ssim_rgb(a, a.copy()) == pytest.approx(1, abs=1e-12)


def test_ssim_of_two_flat_frames_is_the_luminance_term() -> None:
    a, b = np.full((20, 20, 3), 60, dtype=np.uint8), np.full((20, 20, 3), 90, dtype=np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim_rgb(a, b) == pytest.approx((2 * 60 * 90 + c1) / (60**2 + 90**2 + c1), abs=1e-9)
    low, high = luma(a)[0, 0], luma(b)[0, 0]
    assert ssim_y(a, b) == pytest.approx((2 * low * high + c1) / (low**2 + high**2 + c1), abs=1e-9)


@pytest.mark.parametrize("crop", [0, 3])
def test_ssim_against_scikit_image(crop: int) -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is the reference for SSIM")
    a, b = frame(), disturbed(frame())
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}

    def expected(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        inner = slice(crop, x.shape[0] - crop), slice(crop, x.shape[1] - crop)
        return float(skimage.structural_similarity(x[inner], y[inner], **options))

    assert ssim_y(a, b, crop) == pytest.approx(expected(luma(a), luma(b)), abs=1e-12)
    planes = [expected(a[..., c].astype(float), b[..., c].astype(float)) for c in range(3)]
    assert ssim_rgb(a, b, crop) == pytest.approx(np.mean(planes), abs=1e-12)


@pytest.mark.parametrize("crop", [0, 4])
def test_psnr_against_scikit_image(crop: int) -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is the reference for PSNR")
    a, b = frame(), disturbed(frame())
    inner = slice(crop, a.shape[0] - crop), slice(crop, a.shape[1] - crop)
    expected = skimage.peak_signal_noise_ratio(a[inner], b[inner], data_range=255)
    assert psnr_rgb(a, b, crop) == pytest.approx(expected, abs=1e-10)
    expected = skimage.peak_signal_noise_ratio(luma(a)[inner], luma(b)[inner], data_range=255)
    assert psnr_y(a, b, crop) == pytest.approx(expected, abs=1e-10)


def test_ssim_against_the_definition() -> None:
    """Every window summed by itself, all five moments, as in the paper."""
    a, b = frame(17, 14), disturbed(frame(17, 14))
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / np.outer(axis, axis).sum()
    x, y = luma(a), luma(b)
    values = []
    for i in range(17 - 10):
        for j in range(14 - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append(
                (2 * mean_p * mean_q + c1)
                * (2 * covariance + c2)
                / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    assert ssim_y(a, b) == pytest.approx(np.mean(values), abs=1e-12)


def test_crop_leaves_the_border_out() -> None:
    a = frame()
    b = a.copy()
    b[:2], b[-2:], b[:, :2], b[:, -2:] = 0, 0, 0, 0
    assert psnr_y(a, b, crop=2) == math.inf
    assert psnr_y(a, b, crop=1) < 40
    assert ssim_rgb(a, b, crop=2) == pytest.approx(1, abs=1e-12)
    assert ssim_rgb(a, b, crop=1) < 0.999


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_tensors_and_strides_agree(metric) -> None:
    a, b = frame(), disturbed(frame())
    expected = metric(a, b)
    assert metric(torch.from_numpy(a), torch.from_numpy(b)) == expected
    assert metric(np.asfortranarray(a), torch.from_numpy(b)) == expected
    wide = torch.from_numpy(np.repeat(a, 2, axis=1))[:, ::2]
    assert metric(wide, b) == pytest.approx(expected, abs=1e-12)
    assert metric(b, a) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_bad_input_is_named(metric) -> None:
    a = frame()
    with pytest.raises(TypeError, match=r"second frame must hold 8-bit values \(uint8\), got torch.float32"):
        metric(a, a.astype(np.float32))
    with pytest.raises(ValueError, match=r"first frame must be \(H, W, 3\), got shape \(48, 70\)"):
        metric(a[..., 0], a)
    with pytest.raises(ValueError, match="must have one size, got 70x48 and 69x48"):
        metric(a, a[:, :-1])
    with pytest.raises(ValueError, match="got 24 for 70x48 frames"):
        metric(a, a, crop=24)
    with pytest.raises(ValueError, match="got -1 for 70x48"):
        metric(a, a, crop=-1)


def test_ssim_needs_a_whole_window() -> None:
    a = frame(11, 11)
    assert ssim_y(a, a) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="leave 11 pixels of each side, got 1 for 11x11"):
        ssim_y(a, a, crop=1)
    assert psnr_y(a, a, crop=5) == math.inf


def test_a_720p_frame_takes_a_moment_only() -> None:
    a = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    b = disturbed(a)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ssim_y(a, b)
        times.append(time.perf_counter() - start)
    # Tens of milliseconds on two cores; float64 convolution took a quarter of a second on the same machine.
    assert min(times) < 0.3
