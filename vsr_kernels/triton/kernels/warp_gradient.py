"""Gradients of the warp by flow and by x, the same in every run.

Plan. Programs take pixels and walk through channels as in the forward.

By flow: each pixel's four dot products of the incoming gradient with the corners, summed over the channels in one
program.

By x: a scatter. The order in which programs add must not matter, so they add integers: the largest finite gradient of
each image is found first, contributions are multiplied by a power of two that leaves room for as many of the largest as
there are pixels, and added as 64-bit integers by atomics (exact to 2^-38 of the largest up to 2^24 pixels). One that
is infinite or NaN sets a bit of its element instead. The last kernel turns sums and bits into elements. No sort, no
lists of pixels, no pass whose size depends on the flow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .warp import inside, output_pixels, sample


@triton.jit
def power(exponent):
    """2^exponent as two factors, since it may lie beyond the exponents of a float."""
    half = (exponent + 1024) // 2 - 512
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    return first, second


@triton.jit
def scale_exponent(bits, HEADROOM: tl.constexpr):
    """Of the factor that makes integers.

    A magnitude is below 2^(biased exponent - 126); the sum of 2^HEADROOM of them, times this factor, is below 2^62.
    """
    return 62 + 126 - HEADROOM - (bits >> 23)


@triton.jit
def flow_gradient_kernel(
    grad,  # (N, C, H, W), any strides
    x,  # (N, C, H, W), any strides
    flow,  # (N, 2, H, W), any strides
    grad_flow,  # (N, 2, H, W)
    pixels,  # H W
    C,
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
    f_n,
    f_c,
    f_h,
    f_w,
    BORDER: tl.constexpr,
    WIDE: tl.constexpr,  # offsets within an image need 64 bits
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image, pixel, row, col, exists = output_pixels(pixels, W, BLOCK_P)
    left, top, fx, fy, flat_x, flat_y = sample(flow, image, row, col, exists, H, W, f_n, f_c, f_h, f_w, False, BORDER)
    channel = tl.arange(0, BLOCK_C)
    left_in, right_in, top_in, low_in = inside(left, top, exists, H, W)
    if WIDE:
        row, col = row.to(tl.int64), col.to(tl.int64)
        left, top, channel = left.to(tl.int64), top.to(tl.int64), channel.to(tl.int64)
    corner = x + image * x_n + (top * x_h + left * x_w)[:, None]
    incoming = grad + image * g_n + (row * g_h + col * g_w)[:, None]
    a = tl.zeros((BLOCK_P,), tl.float32)
    b = tl.zeros((BLOCK_P,), tl.float32)
    d = tl.zeros((BLOCK_P,), tl.float32)
    e = tl.zeros((BLOCK_P,), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + channel
        some = (c < C)[None, :]
        g = tl.load(incoming + (c * g_c)[None, :], mask=exists[:, None] & some, other=0.0).to(tl.float32)
        from_c = corner + (c * x_c)[None, :]
        a += tl.sum(g * tl.load(from_c, mask=(left_in & top_in)[:, None] & some, other=0.0).to(tl.float32), 1)
        b += tl.sum(g * tl.load(from_c + x_w, mask=(right_in & top_in)[:, None] & some, other=0.0).to(tl.float32), 1)
        d += tl.sum(g * tl.load(from_c + x_h, mask=(left_in & low_in)[:, None] & some, other=0.0).to(tl.float32), 1)
        e += tl.sum(
            g * tl.load(from_c + x_h + x_w, mask=(right_in & low_in)[:, None] & some, other=0.0).to(tl.float32), 1
        )
    by_x = tl.where(flat_x, 0.0, (1.0 - fy) * (b - a) + fy * (e - d))
    by_y = tl.where(flat_y, 0.0, (1.0 - fx) * (d - a) + fx * (e - b))
    at = grad_flow + image * 2 * pixels + pixel
    tl.store(at, by_x.to(grad_flow.dtype.element_ty), mask=exists)
    tl.store(at + pixels, by_y.to(grad_flow.dtype.element_ty), mask=exists)


@triton.jit
def largest_kernel(
    grad,  # (N, C, H, W), any strides
    largest,  # (N,) int32, zeros: the bits of each image's largest finite magnitude
    pixels,  # H W
    C,
    H,
    W,
    g_n,
    g_c,
    g_h,
    g_w,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image, _, row, col, exists = output_pixels(pixels, W, BLOCK_P)
    incoming = grad + image * g_n + (row.to(tl.int64) * g_h + col.to(tl.int64) * g_w)[:, None]
    found = tl.zeros((BLOCK_P, BLOCK_C), tl.int32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        mask = exists[:, None] & (c < C)[None, :]
        g = tl.load(incoming + (c.to(tl.int64) * g_c)[None, :], mask=mask, other=0.0).to(tl.float32)
        bits = g.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        found = tl.maximum(found, tl.where(bits < 0x7F800000, bits, 0))
    tl.atomic_max(largest + image, tl.max(tl.max(found, 1), 0), sem="relaxed")


@triton.jit
def add_exact(sums, flags, at, value, mask, first, second):
    finite = (value.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < 0x7F800000
    whole = tl.where(finite, value, 0.0) * first * second
    tl.atomic_add(sums + at, whole.to(tl.int64), mask=mask & finite, sem="relaxed")
    kind = tl.where(value != value, 3, tl.where(value > 0, 1, 2))  # +infinity: 1, -infinity: 2, NaN: both
    tl.atomic_or(flags + at // 16, kind << (at % 16 * 2).to(tl.int32), mask=mask & (finite == 0), sem="relaxed")


@triton.jit
def scatter_kernel(
    grad,  # (N, C, H, W), any strides
    flow,  # (N, 2, H, W), any strides
    largest,  # (N,) int32
    sums,  # (N, C, H, W) int64, zeros, any strides
    flags,  # int32, zeros: two bits per element of sums
    pixels,  # H W
    C,
    H,
    W,
    g_n,
    g_c,
    g_h,
    g_w,
    f_n,
    f_c,
    f_h,
    f_w,
    s_n,
    s_c,
    s_h,
    s_w,
    HEADROOM: tl.constexpr,  # logarithm of a bound of the number of pixels
    NEAREST: tl.constexpr,
    BORDER: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image, _, row, col, exists = output_pixels(pixels, W, BLOCK_P)
    left, top, fx, fy, _, _ = sample(flow, image, row, col, exists, H, W, f_n, f_c, f_h, f_w, NEAREST, BORDER)
    left_in, right_in, top_in, low_in = inside(left, top, exists, H, W)
    first, second = power(scale_exponent(tl.load(largest + image), HEADROOM))
    incoming = grad + image * g_n + (row.to(tl.int64) * g_h + col.to(tl.int64) * g_w)[:, None]
    corner = image * s_n + (top.to(tl.int64) * s_h + left.to(tl.int64) * s_w)[:, None]
    gx = 1.0 - fx
    gy = 1.0 - fy
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        some = (c < C)[None, :]
        g = tl.load(incoming + (c.to(tl.int64) * g_c)[None, :], mask=exists[:, None] & some, other=0.0).to(tl.float32)
        at = corner + (c.to(tl.int64) * s_c)[None, :]
        add_exact(sums, flags, at, g * (gy * gx)[:, None], (left_in & top_in)[:, None] & some, first, second)
        if not NEAREST:
            add_exact(sums, flags, at + s_w, g * (gy * fx)[:, None], (right_in & top_in)[:, None] & some, first, second)
            add_exact(sums, flags, at + s_h, g * (fy * gx)[:, None], (left_in & low_in)[:, None] & some, first, second)
            add_exact(
                sums, flags, at + s_h + s_w, g * (fy * fx)[:, None], (right_in & low_in)[:, None] & some, first, second
            )


@triton.jit
def round_kernel(
    sums,  # as scatter_kernel leaves them, in the order of memory
    flags,
    largest,
    grad_x,  # in the same order
    elements,
    per_image,
    HEADROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < elements
    exponent = scale_exponent(tl.load(largest + at // per_image, mask=mask, other=0), HEADROOM)
    first, second = power(-exponent)
    value = tl.load(sums + at, mask=mask, other=0).to(tl.float32) * first * second
    kind = (tl.load(flags + at // 16, mask=mask, other=0) >> (at % 16 * 2).to(tl.int32)) & 3
    value = tl.where(kind == 1, float("inf"), tl.where(kind == 2, float("-inf"), value))
    value = tl.where(kind == 3, float("nan"), value)
    tl.store(grad_x + at, value.to(grad_x.dtype.element_ty), mask=mask)
