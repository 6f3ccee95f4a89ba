"""Weights in the order in which the convolution reads them.

Plan. A matrix of 9 C_in rows, tap by tap and channels within, and PADDED columns: zeros from C_out on, so that the
convolution loads blocks of it without a mask. Where the output is shuffled, columns are ordered by sub-pixel first and
colour second, so that a sub-pixel's colours lie side by side in the output too. One element per lane; a few hundred
kilobytes at most, which stay in the L2 for the convolution.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pack_kernel(
    weight,  # (C_out, C_in, 3, 3), any strides
    packed,  # (9 C_in, PADDED)
    w_o,
    w_i,
    w_h,
    w_w,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    PADDED: tl.constexpr,
    R: tl.constexpr,
    FLIP: tl.constexpr,  # the taps in reverse: of the gradient by the input
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column, row = at % PADDED, at // PADDED
    tap, c_in = row // C_IN, row % C_IN
    colours: tl.constexpr = C_OUT // (R * R)
    c_out = column % colours * (R * R) + column // colours
    if FLIP:
        tap = 8 - tap
    inside = at < 9 * C_IN * PADDED
    source = c_out.to(tl.int64) * w_o + c_in.to(tl.int64) * w_i + tap // 3 * w_h + tap % 3 * w_w
    value = tl.load(weight + source, mask=inside & (column < C_OUT), other=0.0)
    tl.store(packed + at, value, mask=inside)
