"""3x3 convolution of uint8 with int8: exact sums, and what follows in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .conv import conv3x3


def to_uint8(x: Tensor, zero_point: Tensor) -> Tensor:
    """``x`` rounded, plus ``zero_point`` (1,), clamped to 0 ... 255."""
    return (x.round() + zero_point).clamp(0, 255).to(torch.uint8)


def quantized_conv3x3(
    x: Tensor,  # (N, C_in, H, W), uint8 or floating
    weight: Tensor,  # (C_out, C_in, 3, 3) int8
    zero_point: Tensor,  # (1,) uint8
    scale: Tensor,  # (C_out,)
    bias: Tensor | None = None,  # (C_out,)
    *,
    activation: str = "none",
    slope: float | Tensor | None = None,
    out_zero_point: Tensor | None = None,  # (1,) uint8
    base: Tensor | None = None,  # (N, C_out / r^2, H, W)
    pixel_shuffle: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``pixel_shuffle(act(scale * conv2d(q - zero_point, weight) + bias), r) + nearest(base, r)``, or that as uint8.

    ``q`` is ``x``, or ``to_uint8(x, zero_point)`` where ``x`` is floating.
    """
    r = pixel_shuffle
    q = to_uint8(x.double(), zero_point) if x.is_floating_point() else x
    y = conv3x3(
        q.double() - zero_point,
        weight.double() * scale.double()[:, None, None, None],
        None if bias is None else bias.double(),
        activation=activation,
        slope=slope.double() if isinstance(slope, Tensor) else slope,
        residual=None if base is None else base.double().repeat_interleave(r, 2).repeat_interleave(r, 3),
        pixel_shuffle=r,
    )
    return y.to(dtype) if out_zero_point is None else to_uint8(y, out_zero_point)
