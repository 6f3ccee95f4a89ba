"""A 3x3 convolution as one would write it in Triton: implicit GEMM, a loop over the nine taps, no halo kept.

Each program computes BLOCK_M neighbouring pixels (of the flattened batch) for all output channels. For each tap it
loads those pixels' neighbours and the tap's weights and multiplies; Triton pipelines the loads. Also the gradient of
the weight as Triton offers it: split over pixels, partial sums added by atomics.
"""

# ruff: noqa: N803  (sizes of tensors)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def conv3x3(
    x,  # (N, H, W, C_X) bfloat16
    weight,  # (3, 3, C_in, C_out)
    bias,  # (C_out,)
    slope,  # (C_out,), of prelu
    residual,  # as out
    out,  # (N, H, W, C_out), or shuffled: (N, R H, R W, C_out / R^2), or scattered: (N, H, W, C_total)
    in_channels,  # (C_in,) int64: channels of x
    out_channels,  # (C_out,) int64: channels of out
    N,
    H,
    W,
    C_IN: tl.constexpr,
    C_X: tl.constexpr,
    C_OUT: tl.constexpr,
    C_TOTAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # C_OUT, rounded up to a power of two
    BLOCK_K: tl.constexpr,  # divides C_IN
    R: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row, column = pixel // W % H, pixel % W
    in_batch = pixel < N * H * W
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(9 * C_IN // BLOCK_K):
        tap = step // (C_IN // BLOCK_K)
        k0 = step % (C_IN // BLOCK_K) * BLOCK_K
        dy, dx = tap // 3 - 1, tap % 3 - 1
        inside = in_batch & (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        source = tl.load(in_channels + k0 + k) if GATHER else k0 + k
        a = tl.load(x + (pixel + dy * W + dx)[:, None] * C_X + source[None, :], mask=inside[:, None], other=0.0)
        weights = weight + (tap * C_IN + k0 + k)[:, None] * C_OUT + channel[None, :]
        b = tl.load(weights) if BLOCK_N == C_OUT else tl.load(weights, mask=(channel < C_OUT)[None, :], other=0.0)
        sums = tl.dot(a, b, sums)
    in_range = channel < C_OUT
    sums += tl.load(bias + channel, mask=in_range, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":
        sums = tl.maximum(sums, 0.0)
    if ACTIVATION == "prelu":
        slopes = tl.load(slope + channel, mask=in_range, other=0.0).to(tl.float32)
        sums = tl.where(sums > 0, sums, sums * slopes[None, :])
    if SCATTER:
        target = tl.load(out_channels + channel, mask=in_range, other=0)
        at = pixel[:, None] * C_TOTAL + target[None, :]
    elif R == 1:
        at = pixel[:, None] * C_OUT + channel[None, :]
    else:
        colour, sub = channel // (R * R), channel % (R * R)
        line = (pixel // W * R)[:, None] + (sub // R)[None, :]
        at = (line * (W * R) + (column * R)[:, None] + (sub % R)[None, :]) * (C_OUT // (R * R)) + colour[None, :]
    mask = in_batch[:, None] & in_range[None, :]
    if RESIDUAL:
        sums += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=mask)


@triton.jit
def conv3x3_weight_gradient(
    grad,  # (N, H, W, C_out) bfloat16
    x,  # (N, H, W, C_in) bfloat16
    grad_weight,  # (3, 3, C_in, C_out) float32, zeros
    N,
    H,
    W,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    BLOCK_P: tl.constexpr,  # pixels of a step
    STEPS: tl.constexpr,  # steps of a program
):
    tap = tl.program_id(0)
    dy, dx = tap // 3 - 1, tap % 3 - 1
    first = tl.program_id(1) * BLOCK_P * STEPS
    c_in, c_out = tl.arange(0, C_IN), tl.arange(0, C_OUT)
    sums = tl.zeros((C_IN, C_OUT), tl.float32)
    for step in range(STEPS):
        pixel = first + step * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = pixel // W % H, pixel % W
        in_batch = pixel < N * H * W
        inside = in_batch & (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        near = tl.load(x + (pixel + dy * W + dx)[:, None] * C_IN + c_in[None, :], mask=inside[:, None], other=0.0)
        here = tl.load(grad + pixel[:, None] * C_OUT + c_out[None, :], mask=in_batch[:, None], other=0.0)
        sums = tl.dot(tl.trans(near), here, sums)
    tl.atomic_add(grad_weight + (tap * C_IN + c_in)[:, None] * C_OUT + c_out[None, :], sums, sem="relaxed")
