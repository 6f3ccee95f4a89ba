"""How benchmarks make low-resolution frames: MATLAB's bicubic (BI), and Gaussian blur with decimation (BD).

A super-resolution model only does well on the degradation it was trained for, and both are easy to get
slightly wrong: other libraries' bicubic differs from MATLAB's at the borders or everywhere, and two BD
conventions, 1.5 pixels apart, are in use. The functions here work on float tensors of any value range;
:func:`degrade_frame` is the whole way from an 8-bit frame to an 8-bit frame.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Degradation = Literal["bicubic", "bd", "bd-duf"]
DEGRADATIONS: tuple[Degradation, ...] = get_args(Degradation)

_KERNEL_RADIUS = 2  # bicubic support to each side, in samples of the coarser grid


def _positions(x: Tensor, dim: int, first: int, last: int, mode: str) -> Tensor:
    """What lies at positions ``first`` to ``last - 1`` of a dimension, which may exceed the image on either side."""
    size = x.shape[dim]
    if first >= 0 and last <= size:
        return x.narrow(dim, first, last - first)
    index = torch.arange(first, last, device=x.device)
    if mode == "replicate":
        index = index.clamp(0, size - 1)
    elif mode == "reflect":  # c b | a b c | b a: the edge itself is not repeated
        period = max(2 * (size - 1), 1)
        index = index.remainder(period)
        index = torch.where(index < size, index, period - index)
    else:  # symmetric, b a | a b c | c b
        period = 2 * size
        index = index.remainder(period)
        index = torch.where(index < size, index, period - 1 - index)
    return x.index_select(dim, index)


def _check_image(x: Tensor, name: str) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: x must be float32 or float64, got {x.dtype}")
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise ValueError(f"{name}: x must be (..., C, H, W) without empty dimensions, got shape {tuple(x.shape)}")


def imresize(x: Tensor, scale: float) -> Tensor:
    """Resize as MATLAB's ``imresize(x, scale, 'bicubic')``: antialiased cubic (a = -0.5), symmetric borders.

    The values are not rounded or clamped. The whole computation stays in the dtype of ``x``.

    Args:
        x: Images, (..., C, H, W), float32 or float64, any value range.
        scale: Factor from the input to the output size, such as ``1 / 4`` or ``2``; a fraction whose
            denominator is at most 256.

    Returns:
        (..., C, ceil(scale * H), ceil(scale * W)), the sizes MATLAB gives. When ``scale * H`` is no whole
        number the grids share their upper left corner.

    Raises:
        TypeError: ``x`` is of another dtype.
        ValueError: ``x`` is no image, or ``scale`` is no such fraction.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981; the widened kernel
    of MATLAB's ``imresize`` documentation.
    """
    return _imresize(x, scale, 0)


def _imresize(x: Tensor, scale: float, margin: int) -> Tensor:
    """As :func:`imresize`, without ``margin`` pixels of the output at each border."""
    _check_image(x, "imresize")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"imresize: scale must be positive and finite, got {scale}")
    ratio = Fraction(scale).limit_denominator(256)
    if ratio == 0 or abs(ratio / Fraction(scale) - 1) > Fraction(1, 10**9):
        raise ValueError(f"imresize: scale must be a fraction with a denominator up to 256, got {scale}")
    height, width = x.shape[-2:]
    step = ratio.denominator
    # Where interpolate's own border rule could reach, there must be padding, and the padding must be a whole
    # number of output samples so that both sampling grids stay aligned.
    reach = math.ceil(_KERNEL_RADIUS * max(Fraction(1), 1 / ratio)) + 1
    before = -(-reach // step) * step

    inside = int(margin / ratio)  # samples of the input that a margin is

    def padded(flat: Tensor, dim: int) -> Tensor:
        whole = -(-flat.shape[dim] // step) * step
        return _positions(flat, dim, inside - before, whole + before - inside, "symmetric")

    full = padded(padded(x.reshape(-1, *x.shape[-3:]), -2), -1)  # (N, C, H, W)
    size = int(full.shape[-2] * ratio), int(full.shape[-1] * ratio)
    full = F.interpolate(full, size=size, mode="bicubic", antialias=True, align_corners=False)
    first = int(before * ratio)
    out_height, out_width = math.ceil(height * ratio) - 2 * margin, math.ceil(width * ratio) - 2 * margin
    out = full[..., first : first + out_height, first : first + out_width]
    return out.reshape(*x.shape[:-2], out_height, out_width)


def _gaussian(offsets: Tensor, sigma: float) -> Tensor:
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def gaussian_downsample(
    x: Tensor, scale: int = 4, *, sigma: float | None = None, phase: Literal["centre", "duf"] = "centre"
) -> Tensor:
    """Blur with a Gaussian and keep every ``scale``-th pixel: the "BD" degradation, in one of its two phases.

    ``centre`` is BasicVSR's and mmagic's: the kernel reaches ``ceil(3 sigma)`` pixels beyond the pixels it is
    centred between (12 taps at sigma 1.6), borders are replicated, and low-resolution sample ``m`` lies at
    the centre of its block, at high-resolution position ``scale * m + (scale - 1) / 2``. It was published for
    scale 4; the same rule gives the other scales.

    ``duf`` is that of DUF and of BasicSR's ``duf_downsample``: at most 13 taps (cut at 4 sigma), reflected
    borders, and sample ``m`` at position ``scale * m``. At scale 4 the two images are 1.5 pixels apart; a
    model trained for one is useless on the other (the BD weights of BasicVSR lose 12 dB on the clip bikes).

    Args:
        x: Images, (..., C, H, W), float32 or float64, any value range; H and W multiples of ``scale``.
        scale: Reduction factor, at least 2.
        sigma: Standard deviation in high-resolution pixels; ``0.4 * scale`` (1.6 at scale 4) when not given.
        phase: ``centre`` or ``duf``.

    Returns:
        (..., C, H / scale, W / scale), neither rounded nor clamped.

    Raises:
        TypeError: ``x`` is of another dtype.
        ValueError: A size is no multiple of ``scale``, or an argument is out of range.
    """
    return _gaussian_downsample(x, scale, sigma, phase, 0)


def _gaussian_downsample(
    x: Tensor, scale: int, sigma: float | None, phase: Literal["centre", "duf"], margin: int
) -> Tensor:
    """As :func:`gaussian_downsample`, without ``margin`` pixels of the output at each border."""
    _check_image(x, "gaussian_downsample")
    height, width = x.shape[-2:]
    if not isinstance(scale, int) or scale < 2:
        raise ValueError(f"gaussian_downsample: scale must be a whole number of at least 2, got {scale}")
    if height % scale or width % scale:
        raise ValueError(
            f"gaussian_downsample: sizes must be multiples of {scale}, got {height}x{width} (height x width)"
        )
    sigma = 0.4 * scale if sigma is None else sigma
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"gaussian_downsample: sigma must be positive, got {sigma}")
    if phase == "centre":
        # Even scales centre the kernel between two pixels (an even number of taps), odd scales on one.
        centre = (scale - 1) / 2
        first, last = math.floor(centre) - math.ceil(3 * sigma), math.ceil(centre) + math.ceil(3 * sigma)
        border = "replicate"
    elif phase == "duf":
        centre = 0.0
        last = min(6, int(4 * sigma + 0.5))
        first = -last
        border = "reflect"
    else:
        raise ValueError(f"gaussian_downsample: phase must be 'centre' or 'duf', got {phase!r}")
    taps = _gaussian(torch.arange(first, last + 1, dtype=x.dtype, device=x.device) - centre, sigma)

    def reach(flat: Tensor, dim: int) -> Tensor:
        inside, after = margin * scale, max(last - scale + 1, 0)
        return _positions(flat, dim, inside + first, flat.shape[dim] + after - inside, border)

    flat = reach(reach(x.reshape(-1, 1, height, width), -2), -1)  # (N * C, 1, H, W)
    flat = F.conv2d(flat, taps.view(1, 1, -1, 1), stride=(scale, 1))
    flat = F.conv2d(flat, taps.view(1, 1, 1, -1), stride=(1, scale))
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def mod_crop(frames: Tensor, scale: int) -> Tensor:
    """Cut rows and columns at the lower right so that both sizes are multiples of ``scale``.

    Args:
        frames: (..., H, W, C), any dtype.
        scale: The multiple.

    Returns:
        A view, (..., H - H % scale, W - W % scale, C).

    Raises:
        ValueError: A side is shorter than ``scale``.
    """
    height, width = frames.shape[-3] // scale * scale, frames.shape[-2] // scale * scale
    if not height or not width:
        raise ValueError(
            f"mod_crop: each side must be at least {scale} pixels, got {frames.shape[-2]}x{frames.shape[-3]}"
        )
    return frames[..., :height, :width, :]


def degrade_frame(frames: Tensor, scale: int, degradation: Degradation = "bicubic", *, margin: int = 0) -> Tensor:
    """Make 8-bit low-resolution frames of 8-bit high-resolution frames, as the published data sets do.

    Args:
        frames: (..., H, W, C) uint8; H and W multiples of ``scale`` (see :func:`mod_crop`).
        scale: Reduction factor, at least 2.
        degradation: ``bicubic`` (BI), ``bd`` (BD, BasicVSR's phase) or ``bd-duf`` (BD, DUF's phase).
        margin: Low-resolution pixels at each border that are left out: of a crop, where what lies beyond is unknown.

    Returns:
        (..., H / scale - 2 margin, W / scale - 2 margin, C) uint8, rounded to the nearest value.

    Raises:
        TypeError: ``frames`` is not uint8.
        ValueError: A size is no multiple of ``scale`` or leaves nothing inside the margin, or the degradation is
            unknown.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"degrade_frame: frames must be uint8, got {frames.dtype}")
    height, width = frames.shape[-3:-1]
    if height % scale or width % scale:
        raise ValueError(f"degrade_frame: sizes must be multiples of {scale}, got {height}x{width} (height x width)")
    if margin < 0 or min(height, width) <= 2 * margin * scale:
        raise ValueError(f"degrade_frame: margin: expected less than half of {height}x{width} / {scale}, got {margin}")
    planes = frames.movedim(-1, -3).to(torch.float64)  # (..., C, H, W)
    if degradation == "bicubic":
        small = _imresize(planes, 1 / scale, margin)
    elif degradation == "bd":
        small = _gaussian_downsample(planes, scale, None, "centre", margin)
    elif degradation == "bd-duf":
        small = _gaussian_downsample(planes, scale, None, "duf", margin)
    else:
        raise ValueError(f"degrade_frame: degradation must be one of {', '.join(DEGRADATIONS)}, got {degradation!r}")
    return small.movedim(-3, -1).round().clamp(0, 255).to(torch.uint8)


def bicubic_upscale_frame(frames: Tensor, scale: int) -> Tensor:
    """Enlarge 8-bit frames by MATLAB's bicubic: the baseline every model is compared with.

    Args:
        frames: (..., H, W, C) uint8.
        scale: Enlargement factor.

    Returns:
        (..., H * scale, W * scale, C) uint8.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"bicubic_upscale_frame: frames must be uint8, got {frames.dtype}")
    large = imresize(frames.movedim(-1, -3).to(torch.float32), scale)
    return large.movedim(-3, -1).round().clamp(0, 255).to(torch.uint8)
