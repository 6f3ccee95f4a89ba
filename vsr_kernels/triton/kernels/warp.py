"""Backward warp by a flow field.

Plan. A program takes BLOCK_P pixels of the flattened image, works out where they sample, once, and walks through the
channels BLOCK_C at a time: four masked loads, a blend in float32, a store. Channels last, BLOCK_C covers a pixel's
whole line; in planes, BLOCK_P is long and neighbouring lanes load neighbouring pixels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def locate(position, displacement, size, NEAREST: tl.constexpr, BORDER: tl.constexpr):
    """First of two neighbours (it may lie outside), weight of the second, and whether border padding is flat there.

    The displacement is split into whole pixels and a fraction, which is exact, unlike the sum with the position.
    Beyond 1e9 it is as far outside as any other; NaN becomes the lower end.
    """
    d = tl.where(displacement != displacement, -1e9, displacement)
    d = tl.minimum(tl.maximum(d, -1e9), 1e9)
    whole = tl.floor(d)
    f = d - whole
    first = position.to(tl.int32) + whole.to(tl.int32)
    if NEAREST:  # ties go to the even pixel
        first += ((f > 0.5) | ((f == 0.5) & (first % 2 != 0))).to(tl.int32)
        f = f * 0.0
    clipped = first != first
    if BORDER:
        low = (first < 0) | ((first == 0) & (f == 0.0))
        high = first >= size - 1
        clipped = low | high
        first = tl.where(low, 0, tl.where(high, size - 1, first))
        f = tl.where(clipped, 0.0, f)
    return first, f, clipped


@triton.jit
def sample(flow, image, row, col, mask, H, W, f_n, f_c, f_h, f_w, NEAREST: tl.constexpr, BORDER: tl.constexpr):
    """Both axes of :func:`locate` for pixels of the output."""
    at = flow + image * f_n + row.to(tl.int64) * f_h + col.to(tl.int64) * f_w
    dx = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(at + f_c, mask=mask, other=0.0).to(tl.float32)
    left, fx, flat_x = locate(col, dx, W, NEAREST, BORDER)
    top, fy, flat_y = locate(row, dy, H, NEAREST, BORDER)
    return left, top, fx, fy, flat_x, flat_y


@triton.jit
def output_pixels(pixels, W, BLOCK_P: tl.constexpr):
    """This program's image, its pixels by number, row and column, and which of them exist."""
    blocks = tl.cdiv(pixels, BLOCK_P)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    return image, pixel, pixel // W, pixel % W, pixel < pixels


@triton.jit
def inside(left, top, exists, H, W):
    """Which columns and rows of the four corners lie in the image: left, right, top, low."""
    left_in = exists & (left >= 0) & (left < W)
    right_in = exists & (left + 1 >= 0) & (left + 1 < W)
    top_in = (top >= 0) & (top < H)
    low_in = (top + 1 >= 0) & (top + 1 < H)
    return left_in, right_in, top_in, low_in


@triton.jit
def flow_warp_kernel(
    x,  # (N, C, H, W), any strides
    flow,  # (N, 2, H, W), any strides: dx, dy in pixels
    out,  # (N, C, H, W), any strides
    pixels,  # H W
    C,
    H,
    W,
    x_n,
    x_c,
    x_h,
    x_w,
    f_n,
    f_c,
    f_h,
    f_w,
    o_n,
    o_c,
    o_h,
    o_w,
    NEAREST: tl.constexpr,
    BORDER: tl.constexpr,
    WIDE: tl.constexpr,  # offsets within an image need 64 bits
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image, _, row, col, exists = output_pixels(pixels, W, BLOCK_P)
    left, top, fx, fy, _, _ = sample(flow, image, row, col, exists, H, W, f_n, f_c, f_h, f_w, NEAREST, BORDER)
    channel = tl.arange(0, BLOCK_C)
    left_in, right_in, top_in, low_in = inside(left, top, exists, H, W)
    if WIDE:
        row, col = row.to(tl.int64), col.to(tl.int64)
        left, top, channel = left.to(tl.int64), top.to(tl.int64), channel.to(tl.int64)
    corner = x + image * x_n + (top * x_h + left * x_w)[:, None]
    target = out + image * o_n + (row * o_h + col * o_w)[:, None]
    gx = 1.0 - fx
    gy = 1.0 - fy
    for start in range(0, C, BLOCK_C):
        c = start + channel
        some = (c < C)[None, :]
        from_c = corner + (c * x_c)[None, :]
        value = tl.load(from_c, mask=(left_in & top_in)[:, None] & some, other=0.0).to(tl.float32)
        if not NEAREST:
            b = tl.load(from_c + x_w, mask=(right_in & top_in)[:, None] & some, other=0.0).to(tl.float32)
            d = tl.load(from_c + x_h, mask=(left_in & low_in)[:, None] & some, other=0.0).to(tl.float32)
            e = tl.load(from_c + x_h + x_w, mask=(right_in & low_in)[:, None] & some, other=0.0).to(tl.float32)
            value = (
                value * (gy * gx)[:, None] + b * (gy * fx)[:, None] + d * (fy * gx)[:, None] + e * (fy * fx)[:, None]
            )
        tl.store(target + (c * o_c)[None, :], value.to(out.dtype.element_ty), mask=exists[:, None] & some)
