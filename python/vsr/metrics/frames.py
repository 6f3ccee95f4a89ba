"""PSNR and SSIM of two 8-bit frames, on the luma (Y) or on all three channels.

The definitions are those of the MATLAB evaluation scripts that published results rest on: frames are rounded
to 8 bit before they are compared, luma is BT.601 studio range and is not rounded again, SSIM uses an 11x11
Gaussian window and only positions where the whole window fits. Everything is computed in float64, on the
device the frames are on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frame = Tensor | NDArray[np.uint8]

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2


def _gaussian_window() -> list[float]:
    weights = [math.exp(-((k - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for k in range(_WINDOW)]
    total = sum(weights)
    return [weight / total for weight in weights]


def _as_frame(frame: Frame, name: str) -> Tensor:
    tensor = frame if isinstance(frame, Tensor) else torch.from_numpy(np.require(frame, requirements=["C", "W"]))
    if tensor.dtype != torch.uint8:
        raise TypeError(f"{name} must hold 8-bit values (uint8), got {tensor.dtype}: clamp and round it first")
    if tensor.ndim != 3 or tensor.shape[-1] != 3:
        raise ValueError(f"{name} must be (H, W, 3), got shape {tuple(tensor.shape)}")
    return tensor


def _pair(a: Frame, b: Frame, crop: int, smallest: int) -> tuple[Tensor, Tensor]:
    """Both frames as (H, W, 3) uint8 tensors without their border."""
    first, second = _as_frame(a, "the first frame"), _as_frame(b, "the second frame")
    height, width = first.shape[:2]
    if first.shape != second.shape:
        other = f"{second.shape[1]}x{second.shape[0]}"
        raise ValueError(f"the frames must have one size, got {width}x{height} and {other}")
    if crop < 0 or min(height, width) - 2 * crop < smallest:
        raise ValueError(
            f"crop must be at least 0 and leave {smallest} pixels of each side, got {crop} for {width}x{height} frames"
        )
    inner = slice(crop, height - crop), slice(crop, width - crop)
    return first[inner], second[inner]


def to_y(frame: Frame) -> Tensor:
    """Luma of an 8-bit RGB frame: ``16 + (65.481 R + 128.553 G + 24.966 B) / 255`` (BT.601, studio range).

    Args:
        frame: (H, W, 3) uint8, RGB.

    Returns:
        (H, W) float64 between 16 and 235, not rounded.

    Raises:
        TypeError: ``frame`` is not uint8.
        ValueError: ``frame`` is not (H, W, 3).
    """
    red, green, blue = _as_frame(frame, "the frame").to(torch.float64).unbind(-1)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def _psnr(a: Tensor, b: Tensor) -> float:
    error = float((a - b).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _smooth(planes: Tensor) -> Tensor:
    """Gaussian window at every position where it fits: (P, H, W) -> (P, H - 10, W - 10)."""
    weights = _gaussian_window()
    # Eleven shifted additions a pass: float64 convolution in torch is more than ten times slower for single
    # planes.
    for dim in (1, 2):
        length = planes.shape[dim] - _WINDOW + 1
        total = planes.narrow(dim, 0, length) * weights[0]
        for shift in range(1, _WINDOW):
            total.add_(planes.narrow(dim, shift, length), alpha=weights[shift])
        planes = total
    return planes


def _ssim(a: Tensor, b: Tensor) -> float:
    """SSIM of two (H, W) float64 planes, averaged over the positions of the window."""
    # Only the sum of the two variances enters the formula, so four smoothed planes do instead of five.
    mean_a, mean_b, squares, product = _smooth(torch.stack((a, b, a * a + b * b, a * b)))
    mean_product, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    luminance_contrast = (2 * mean_product + _C1) * (2 * (product - mean_product) + _C2)
    return float((luminance_contrast / ((mean_squares + _C1) * (squares - mean_squares + _C2))).mean())


def psnr_y(a: Frame, b: Frame, crop: int = 0) -> float:
    """Peak signal-to-noise ratio of the luma (see :func:`to_y`), peak 255.

    Args:
        a: (H, W, 3) uint8, RGB.
        b: The frame to compare with, of the same size.
        crop: Border in pixels left out at every side.

    Returns:
        Decibels; infinity where the frames are equal.

    Raises:
        TypeError: A frame is not uint8.
        ValueError: The frames are not (H, W, 3) of one size, or ``crop`` leaves nothing.
    """
    first, second = _pair(a, b, crop, 1)
    return _psnr(to_y(first), to_y(second))


def psnr_rgb(a: Frame, b: Frame, crop: int = 0) -> float:
    """Peak signal-to-noise ratio over all three channels together; arguments and errors as :func:`psnr_y`."""
    first, second = _pair(a, b, crop, 1)
    return _psnr(first.to(torch.float64), second.to(torch.float64))


def ssim_y(a: Frame, b: Frame, crop: int = 0) -> float:
    """Structural similarity of the luma (see :func:`to_y`), 11x11 Gaussian window, valid positions only.

    Args:
        a: (H, W, 3) uint8, RGB.
        b: The frame to compare with, of the same size.
        crop: Border in pixels left out at every side.

    Returns:
        At most 1, which equal frames reach.

    Raises:
        TypeError: A frame is not uint8.
        ValueError: The frames are not (H, W, 3) of one size, or ``crop`` leaves less than 11 pixels of a
            side.

    Source: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    first, second = _pair(a, b, crop, _WINDOW)
    return _ssim(to_y(first), to_y(second))


def ssim_rgb(a: Frame, b: Frame, crop: int = 0) -> float:
    """Mean of the three channels' structural similarities; arguments and errors as :func:`ssim_y`."""
    first, second = (frame.to(torch.float64).unbind(-1) for frame in _pair(a, b, crop, _WINDOW))
    return sum(_ssim(plane_a, plane_b) for plane_a, plane_b in zip(first, second, strict=True)) / 3
