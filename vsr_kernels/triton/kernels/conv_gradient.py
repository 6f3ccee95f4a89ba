"""Gradient of a 3x3 convolution by its weight and bias.

Plan. For each tap a product of two tall matrices, the transposed pixels of x, shifted by the tap, and those of the
incoming gradient. A program takes one tap, BLOCK_I input and BLOCK_O output channels and a share of all pixels, walks
through its share BLOCK_P pixels at a time, and stores its sums in float32. A sum over the shares follows, in a fixed
order: no atomics, so the result is the same in every run. Shares depend on the sizes alone. The program of the first
tap and input block also sums the gradient itself, which is the gradient by the bias.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_gradient_kernel(
    grad,  # (N, C_OUT, H, W), any strides
    x,  # (N, C_x, H, W), any strides
    in_channels,  # (C_IN,) int64: channels of x
    sums,  # (shares, 9, C_IN, C_OUT) float32
    bias_sums,  # (shares, C_OUT) float32
    pixels,  # N H W
    share,  # pixels of a program, a multiple of BLOCK_P
    H,
    W,
    g_n,
    g_c,
    g_h,
    g_w,
    x_n,
    x_c,
    x_h,
    x_w,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    GATHER: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,  # offsets need 64 bits
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    tap = tl.program_id(0) % 9
    block = tl.program_id(0) // 9
    out_blocks: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    dy = tap // 3 - 1
    dx = tap % 3 - 1
    c_in = block // out_blocks * BLOCK_I + tl.arange(0, BLOCK_I)
    c_out = block % out_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    source = c_in
    if GATHER:
        source = tl.load(in_channels + c_in, mask=c_in < C_IN, other=0)
        if not WIDE:
            source = source.to(tl.int32)
    target = c_out
    lane = tl.arange(0, BLOCK_P)
    first = tl.program_id(1) * share
    if WIDE:
        source = source.to(tl.int64)
        target = target.to(tl.int64)
        lane = lane.to(tl.int64)
        first = tl.program_id(1).to(tl.int64) * share
    total = tl.zeros((BLOCK_I, BLOCK_O), tl.float32)
    bias_total = tl.zeros((BLOCK_O,), tl.float32)
    for start in range(0, share, BLOCK_P):
        pixel = first + start + lane
        exists = pixel < pixels
        image = pixel // (H * W)
        row = pixel // W % H
        col = pixel % W
        inside = exists & (row + dy >= 0) & (row + dy < H) & (col + dx >= 0) & (col + dx < W)
        there = image * x_n + (row + dy) * x_h + (col + dx) * x_w
        here = image * g_n + row * g_h + col * g_w
        mask_a = (c_in < C_IN)[:, None] & inside[None, :]
        mask_b = exists[:, None] & (c_out < C_OUT)[None, :]
        a = tl.load(x + there[None, :] + (source * x_c)[:, None], mask=mask_a, other=0.0)
        b = tl.load(grad + here[:, None] + (target * g_c)[None, :], mask=mask_b, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        if BIAS:
            bias_total += tl.sum(b.to(tl.float32), 0)
    slot = (tl.program_id(1).to(tl.int64) * 9 + tap) * C_IN
    mask = (c_in < C_IN)[:, None] & (c_out < C_OUT)[None, :]
    tl.store(sums + (slot + c_in)[:, None] * C_OUT + c_out[None, :], total, mask=mask)
    if BIAS and (tap == 0) & (block // out_blocks == 0):
        to = bias_sums + tl.program_id(1).to(tl.int64) * C_OUT + c_out
        tl.store(to, bias_total, mask=c_out < C_OUT)
