"""Pixel shuffle as one would write it in Triton: each element of the output fetches its source."""

# ruff: noqa: N803  (sizes of tensors)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pixel_shuffle(
    x,  # (N, H, W, C)
    out,  # (N, R H, R W, C / R^2)
    H,
    W,
    elements,  # of either
    C: tl.constexpr,
    R: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    colours: tl.constexpr = C // (R * R)
    colour, pixel = at % colours, at // colours
    column, row = pixel % (W * R), pixel // (W * R)  # row counts through the batch
    channel = colour * R * R + row % R * R + column % R
    source = ((row // R) * W + column // R) * C + channel
    inside = at < elements
    tl.store(out + at, tl.load(x + source, mask=inside), mask=inside)
