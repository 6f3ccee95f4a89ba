"""3x3 convolution as an implicit matrix product, with everything that follows it.

Plan. A program computes BLOCK_H x BLOCK_W pixels of one image and BLOCK_N output channels: their sums stay in
registers, in float32. Rows of the left-hand matrix are pixels, its columns the 9 C_in values that a pixel sees; the
matrix exists only as addresses. Step by step, BLOCK_K of its columns and the packed weights' rows are copied to shared
memory, by the compiler's pipeline, ahead of the products. A patch of pixels, not a run, since its nine neighbourhoods
overlap most and are then found in the L1.

Two orders of the columns:
- C_in divisible by BLOCK_K, all channels: a step is part of one tap. Addresses are those of the pixels plus a number,
  copies are wide and asynchronous.
- Anything else (three colours, pruned networks, channels that a list names): columns run through taps and channels
  together, so that only the last step is padded; each element has an address and a mask of its own.

Behind the last product: bias, the values before the activation for the backward if asked for, activation, scale,
residual, and the store: shuffled, or to the channels that a list names. Nothing is read back or added by two programs.

The channel blocks of a patch are neighbours in launch order: they read the same pixels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def conv3x3_kernel(
    x,  # (N, C_x, H, W), any strides
    packed,  # (9 C_IN, PADDED), as pack_kernel makes it
    bias,  # (C_OUT,)
    slope,  # (C_OUT,) or (1,), of prelu
    residual,  # as out, any strides
    out,  # (N, R H, R W, C_OUT / R^2), or (N, H, W, C_TOTAL)
    kept,  # (N, R H, R W, C_OUT / R^2): before the activation
    in_channels,  # (C_IN,) int64: channels of x
    out_channels,  # (C_OUT,) int64: channels of out
    magnitude,  # class of the number of pixels, for the autotuner
    H,
    W,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,  # strides of residual
    y_c,
    y_h,
    y_w,
    number,  # slope of leaky_relu
    scale,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    C_TOTAL: tl.constexpr,  # channels of out, times R^2
    PADDED: tl.constexpr,
    R: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ONE_SLOPE: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP: tl.constexpr,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
    PRECISION: tl.constexpr,  # of products of float32
    WIDE: tl.constexpr,  # offsets within an image need 64 bits
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    channel_blocks: tl.constexpr = PADDED // BLOCK_N
    program = tl.program_id(0)
    patch = program // channel_blocks
    across = tl.cdiv(W, BLOCK_W)
    down = tl.cdiv(H, BLOCK_H)
    image = (patch // (across * down)).to(tl.int64)
    pixel = tl.arange(0, BLOCK_H * BLOCK_W)
    row = patch // across % down * BLOCK_H + pixel // BLOCK_W
    col = patch % across * BLOCK_W + pixel % BLOCK_W
    column = program % channel_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    in_image = (row < H) & (col < W)
    if WIDE:
        row = row.to(tl.int64)
        col = col.to(tl.int64)
        k = k.to(tl.int64)
    x += image * x_n
    here = row * x_h + col * x_w

    sums = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_N), tl.float32)
    if C_IN % BLOCK_K == 0 and not GATHER:
        steps: tl.constexpr = C_IN // BLOCK_K
        for step in range(9 * steps):
            dy = step // steps // 3 - 1
            dx = step // steps % 3 - 1
            c = step % steps * BLOCK_K + k
            inside = (row + dy >= 0) & (row + dy < H) & (col + dx >= 0) & (col + dx < W)
            a = tl.load(x + (here + dy * x_h + dx * x_w)[:, None] + (c * x_c)[None, :], mask=inside[:, None], other=0.0)
            b = tl.load(packed + (step * BLOCK_K + tl.arange(0, BLOCK_K))[:, None] * PADDED + column[None, :])
            sums = tl.dot(a, b, sums, input_precision=PRECISION)
    else:
        for step in range((9 * C_IN + BLOCK_K - 1) // BLOCK_K):
            at = step * BLOCK_K + k
            some = at < 9 * C_IN
            dy = at // C_IN // 3 - 1
            dx = at // C_IN % 3 - 1
            c = at % C_IN
            if GATHER:
                c = tl.load(in_channels + c, mask=some, other=0)
                if not WIDE:
                    c = c.to(tl.int32)
            y = row[:, None] + dy[None, :]
            z = col[:, None] + dx[None, :]
            inside = some[None, :] & (y >= 0) & (y < H) & (z >= 0) & (z < W)
            a = tl.load(x + here[:, None] + (dy * x_h + dx * x_w + c * x_c)[None, :], mask=inside, other=0.0)
            b = tl.load(packed + at[:, None] * PADDED + column[None, :], mask=some[:, None], other=0.0)
            sums = tl.dot(a, b, sums, input_precision=PRECISION)

    colours: tl.constexpr = C_OUT // (R * R)
    sub = column // colours
    colour = column % colours
    channel = colour * (R * R) + sub
    exists = column < C_OUT
    mask = in_image[:, None] & exists[None, :]
    if BIAS:
        sums += tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    line = row[:, None] * R + (sub // R)[None, :]
    place = col[:, None] * R + (sub % R)[None, :]
    spot = (line * (W * R) + place) * colours + colour[None, :]
    if KEEP:
        tl.store(kept + image * H * W * C_OUT + spot, sums.to(kept.dtype.element_ty), mask=mask)
    if ACTIVATION == "relu":
        sums = tl.where(sums <= 0, 0.0, sums)
    if ACTIVATION == "leaky_relu":
        sums = tl.where(sums > 0, sums, sums * number)
    if ACTIVATION == "prelu":
        if ONE_SLOPE:
            slopes = tl.load(slope + channel * 0, mask=exists, other=0.0)
        else:
            slopes = tl.load(slope + channel, mask=exists, other=0.0)
        sums = tl.where(sums > 0, sums, sums * slopes.to(tl.float32)[None, :])
    sums *= scale
    if SCATTER:
        colour = tl.load(out_channels + column, mask=exists, other=0)
        if not WIDE:
            colour = colour.to(tl.int32)
        spot = (line * W + place) * C_TOTAL + colour[None, :]
    if RESIDUAL:
        beside = line * y_h + place * y_w + (colour * y_c)[None, :]
        sums += tl.load(residual + image * y_n + beside, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + image * H * W * C_TOTAL + spot, sums.to(out.dtype.element_ty), mask=mask)
