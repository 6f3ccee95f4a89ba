"""Gradient of what follows a convolution: shuffle, scale and activation; and by the slopes of prelu.

Plan. A program takes BLOCK_P pixels before the shuffle and BLOCK_C channels, reads the incoming gradient where the
shuffle has put each value, and writes the gradient of the convolution's sums, channels last. Each program stores its
sums for the slopes; adding those up, in a fixed order, follows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def epilogue_gradient_kernel(
    grad,  # (N, C / R^2, R H, R W), any strides
    saved,  # the same shape: before the activation, or the output where that has the same sign
    slope,  # (C,) or (1,), of prelu
    before,  # (N, H, W, C)
    slope_sums,  # (programs, C) float32
    pixels,  # N H W
    H,
    W,
    g_n,
    g_c,
    g_h,
    g_w,
    s_n,
    s_c,
    s_h,
    s_w,
    number,  # slope of leaky_relu
    scale,
    C: tl.constexpr,
    R: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ONE_SLOPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    colour = channel // (R * R)
    sub = channel % (R * R)
    exists = channel < C
    mask = (pixel < pixels)[:, None] & exists[None, :]
    image = (pixel // W // H)[:, None]
    line = (pixel // W % H)[:, None] * R + (sub // R)[None, :]
    place = (pixel % W)[:, None] * R + (sub % R)[None, :]
    incoming = grad + image * g_n + colour.to(tl.int64)[None, :] * g_c + line * g_h + place * g_w
    value = tl.load(incoming, mask=mask, other=0.0).to(tl.float32) * scale
    if ACTIVATION != "none":
        spot = saved + image * s_n + colour.to(tl.int64)[None, :] * s_c + line * s_h + place * s_w
        seen = tl.load(spot, mask=mask, other=0.0).to(tl.float32)
        if ACTIVATION == "relu":
            value = tl.where(seen > 0, value, 0.0)
        if ACTIVATION == "leaky_relu":
            value = tl.where(seen > 0, value, value * number)
        if ACTIVATION == "prelu":
            by_slope = tl.sum(tl.where(seen > 0, 0.0, value * seen), 0)
            tl.store(slope_sums + tl.program_id(0).to(tl.int64) * C + channel, by_slope, mask=exists)
            if ONE_SLOPE:
                slopes = tl.load(slope + channel * 0, mask=exists, other=0.0)
            else:
                slopes = tl.load(slope + channel, mask=exists, other=0.0)
            value = tl.where(seen > 0, value, value * slopes.to(tl.float32)[None, :])
    tl.store(before + pixel[:, None] * C + channel[None, :], value.to(before.dtype.element_ty), mask=mask)
