"""Pixel shuffle and its inverse: a copy in another order.

Plan. Every element of the output, in the order of its memory, fetches its source: stores are whole lines, and the lines
that loads touch in part are touched again by neighbouring lanes and found in the L1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shuffle_kernel(
    x,  # (N, C, H, W) of the source, any strides
    out,  # dense; channels last if LAST
    elements,
    C,  # of out, as H and W
    H,
    W,
    x_n,
    x_c,
    x_h,
    x_w,
    R: tl.constexpr,
    INVERSE: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,  # offsets need 64 bits
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if WIDE:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    if LAST:
        c = at % C
        col = at // C % W
        row = at // C // W % H
    else:
        col = at % W
        row = at // W % H
        c = at // W // H % C
    image = at // C // W // H
    if INVERSE:
        sub = c % (R * R)
        source = c // (R * R) * x_c + (row * R + sub // R) * x_h + (col * R + sub % R) * x_w
    else:
        source = (c * (R * R) + row % R * R + col % R) * x_c + row // R * x_h + col // R * x_w
    tl.store(out + at, tl.load(x + image * x_n + source, mask=inside), mask=inside)
